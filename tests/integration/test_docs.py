"""Our pages for programmers: what they show is run, and what they list is what there is."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import time_machine
from channels.testing import WebsocketCommunicator
from constance import config
from django.conf import settings
from django.db import OperationalError

from allowance import allowance
from allowance.types import ExecutorClass, LockTimeout
from routing.access import admission, tokens
from routing.access.admission import Visitor
from routing.conf import conf
from routing.decision.model import Gate
from routing.sockets import answers, base, jobs
from routing.sockets.messages import (
    INCOMING_MODELS,
    OUTGOING_MODELS,
    QUESTIONS,
    Acknowledged,
    Finished,
    MinerAddress,
    Reason,
    Refused,
    Rejected,
    Retry,
    Routed,
)
from tests.clock import HOUR, NOW, SECOND
from tests.factories import job_request, raising, run_command
from tests.jobs import ME, note, of, retried, routed
from tests.ledgers import fill_ledger
from tests.sockets import JSON, PATIENCE, answer, following, whole_application

LIMITS = tuple(
    f"ROUTING_{name}" for name in ("SOCKET_IN", "SOCKET_MESSAGES", "SOCKET_SEND", "SOCKET_RECHECK", "CLIENT")
)
DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = DOCS / "messages.schema.json"
SOCKET = (DOCS / "socket.md").read_text()
README = (DOCS.parent / "README.md").read_text()

MINERS = ("stable_miner_038", "stable_miner_058")
MODELS = {model.model_fields["type"].default: model for model in (*INCOMING_MODELS, *OUTGOING_MODELS)}


def section(heading: str) -> str:
    """Return what socket.md has below a heading, down to the next."""
    _, found, rest = SOCKET.partition(f"\n{heading}\n")
    assert found, heading
    return rest.partition("\n#")[0]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def table(heading: str) -> dict[str, list[str]]:
    """Return the first table below a heading: the other cells of each row by its first."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    _, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first.strip("`"): rest for first, *rest in rows}


def test_the_schema_is_what_the_command_prints() -> None:
    ended = run_command("message_schema")
    assert ended.code == 0
    assert ended.out == SCHEMA.read_text(), "rewrite it: manage.py message_schema > docs/messages.schema.json"


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = {f"#{heading.lower().replace(' ', '-')}" for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    links = {link for link in re.findall(r"\]\(([^)]*)\)", text) if not link.startswith("https:")}
    assert {link for link in links - headings if not (page.parent / link).is_file()} == set()


def test_every_message_has_its_section() -> None:
    assert re.findall(r"^### `(.*)`$", SOCKET, re.MULTILINE) == list(MODELS)


@pytest.mark.parametrize("kind", MODELS)
def test_a_table_names_the_fields_of_its_message(kind: str) -> None:
    fields, rows = MODELS[kind].model_fields, table(f"### `{kind}`")
    assert set(rows) == set(fields)
    if MODELS[kind] in INCOMING_MODELS:
        defaults = {name: json.loads(cell.strip("`")) for name, (cell, _) in rows.items() if cell}
        assert defaults == {name: field.default for name, field in fields.items() if not field.is_required()}


def test_what_is_listed_in_a_cell_is_all_there_is() -> None:
    def named(kind: str, field: str) -> list[str]:
        return re.findall(r"`([^`]*)`", table(f"### `{kind}`")[field][-1])

    assert named("job.new", "executor_class") == list(ExecutorClass)
    assert named("job.routed", "miner") == list(MinerAddress.model_fields)
    assert named("job.rejected", "counts") == list(Gate)


def test_the_limits_are_those_in_force() -> None:
    limits = {name: setting.default for name, setting in conf.table.items() if name.startswith(LIMITS)}
    assert {name: float(default) for name, (default, _) in table("## Limits").items()} == limits


def test_the_codes_are_those_that_sockets_are_closed_with() -> None:
    ours = {admission.UNKNOWN, admission.NOT_PERMITTED, admission.TOO_MANY, base.TOO_SLOW, base.INTERNAL_ERROR}
    the_servers = {1009}
    assert {int(code) for code in table("## Who may connect")} == ours | the_servers


def transcript(block: str) -> list[tuple[str, JSON]]:
    """Return the messages of a block, each with > if it is sent and < if it is an answer."""
    lines = re.split(r"\n(?=[<>])", block.strip())
    return [(line[0], json.loads(line[1:])) for line in lines]


class Conversation:
    """What socket.md shows, held for real. Reservations have other ids here, each the same all the way through."""

    def __init__(self) -> None:
        self.ids: dict[int | None, int | None] = {None: None}

    async def hold(self, communicator: WebsocketCommunicator, block: str) -> None:
        for direction, message in transcript(block):
            if direction == ">":
                await communicator.send_json_to(self.meant(message))
            else:
                said = await answer(communicator)
                if "allowance_reservation_id" in message:
                    self.ids.setdefault(message["allowance_reservation_id"], said["allowance_reservation_id"])
                assert said == self.meant(message)
        assert len(set(self.ids.values())) == len(self.ids)

    def meant(self, message: JSON) -> JSON:
        if "allowance_reservation_id" in message:
            return {**message, "allowance_reservation_id": self.ids[message["allowance_reservation_id"]]}
        return message


@pytest.fixture
def noon(ledger_clean_at_the_end: None) -> Iterator[time_machine.Traveller]:
    """The time of all that is shown; the newest block is 8 s old."""
    with time_machine.travel(NOW + 4 * SECOND, tick=False) as clock:
        fill_ledger(*MINERS)
        clock.move_to(NOW, tick=False)
        yield clock


@pytest.fixture
def token(noon: object) -> str:
    return tokens.issue("a program", [tokens.Scope.JOBS, tokens.Scope.EVENTS], HOUR)[1]


