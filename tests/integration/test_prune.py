"""Pruning: what is past use goes, what somebody may still need stays, and the ledger agrees after every batch."""

from __future__ import annotations

import datetime as dt
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
from pytest_django import Settings

from allowance import allowance, ledger, locks, reservations
from allowance.models import Account, Block, LedgerCheck, NeuronList, Reservation
from allowance.models import ReservationState as State
from allowance.oversight.audit import check_ledger
from allowance.types import ReservationNotFound
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing.access import signatures, tokens
from routing.decision import in_force, reliability
from routing.decision.model import Policy
from routing.models import AccessToken, DecisionRecord, IncidentVersion, MinerIncident, RoutedJob, UsedSignature
from routing.types import JobAlreadyOver
from routing.upkeep import pruning
from routing.upkeep.pruning import SLACK
from tests.clock import DAY, NOW, TICK, noon
from tests.factories import job_request
from tests.integration.past import PAST, accept, check, fill, find, finish, jump, reserve, start
from tests.jobs import route, routed
from tests.ledgers import CLASS, FIRST_BLOCK
from tests.rows import decided, declare, mint, report

pytestmark = [pytest.mark.django_db(transaction=True), noon, pytest.mark.usefixtures("ledger_clean_at_the_end")]


@pytest.fixture(autouse=True)
def decisions_kept(nothing_kept: None, settings: Settings) -> None:
    settings.ROUTING_KEEP_DECISIONS_DAYS = 1000  # every pick leaves one; what becomes of them is tried by itself


def prune(now: dt.datetime = NOW, *, batch: int = 100) -> dict[str, int]:
    """Prune, with a look at the ledger after every batch; return how many rows of each kind went, if any did."""
    gone: dict[str, int] = {}
    for kind in pruning.kinds(now, batch):
        expected, rows = kind.count(), 0
        for done in kind.prune():
            assert done.rows <= batch
            assert not done.locked
            assert list(check_ledger()) == []
            rows += done.rows
        assert rows == expected
        gone |= {kind.name: rows} if rows else {}
    return gone


@pytest.mark.parametrize("days", [0, 1, 30])
def test_rows_that_nobody_needs_are_kept_for_their_days(days: int, settings: Settings) -> None:
    for name in ("DECISIONS", "CHECKS", "TOKENS"):
        setattr(settings, f"ROUTING_KEEP_{name}_DAYS", days)
    edge = NOW - max(days * DAY, SLACK)
    for at in (edge - TICK, edge + TICK):
        decided(at=at)
        check(at)
    for expired in (edge - dt.timedelta(seconds=1), edge + dt.timedelta(seconds=1)):
        tokens.issue("gone", ["jobs"], DAY, now=expired - DAY)
    tokens.issue("live", ["jobs"], 90 * DAY, now=edge - DAY)
    tokens.issue("revoked", ["jobs"], 900 * DAY, now=edge - DAY)
    tokens.revoke("revoked", now=edge - TICK)
    assert prune() == {"decisions": 1, "ledger checks": 1, "access tokens": 2}
    assert DecisionRecord.objects.get().at == LedgerCheck.objects.get().at == edge + TICK
    assert sorted(AccessToken.objects.values_list("name", flat=True)) == ["gone", "live"]


@pytest.mark.parametrize("days", [0, 7])
def test_a_decision_outlives_its_candidates(days: int, settings: Settings) -> None:
    settings.ROUTING_KEEP_CANDIDATES_DAYS = days
    edge = NOW - max(days * DAY, SLACK)
    for at in (edge - TICK, edge + TICK):
        decided(at=at, candidates={"columns": [], "rows": [], "excluded": []})
    assert prune() == {"candidates of decisions": 1}
    assert DecisionRecord.objects.get(candidates__isnull=True).at == edge - TICK


def test_the_newest_check_of_the_ledger_stays_however_old() -> None:
    for days in (3, 2, 4):
        check(NOW - days * DAY)
    assert prune() == {"ledger checks": 2}
    assert LedgerCheck.objects.get().at == NOW - 2 * DAY


