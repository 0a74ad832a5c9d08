"""A block from the future is refused, and blocks that are wrong can be forgotten."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from allowance import allowance
from allowance.models import Account, Block, ManifestSync, Miner, Reservation, ReservationState
from allowance.oversight import forgetting
from allowance.types import BadInputError, BlocksInUse
from routing import routing
from routing.decision.model import Gate
from routing.decision.pipeline import decide
from routing.watch.health import read_ledger
from routing.watch.status import status
from routing.watch.views import exposition
from tests.books import LateBook
from tests.clock import MINUTE, NOW, SECOND, noon
from tests.factories import job_request, run_command, stored
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.rows import AXON, declare, hold, mint

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), noon, pytest.mark.miners("anna", "bert")]

ROGUE = NEWEST + 100_000


def hold_six(start: int) -> int:
    """Hold six seconds of anna's from a block on."""
    return hold("anna", 6, start)[0]


@pytest.mark.parametrize("ahead", [15 * MINUTE + dt.timedelta(microseconds=1), dt.timedelta(days=355_000)])
def test_a_block_from_the_future_is_refused(ahead: dt.timedelta) -> None:
    before = stored()
    with pytest.raises(
        BadInputError, match=rf"Block {NEWEST + 1} at .* more than 15 minutes ahead of the site's clock"
    ):
        mint(NEWEST + 1, NOW + ahead)
    assert stored() == before


def test_a_clock_may_be_a_little_behind() -> None:
    mint(NEWEST + 1, NOW + 15 * MINUTE)
    assert allowance().get_current_block() == NEWEST + 1


def test_an_error_about_order_names_the_stored_block_that_is_in_the_way() -> None:
    mint(ROGUE, NOW)  # a wrong number: all that comes from now on has a later time
    advice = rf"which is later than the time of the recorded block {ROGUE}, .* forget_blocks --from {ROGUE}\."
    with pytest.raises(BadInputError, match=advice):
        mint(NEWEST + 1, NOW + SECOND)
    with pytest.raises(BadInputError, match=rf"which is earlier than the time of the recorded block {ROGUE}, "):
        mint(ROGUE + 1, NOW - MINUTE)
    declare({"anna": 2}, ROGUE)
    advice = rf"older than the recorded manifests of block {ROGUE}\..* forget_blocks --from {ROGUE}\."
    with pytest.raises(BadInputError, match=advice):
        declare({"anna": 2})


def test_after_a_wrong_block_is_taken_back_the_chain_goes_on() -> None:
    before = stored()
    mint(ROGUE, NOW, hotkeys=["nina"])
    drop = {"anna": {CLASS: 1}, "nina": {CLASS: 1}}
    axons = {"anna": {**AXON, "port": 1}, "nina": AXON, "bert": AXON}
    allowance().record_manifests(block=ROGUE, axons=axons, executors=drop)
    assert {miner.hotkey_ss58 for miner in allowance().miners()} == {"nina"}
    ended = run_command("forget_blocks", "--from", ROGUE)
    assert ended == (0, f"Forgot 1 blocks and 1 manifest syncs from block {ROGUE} on.\n", "")
    after = stored()
    for unused in ("allowance.NeuronList",):
        before.pop(unused), after.pop(unused)
    assert after == before
    mint(NEWEST + 1, NOW + SECOND)
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "anna"


def test_nothing_to_forget_is_no_error() -> None:
    before = stored()
    assert run_command("forget_blocks", "--from", NEWEST + 1).code == 0
    assert stored() == before


def test_the_block_before_earns_nothing_until_the_next_one_comes_again() -> None:
    assert Block.objects.get(pk=NEWEST - 1).ns is not None
    forgetting.forget_blocks(NEWEST)
    assert Block.objects.get(pk=NEWEST - 1).ns is None
    mint(NEWEST, NOW - 13 * SECOND)
    assert Block.objects.get(pk=NEWEST - 1).ns == 5_500_000_000


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_live_reservation_is_in_the_way_unless_it_may_be_released(form: str) -> None:
    held, earlier = hold_six(NEWEST + 715), hold_six(NEWEST)  # one has late blocks, the other the oldest
    expired = hold_six(NEWEST + 720)
    Reservation.objects.filter(pk=expired).update(created_at=NOW - MINUTE, expires_at=NOW)
    first, before = max(Reservation.objects.get(pk=earlier).blocks) + 1, stored()
    refused = run_command("forget_blocks", "--from", first, "--format", form)
    assert refused.code == 1
    assert f"1 live reservations use blocks from {first} on: {held}. " in refused.err
    assert "--release-held" in refused.err
    assert stored() == before
    ended = run_command("forget_blocks", "--from", first, "--release-held", "--format", form)
    assert ended.code == 0
    if form == "json":
        assert json.loads(refused.out)["forgotten"] is False
        found = json.loads(ended.out)
        assert (found["forgotten"], found["blocks"]) == (True, NEWEST - first + 1)
        assert found["reservations"] == {"held": [held], "expired": [expired], "spent": []}
    else:
        assert "released 1 live reservations" in ended.out
    states = dict(Reservation.objects.values_list("pk", "state"))
    assert states == {held: "released", earlier: "held", expired: "expired"}


