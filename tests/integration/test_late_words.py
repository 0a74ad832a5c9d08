"""Words that come late, early, twice or never: docs/late-words.md has the result of each, and is held to it here."""

from __future__ import annotations

from pathlib import Path

import pytest
from time_machine import TimeMachineFixture

from allowance.oversight.audit import check_ledger
from allowance.types import AllowanceException, ReservationException, ReservationExpired
from routing.types import JobRoutingException
from tests.clock import noon
from tests.factories import stored
from tests.integration.late_evidence import BLOCKS, COLLATERAL, INCIDENTS, MANIFESTS, RECEIPTS
from tests.integration.late_words import RESERVATIONS, Table, World

DOCUMENT = Path(__file__).parents[2] / "docs" / "late-words.md"
TABLES = {
    "Reservations": RESERVATIONS,
    "Receipts": RECEIPTS,
    "Blocks": BLOCKS,
    "Manifests": MANIFESTS,
    "Collateral": COLLATERAL,
    "Incidents": INCIDENTS,
}
AS_IT_STANDS = "as it stands"
NO_CHANGE = "no change"

Cells = dict[tuple[str, str], str]


def read_table(heading: str) -> Cells:
    """Return the cells, by (event, state), of the first table below a heading of the document."""
    _, _, section = DOCUMENT.read_text().partition(f"\n## {heading}\n")
    lines = section.partition("\n## ")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    return {
        (row[0], state): cell.replace("`", "") for row in rows for state, cell in zip(head[1:], row[1:], strict=True)
    }


CELLS = {heading: read_table(heading) for heading in TABLES}


def outcome(table: Table, event: str, world: World) -> str:
    """Return what an event does, in the document's words."""
    before, rows = table.look(world), stored()
    if event == AS_IT_STANDS:
        return ", ".join(f"{name} {value}" for name, value in before.items())
    words, refusal = [], None
    try:
        table.events[event](world)
    except (ValueError, AllowanceException, JobRoutingException) as error:
        refusal = error
    if refusal is not None:
        noticed = isinstance(refusal, ReservationExpired)  # its row then says so, which is the only exception
        assert noticed or stored() == rows, "a refusal leaves something behind"
        words.append(type(refusal).__name__)
    if isinstance(refusal, ReservationException):
        assert str(world.reservation) in str(refusal)
    if table.says_stored and stored() != rows:
        words.append("stored")
    words += [f"{name} {value}" for name, value in table.look(world).items() if before[name] != value]
    return ", ".join(words) or NO_CHANGE


@pytest.mark.parametrize("heading", TABLES)
def test_the_document_has_a_cell_for_every_event_in_every_state(heading: str) -> None:
    table = TABLES[heading]
    events = [AS_IT_STANDS, *table.events]
    assert list(CELLS[heading]) == [(event, state) for event in events for state in table.states]


@noon
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("heading", "event", "state"),
    [pytest.param(h, *cell, id=f"{h}-{'-'.join(cell)}") for h, cells in CELLS.items() for cell in cells],
)
def test_the_document_tells_what_an_event_does(
    heading: str, event: str, state: str, time_machine: TimeMachineFixture
) -> None:
    table = TABLES[heading]
    world = World(time_machine)
    table.states[state](world)
    assert outcome(table, event, world) == CELLS[heading][event, state]
    assert list(check_ledger()) == []