@pytest.mark.parametrize(("days", "hours"), [(0, 0.0), (0, 24.0), (0, 8784.0), (10, 24.0), (400, 24.0)])
def test_an_incident_stays_as_long_as_it_may_count(
    days: int, hours: float, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROUTING_KEEP_INCIDENTS_DAYS = days
    monkeypatch.setattr(in_force, "policy", lambda: Policy(0, dt.timedelta(hours=hours)))
    edge = min(PAST - dt.timedelta(hours=hours), NOW - days * DAY)
    for at in (edge - TICK, edge, edge + TICK, NOW, NOW + DAY):
        report(at=at)
    assert prune() == {"incidents": 1}
    assert min(MinerIncident.objects.values_list("timestamp", flat=True)) == edge


def test_an_incident_stays_if_the_window_is_made_longer_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        report(at=NOW - 3 * DAY)
    (kind,) = (kind for kind in pruning.kinds(NOW, 1) if kind.name == "incidents")
    batches = kind.prune()
    assert next(batches).rows == 1
    monkeypatch.setattr(in_force, "policy", lambda: Policy(0, 3 * DAY))
    assert not any(batch.rows for batch in batches)
    assert MinerIncident.objects.count() == 2


def test_routers_count_anew_once_incidents_are_gone() -> None:
    """One that looked further back than the window, to ask what if, would else go on counting what is gone."""
    report(at=NOW - 9 * DAY)
    report(at=NOW)

    def counted() -> dict[str, int]:
        version = IncidentVersion.objects.get().version
        return reliability.incident_counts(CLASS, NOW, 10 * DAY, version=version)

    assert counted() == {"anna": 2}
    assert prune() == {"incidents": 1}
    assert counted() == {"anna": 1}


OVER, VALID = PAST - TICK, PAST


@pytest.mark.parametrize(
    ("started", "accepted", "finished", "gone"),
    [
        (OVER, None, None, {"started"}),
        (VALID, None, None, set()),
        (None, OVER, None, {"accepted"}),
        (None, VALID, None, set()),
        (None, None, OVER, {"finished"}),
        (None, None, VALID, set()),
        (OVER, OVER, OVER, {"started", "accepted", "finished"}),
        (OVER, VALID, OVER, set()),
        (VALID, OVER, OVER, {"accepted"}),
        (OVER, OVER, VALID, {"started", "accepted"}),
        (NOW + 300 * DAY, None, OVER, set()),
    ],
)
def test_receipts_go_once_nobody_can_take_their_job_for_ongoing(
    started: dt.datetime | None, accepted: dt.datetime | None, finished: dt.datetime | None, gone: set[str]
) -> None:
    for record, when in ((start, started), (accept, accepted), (finish, finished)):
        if when:
            record(when, UUID(int=1))
    assert prune() == {f"{kind} receipts": 1 for kind in gone}


def test_receipts_are_kept_for_their_days(settings: Settings) -> None:
    settings.ROUTING_KEEP_RECEIPTS_DAYS = 90
    for i, when in enumerate((NOW - 90 * DAY - TICK, NOW - 90 * DAY)):
        for record in (start, accept, finish):
            record(when, UUID(int=i))
    assert prune() == {"started receipts": 1, "accepted receipts": 1, "finished receipts": 1}
    for table in (JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt):
        assert table._default_manager.get().job_uuid == UUID(int=1)


def test_a_finished_receipt_stays_while_a_reservation_of_its_job_is_held() -> None:
    fill("anna")
    pk = reserve(NOW, job=UUID(int=1))
    reserve(PAST - 2 * DAY, job=UUID(int=2))
    for job in (1, 2):
        finish(PAST - DAY, UUID(int=job))
    assert prune()["finished receipts"] == 1
    assert JobFinishedReceipt.objects.get().job_uuid == UUID(int=1)
    reservations.spend(pk, now=NOW)
    assert "finished receipts" in prune()


def test_a_finished_receipt_stays_while_its_job_is_known_so_that_it_is_not_routed_again(settings: Settings) -> None:
    settings.ROUTING_KEEP_JOBS_DAYS = 2
    settings.ROUTING_DECISIONS_SAMPLE = 0
    fill("anna")
    request = job_request()
    offer = routed(request, now=NOW - DAY)
    reservations.release(offer.route.allowance_reservation_id or 0, now=NOW - DAY)
    finish(NOW - DAY, offer.uuid)
    assert prune() == {}
    with pytest.raises(JobAlreadyOver):
        route(request)
    assert prune(NOW + 2 * DAY) == {"routed jobs": 1, "finished receipts": 1, "reservations": 1}


@pytest.mark.parametrize("end", [None, reservations.spend, reservations.release])
def test_a_job_stays_until_the_time_is_over_that_was_reserved_for_it(end: Any) -> None:
    fill("anna")
    offer = routed(job_request(), now=NOW)
    assert offer.expires_at
    if end:
        end(offer.route.allowance_reservation_id, now=NOW)
    assert prune(offer.expires_at + SLACK - TICK) == ({} if end else {"expired reservations": 1})
    assert prune(offer.expires_at + SLACK)["routed jobs"] == 1


def test_a_job_stays_while_a_receipt_says_that_it_runs() -> None:
    """It was paid for at once, so nothing is held, and that is all that keeps it from being routed once more."""
    fill("anna")
    for record in (start, accept):
        request = job_request()
        offer = routed(request, now=NOW - 2 * DAY)
        record(PAST, offer.uuid)
        reservations.spend(offer.route.allowance_reservation_id or 0, now=NOW - 2 * DAY)
        assert "routed jobs" not in prune()
        with pytest.raises(JobAlreadyOver):
            route(request)
        assert prune(NOW + TICK)["routed jobs"] == 1


def test_jobs_are_kept_for_their_days_and_fixed_ones_are_jobs_too(settings: Settings) -> None:
    settings.ROUTING_KEEP_JOBS_DAYS = 30
    for at in (NOW - 30 * DAY, NOW - 30 * DAY + TICK):
        routed(job_request(on_trusted_miner=True), now=at)
    assert prune() == {"routed jobs": 1}
    settings.ROUTING_KEEP_JOBS_DAYS = 0
    assert prune(NOW - 30 * DAY + SLACK) == {}
    assert prune(NOW - 30 * DAY + SLACK + TICK) == {"routed jobs": 1}


def test_a_job_that_is_routed_again_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at its row and the statement that deletes it, somebody asks for the job again."""
    fill("anna")
    request = job_request()
    routed(request, now=NOW - 2 * DAY)
    (kind,) = (kind for kind in pruning.kinds(NOW, 10) if kind.name == "routed jobs")
    monkeypatch.setattr("allowance.oversight.pruning.bound_waits", lambda _: routed(request, now=NOW))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("routing.decision.book.ledger_transaction", lambda durable: locks.ledger_transaction())
        assert [batch.rows for batch in kind.prune()] == [0]
    assert RoutedJob.objects.get().routed_at == NOW


@pytest.mark.parametrize(("days", "max_age"), [(0, 300.0), (0, 86_400.0), (2, 300.0)])
def test_a_signature_stays_until_its_time_has_passed_twice_over(days: int, max_age: float, settings: Settings) -> None:
    settings.ROUTING_KEEP_JOBS_DAYS, settings.ROUTING_SIGNATURE_MAX_AGE = days, max_age
    edge = signatures.to_unix_ns(min(NOW - days * DAY, PAST - 2 * dt.timedelta(seconds=max_age)))
    for at in (edge - 1, edge, edge + 1):
        UsedSignature.objects.create(signatory="facilitator", signed_at_ns=at, job_uuid=uuid4())
    assert prune() == {"used signatures": 1}
    assert min(UsedSignature.objects.values_list("signed_at_ns", flat=True)) == edge


@pytest.mark.parametrize("age", [TICK, DAY, 300 * DAY])
def test_every_hold_that_lapsed_is_tidied_whatever_its_age(age: dt.timedelta, settings: Settings) -> None:
    settings.ROUTING_KEEP_RESERVATIONS_DAYS = 1000
    fill("anna", "bert")
    hold = dt.timedelta(seconds=106)
    for miner in ("anna", "bert"):
        reserve(NOW - hold - age + TICK, miner)
    held = reserve(NOW, "bert")  # which tidies bert's other hold
    assert prune() == {"expired reservations": 1}
    assert dict(Reservation.objects.values_list("pk", "state")).pop(held) == State.HELD
    assert set(Reservation.objects.exclude(pk=held).values_list("state", flat=True)) == {State.EXPIRED}
    assert not Account.objects.get(miner="anna").held


def test_a_reservation_goes_once_it_has_ended_for_its_days(settings: Settings) -> None:
    settings.ROUTING_KEEP_RESERVATIONS_DAYS = 90
    fill("anna")
    for edge in (NOW - 90 * DAY, NOW - 90 * DAY + TICK):
        reservations.release(reserve(edge - TICK), now=edge)
        reserve(edge - dt.timedelta(seconds=106))
        reservations.spend(reserve(edge - TICK), now=edge)
    assert prune() == {"expired reservations": 1, "reservations": 2}
    jump()
    assert prune() == {"reservations": 1, "blocks": 20}
    assert {r.ended_at for r in Reservation.objects.all()} == {NOW - 90 * DAY + TICK}


def test_a_spent_reservation_goes_only_once_no_balance_remembers_its_blocks() -> None:
    fill("anna")
    first, last = (reserve(NOW - DAY) for _ in range(2))
    for pk in (first, last):
        reservations.spend(pk, now=NOW - DAY)
    assert Reservation.objects.get(pk=last).blocks == [FIRST_BLOCK + 1]
    jump(FIRST_BLOCK + 1 + ledger.KEPT_BLOCKS)
    assert prune(batch=1)["reservations"] == 1
    account = Account.objects.get(miner="anna")
    assert (account.base, account.spent, account.held) == (FIRST_BLOCK + 1, 1, 0)
    assert Reservation.objects.get().pk == last
    jump(FIRST_BLOCK + 2 + ledger.KEPT_BLOCKS, NOW + dt.timedelta(seconds=12))
    assert prune()["reservations"] == 1
    assert Account.objects.get(miner="anna").spent == 0
    with pytest.raises(ReservationNotFound):
        reservations.release(last, now=NOW)


def test_control_a_balance_that_does_not_forget_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    fill("anna")
    reservations.spend(reserve(NOW - DAY), now=NOW - DAY)
    jump()
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "rebase", lambda balance, newest: balance)
        with pytest.raises(AssertionError, match="spent"):
            prune()
    assert list(check_ledger(repair=True)) != []


def test_a_hold_is_never_pruned_and_neither_is_what_a_job_refers_to(settings: Settings) -> None:
    settings.ROUTING_KEEP_JOBS_DAYS = 30
    fill("anna")
    request = job_request(6)
    offer = routed(request, now=NOW - DAY)
    reservations.release(offer.route.allowance_reservation_id or 0, now=NOW - DAY)
    held = reserve(NOW)
    assert prune() == {}
    settings.ROUTING_KEEP_JOBS_DAYS = 0
    assert prune() == {"routed jobs": 1, "reservations": 1}
    assert Reservation.objects.get().pk == held


def test_a_lapsed_hold_that_could_not_be_tidied_is_not_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks are held as long as its row is."""
    fill("anna")
    reserve(NOW - 2 * DAY)
    monkeypatch.setattr("allowance.oversight.pruning.tidy_expired", lambda now: iter(()))
    assert sum(batch.rows for kind in pruning.kinds(NOW, 10) for batch in kind.prune()) == 0
    assert Reservation.objects.get().state == State.HELD


def presence(block: int) -> set[str]:
    """Return who was registered at a block, as far as balances remember it."""
    miners = Account.objects.select_related("miner").values_list("miner__hotkey", "miner__presence")
    return {hotkey for hotkey, steps in miners if ledger.value_at(steps, block)}


def test_blocks_go_that_no_balance_remembers_but_for_the_one_that_says_who_was_registered(settings: Settings) -> None:
    fill("anna", "bert", "carl")
    jump(FIRST_BLOCK + 30, NOW, ["anna", "bert"])
    jump(FIRST_BLOCK + 40)
    jump(FIRST_BLOCK + 50)
    newest = FIRST_BLOCK + 45 + ledger.KEPT_BLOCKS
    jump(newest, NOW + DAY)
    now, before = NOW + 2 * DAY, find()
    settings.ROUTING_KEEP_BLOCKS_DAYS = 2 + 1e-9
    assert prune(now, batch=2) == {"blocks": 20}  # those minted before NOW, but for the last
    settings.ROUTING_KEEP_BLOCKS_DAYS = 0
    assert prune(now, batch=2) == {"blocks": 2, "neuron lists": 1}
    numbers = list(Block.objects.order_by("number").values_list("number", flat=True))
    assert numbers == [FIRST_BLOCK + 40, FIRST_BLOCK + 50, newest]
    oldest = Block.objects.get(pk=FIRST_BLOCK + 40)
    assert oldest.neurons
    assert oldest.neurons.hotkeys == ["anna", "bert"]
    assert NeuronList.objects.count() == 1
    assert presence(newest) == {"anna", "bert"}
    assert find() == before
    assert prune(now) == {}


def without_lists() -> None:
    """Record blocks and a first sync, and never who is registered: then it is who was asked."""
    for i in range(21):
        jump(FIRST_BLOCK + i, NOW - DAY + i * dt.timedelta(seconds=12))
    declare({"anna": 1, "bert": 1}, FIRST_BLOCK)


def test_before_the_first_list_of_neurons_who_was_asked_stays_registered() -> None:
    without_lists()
    jump(FIRST_BLOCK + 10 + ledger.KEPT_BLOCKS)
    assert prune() == {"blocks": 10}
    assert Block.objects.exclude(neurons=None).count() == 0
    assert presence(FIRST_BLOCK + 11) == {"anna", "bert"}
    jump(FIRST_BLOCK + 11 + ledger.KEPT_BLOCKS, NOW, ["bert"])
    assert prune() == {"blocks": 1}
    assert [miner.hotkey_ss58 for miner in allowance().miners()] == ["bert"]


LATE = [-5, 3, 9, 10, 11, 15, 25]


@pytest.mark.parametrize(("late", "hotkeys"), [*product(LATE, [None, [], ["anna"], ["anna", "bert", "zoe"]])])
def test_a_block_that_comes_after_its_neighbours_are_pruned_does_no_harm(late: int, hotkeys: list[str] | None) -> None:
    """It changes who is registered from itself up to the next list, as any late block, and no block that is kept."""
    fill("anna", "bert")
    Block.objects.filter(number=FIRST_BLOCK + 9).delete()
    Block.objects.filter(number__in=[FIRST_BLOCK + 8, FIRST_BLOCK + 15]).delete()
    Block.objects.filter(number=FIRST_BLOCK + 7).update(ns=None)
    Block.objects.filter(number=FIRST_BLOCK + 14).update(ns=None)
    jump(FIRST_BLOCK + 10 + ledger.KEPT_BLOCKS)
    before = find()
    assert prune() == {"blocks": 8}
    at = NOW - 9 * DAY + (late - 21) * dt.timedelta(seconds=12)
    mint(FIRST_BLOCK + late, at, hotkeys=hotkeys)
    assert list(check_ledger()) == []
    if late <= 10:
        assert find() == before
    prune()
    jump(FIRST_BLOCK + 12 + ledger.KEPT_BLOCKS, NOW + dt.timedelta(seconds=12), ["bert"])
    prune()
    assert [miner.hotkey_ss58 for miner in allowance().miners()] == ["bert"]


def test_a_block_out_of_time_is_refused_after_a_prune_too() -> None:
    fill("anna")
    jump()
    assert prune() == {"blocks": 20}
    with pytest.raises(ValueError, match="is later than the time of the recorded block"):
        jump(FIRST_BLOCK, NOW + DAY)
    assert Block.objects.count() == 2