@asynccontextmanager
async def connected(path: str, token: str) -> AsyncIterator[WebsocketCommunicator]:
    """Connect as a browser does."""
    async with whole_application((b"origin", b"http://localhost"), path=path) as communicator:
        cast(JSON, communicator.scope)["subprotocols"] = ["access_token", token]
        async with following() if path == "/ws/events/" else nullcontext():
            assert await communicator.connect(PATIENCE) == (True, "access_token")
        yield communicator


async def test_a_job_lives_as_it_is_shown_and_others_hear_of_it(token: str) -> None:
    life, heard = blocks(section("## The life of a job"), "text")
    conversation = Conversation()
    async with connected("/ws/events/", token) as watching:
        async with connected("/ws/jobs/", token) as communicator:
            await conversation.hold(communicator, life)
        await conversation.hold(watching, heard)
        assert await watching.receive_nothing(0.05)


@pytest.mark.parametrize(
    "page",
    [section("## A miner that rejects a job"), section("## A refusal"), README],
    ids=["a miner that rejects a job", "a refusal", "the README's"],
)
async def test_another_end_is_as_it_is_shown(page: str, token: str) -> None:
    (block,) = blocks(page, "text")
    async with connected("/ws/jobs/", token) as communicator:
        await Conversation().hold(communicator, block)


def raised(error: Exception) -> Callable[[pytest.MonkeyPatch], JSON]:
    """Return the case in which looking for a route ends with an error."""

    def case(monkeypatch: pytest.MonkeyPatch) -> JSON:
        monkeypatch.setattr(jobs, "route", raising(error))
        return asked()

    return case


def asked(seconds: int = 30, **fields: Any) -> JSON:
    """Return the answer to a job."""
    return told(answers.to_question(job_request(seconds, **fields), ME).message)


def told(message: Routed | Rejected | Acknowledged | Refused) -> JSON:
    return message.model_dump(mode="json")


def unsigned(monkeypatch: pytest.MonkeyPatch) -> JSON:
    monkeypatch.setattr(
        settings, "ROUTING_FACILITATOR_PUBLIC_KEYS", ["5FUJCuGtQPonu8B9JKH4BwsKzEdtyBTpyvbBk2beNZ4iX8sk"]
    )
    return asked()


def without_collateral(_: object) -> JSON:
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 1
    return asked()


def busy(_: object) -> JSON:
    return [asked() for _ in range(5)][-1]  # on two miners with two executors each


def over(_: object) -> JSON:
    request = job_request()
    note(of(routed(request), Finished))
    return told(answers.to_question(request, ME).message)


def unknown(_: object) -> JSON:
    return told(answers.to_question(Retry(uuid=uuid4(), allowance_reservation_id=1), ME).message)


def taken(_: object) -> JSON:
    offer = routed(job_request())
    return told(answers.to_question(job_request(uuid=str(offer.uuid)), Visitor("another")).message)


def given_up(_: object) -> JSON:
    first = routed(job_request())
    retried(first)
    return told(answers.to_statement(of(first, Finished), ME))


REFUSED: dict[Reason, Callable[[pytest.MonkeyPatch], JSON]] = {
    Reason.BAD_MESSAGE: lambda _: asked(0),
    Reason.BAD_SIGNATURE: unsigned,
    Reason.JOB_TOO_LONG: lambda _: asked(3601),
    Reason.NOT_ENOUGH_ALLOWANCE: lambda _: asked(900),
    Reason.NOT_ENOUGH_COLLATERAL: without_collateral,
    Reason.ALL_MINERS_BUSY: busy,
    Reason.LOCK_TIMEOUT: raised(LockTimeout()),
    Reason.JOB_ALREADY_OVER: over,
    Reason.JOB_TAKEN: taken,
    Reason.JOB_UNKNOWN: unknown,
    Reason.ROUTE_RELEASED: given_up,
    Reason.OVERLOADED: lambda _: told(answers.overloaded(job_request())),
    Reason.RATE_LIMITED: lambda _: told(answers.RATE_LIMITED),
    Reason.REFUSED_TOO_OFTEN: lambda _: told(answers.refused_too_often(job_request(), 40.0)),
    Reason.UNAVAILABLE: raised(OperationalError()),
}


def test_every_reason_is_listed() -> None:
    assert list(table("## Reasons")) == list(REFUSED) == list(Reason)


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize("reason", REFUSED)
def test_a_reason_says_when_to_ask_again_as_it_is_listed(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = REFUSED[reason](monkeypatch)
    assert refused["reason"] == reason
    after, listed = refused["retry_after_seconds"], table("## Reasons")[reason][-1]
    if listed == "never":
        assert after is None
    else:
        assert after == 1 if listed == "1 s" else after > 1


ENDS: dict[str, Callable[[int], None]] = {
    "held": lambda _: None,
    "spent": lambda reservation: allowance().spend_allowance(reservation),
    "released": lambda reservation: allowance().undo_allowance_reservation(reservation),
    "expired": lambda _: None,
}
WORDS = [kind for kind, model in MODELS.items() if model in INCOMING_MODELS and kind not in QUESTIONS]


def test_every_word_is_listed() -> None:
    assert list(table("## Late statements")) == WORDS


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("word", WORDS)
def test_a_late_word_is_acknowledged_as_it_is_listed(word: str, end: str, noon: time_machine.Traveller) -> None:
    offer = routed(job_request())
    ENDS[end](offer.route.allowance_reservation_id or 0)
    if end == "expired":
        noon.shift(131)
    acknowledged = answers.to_statement(of(offer, MODELS[word]), ME)
    assert isinstance(acknowledged, Acknowledged)
    assert acknowledged.reservation == table("## Late statements")[word][list(ENDS).index(end)]