def test_what_was_spent_can_t_be_forgotten() -> None:
    spent = hold_six(NEWEST)
    allowance().spend_allowance(spent)
    newest = max(Reservation.objects.get(pk=spent).blocks)
    with pytest.raises(BlocksInUse, match=f"Spent reservations stay. The lowest block to forget from is {newest + 1}"):
        forgetting.forget_blocks(newest, release_held=True)
    forgetting.forget_blocks(newest + 1)


@pytest.mark.parametrize("options", [[], ["--release-held"]])
def test_a_dry_run_changes_nothing_and_says_the_same(options: list[str]) -> None:
    held, before = hold_six(NEWEST), stored()
    ended = run_command("forget_blocks", "--from", FIRST_BLOCK, "--dry-run", *options)
    assert stored() == before
    if options:
        assert ended.code == 0
        assert ended.out == (
            f"Would forget 21 blocks and 1 manifest syncs from block {FIRST_BLOCK} on, "
            "and release 1 live reservations.\n"
        )
    else:
        assert (ended.code, str(held) in ended.err) == (1, True)


@pytest.mark.parametrize("value", [-1, 2**32])
def test_what_is_no_block_number_is_bad_input(value: int) -> None:
    ended = run_command("forget_blocks", "--from", value)
    assert ended.code == 2
    assert "--from: A block number" in ended.err


def test_a_pick_that_read_the_blocks_before_reserves_none_of_them() -> None:
    """It reads them again under the lock: what it had read is gone."""
    late = LateBook()
    forgetting.forget_blocks(FIRST_BLOCK + 3)
    too_much = decide(job_request(60), late, now=timezone.now(), exclude=["bert"])
    assert (too_much.route, too_much.counts) == (None, {Gate.EXCLUDED: 1, Gate.RESERVATION: 1})
    decision = decide(job_request(20), late, now=timezone.now(), exclude=["bert"])
    assert decision.route is not None
    assert decision.route.allowance_blocks == [FIRST_BLOCK, FIRST_BLOCK + 1]


def test_an_ended_reservation_of_what_is_forgotten_stays_and_is_replayed(tmp_path: Any) -> None:
    names = ["anna", "bert", "nina"]
    mint(NEWEST + 1, NOW, hotkeys=names)
    declare(dict.fromkeys(names, 2), NEWEST + 1)
    mint(NEWEST + 2, NOW + SECOND)
    pk, _ = hold("nina", 0.5, NEWEST + 2)
    forgetting.forget_blocks(NEWEST + 1, release_held=True)
    assert Reservation.objects.get(pk=pk).state == ReservationState.RELEASED
    run_command("export_journal", tmp_path / "journal.jsonl")
    before, manifests = stored(), allowance().get_manifests()
    for model in (Reservation, Account, Miner, Block, ManifestSync):
        model._default_manager.all().delete()
    assert run_command("replay_journal", tmp_path / "journal.jsonl").code == 0
    assert allowance().get_manifests() == manifests
    after = stored()
    for name in ("allowance.Reservation", "allowance.Block"):  # the ids of accounts are others
        assert [row[2:] for row in after[name]] == [row[2:] for row in before[name]]
    assert Reservation.objects.get().pk == pk


def test_no_router_is_ready_whose_newest_block_is_ahead_of_the_clock(client: Client) -> None:
    assert client.get("/readyz").status_code == 200
    mint(NEWEST + 1, NOW + SECOND)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["newest_block_age_seconds"]) == (503, -1)
    finding = next(f for f in status(NOW).findings if f.name == "block_age")
    assert (finding.level.value, finding.value) == ("critical", -1)
    families = text_string_to_metric_families(exposition(read_ledger()).decode())
    assert [f.samples[0].value for f in families if f.name == "router_newest_block_age_seconds"] == [-1]
