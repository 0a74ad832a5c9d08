"""What callers say of their jobs: recorded once, however late, and the reservation ended once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from allowance import allowance
from allowance.models import Reservation
from allowance.types import BadInputError
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing import routing, service
from routing.access.admission import Visitor
from routing.models import MinerIncident
from routing.sockets import jobs, statements
from routing.sockets.jobs import Offer
from routing.sockets.messages import Accepted, Failed, Finished, RejectedByMiner, Retry, Started
from routing.types import JobAlreadyOver, JobUnknown, MinerIncidentType, RouteReleased
from tests.clock import DAY, SECOND
from tests.factories import job_request
from tests.jobs import HOLD, MINERS, VALIDATOR, note, of, retried, retry, route, routed, states
from tests.ledgers import CLASS
from tests.programs import wait_until
from tests.queries import postgresql
from tests.rows import RECEIPTS

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners(*MINERS)]


def test_a_receipt_keeps_the_miner_busy_and_its_end_pays() -> None:
    offer, now = routed(job_request()), timezone.now()
    assert note(of(offer, Started), now=now) == "held"
    assert note(of(offer, Accepted), now=now) == "held"
    assert note(of(offer, Finished, time_took_us=3_000_000, score_str="0.5"), now=now) == "spent"
    started, accepted = JobStartedReceipt.objects.get(), JobAcceptedReceipt.objects.get()
    finished = JobFinishedReceipt.objects.get()
    for receipt in (started, accepted, finished):
        assert (receipt.job_uuid, receipt.miner_hotkey) == (offer.uuid, offer.route.miner.hotkey_ss58)
        assert (receipt.validator_hotkey, receipt.timestamp) == (VALIDATOR, now)
    assert (started.executor_class, started.ttl, started.is_organic) == (CLASS, 30, True)
    assert (accepted.time_accepted, accepted.ttl) == (now, 30)
    assert (finished.time_started, finished.score_str) == (now - 3 * SECOND, "0.5")
    assert finished.block_numbers == offer.route.allowance_blocks


def test_what_a_message_says_goes_over_what_is_assumed() -> None:
    offer, then = routed(job_request()), timezone.now() - 20 * SECOND
    note(of(offer, Started, timestamp=then, ttl=7))
    note(of(offer, Accepted, timestamp=then, ttl=0, time_accepted=then - SECOND))
    note(of(offer, Finished, timestamp=then, time_started=then - 9 * SECOND))
    assert JobStartedReceipt.objects.values_list("timestamp", "ttl").get() == (then, 7)
    assert JobAcceptedReceipt.objects.values_list("time_accepted", "ttl").get() == (then - SECOND, 0)
    assert JobFinishedReceipt.objects.get().time_started == then - 9 * SECOND


@pytest.mark.parametrize(
    ("message", "incident"),
    [
        ({"kind": Failed}, "MINER_JOB_FAILED"),
        ({"kind": Failed, "incident": MinerIncidentType.MINER_HORDE_FAILED}, "MINER_HORDE_FAILED"),
        ({"kind": RejectedByMiner}, "MINER_JOB_REJECTED"),
    ],
)
def test_a_failure_is_held_against_the_miner_and_releases(message: dict[str, Any], incident: str) -> None:
    offer = routed(job_request())
    assert [note(of(offer, **message)) for _ in range(2)] == ["released"] * 2
    (found,) = MinerIncident.objects.all()
    assert (found.type, found.job_uuid, found.executor_class) == (incident, offer.uuid, CLASS)
    assert found.hotkey_ss58address == offer.route.miner.hotkey_ss58


def test_saying_something_again_changes_nothing() -> None:
    offer, now = routed(job_request()), timezone.now()
    later = now + 50 * SECOND
    for kind in (Started, Accepted, Finished):
        first, again = note(of(offer, kind), now=now), note(of(offer, kind), now=later)
        assert first == again
    for table in RECEIPTS.values():
        assert table._default_manager.get().timestamp == now
    assert Reservation.objects.get().ended_at == now


def test_a_late_word_is_recorded_and_told_what_became_of_the_reservation() -> None:
    now = timezone.now()
    expired, released, spent = (routed(job_request(), now=now) for _ in range(3))
    assert note(of(expired, Finished), now=now + HOLD) == "expired"
    assert note(of(released, Failed), now=now) == "released"
    assert note(of(released, Finished), now=now) == "released"
    assert note(of(spent, Finished), now=now) == "spent"
    assert note(of(spent, Failed), now=now) == "spent"
    assert (JobFinishedReceipt.objects.count(), MinerIncident.objects.count()) == (3, 2)


@pytest.mark.parametrize("kind", [Started, Accepted, Finished])
def test_a_receipt_of_a_miner_that_gave_the_job_up_is_refused_and_the_next_one_s_taken(
    kind: Callable[..., Any],
) -> None:
    first = routed(job_request())
    second = retried(first)
    with pytest.raises(RouteReleased):
        note(of(first, kind))
    assert states()[second.route.miner.hotkey_ss58] == "held"
    note(of(second, kind))
    (told,) = [
        row for table in RECEIPTS.values() for row in table._default_manager.values_list("miner_hotkey", flat=True)
    ]
    assert told == second.route.miner.hotkey_ss58


@pytest.mark.parametrize("end", [Failed, RejectedByMiner, Retry])
def test_a_route_that_ends_while_it_is_about_to_be_told_again_is_not_told(
    end: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = job_request()
    first, tell_again = routed(request), jobs._tell_again

    def end_it_first(*args: Any, **more: Any) -> Offer:
        if end is Retry:
            retry(of(first, end))
        else:
            note(of(first, end))
        monkeypatch.setattr(jobs, "_tell_again", tell_again)
        return tell_again(*args, **more)

    monkeypatch.setattr(jobs, "_tell_again", end_it_first)
    told = routed(request)
    assert told.route.allowance_reservation_id != first.route.allowance_reservation_id
    assert Reservation.objects.get(state="held").pk == told.route.allowance_reservation_id


@pytest.mark.parametrize("by_retry", [True, False])
def test_a_job_that_is_finished_while_it_is_routed_anew_is_over(
    by_retry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = job_request()
    first, pick = routed(request), service.pick
    note(of(first, Failed))

    def finish_first(*args: Any, **how: Any) -> Any:
        note(of(first, Finished))
        return pick(*args, **how)

    monkeypatch.setattr(jobs, "pick", finish_first)
    with pytest.raises(JobAlreadyOver):
        retry(of(first, Retry)) if by_retry else route(request)
    assert states() == {first.route.miner.hotkey_ss58: "released"}


def test_a_late_word_of_one_miner_does_not_end_the_route_to_the_next() -> None:
    first = routed(job_request())
    second = retried(first)
    assert note(of(first, Failed)) == "released"
    assert states()[second.route.miner.hotkey_ss58] == "held"
    assert MinerIncident.objects.get().hotkey_ss58address == first.route.miner.hotkey_ss58


@pytest.mark.parametrize("kind", [Started, Accepted, Finished, Failed, RejectedByMiner])
def test_a_word_about_what_never_was_is_refused_and_nothing_stored(kind: Callable[..., Any]) -> None:
    offer, other = routed(job_request()), routed(job_request())
    for changes in ({"uuid": uuid4()}, {"allowance_reservation_id": None}, {"uuid": other.uuid}):
        with pytest.raises(JobUnknown):
            note(of(offer, kind).model_copy(update=changes))
    assert set(states().values()) == {"held"}
    assert not MinerIncident.objects.exists()
    assert [table._default_manager.count() for table in RECEIPTS.values()] == [0] * 3


@pytest.mark.parametrize("kind", [Started, Accepted, Finished, Failed, RejectedByMiner])
def test_a_word_about_a_fixed_route_is_recorded_too(kind: Callable[..., Any]) -> None:
    offer = routed(job_request(on_trusted_miner=True))
    assert note(of(offer, kind)) is None
    of_receipts = [table._default_manager.values_list("miner_hotkey", "job_uuid") for table in RECEIPTS.values()]
    of_incidents = MinerIncident.objects.values_list("hotkey_ss58address", "job_uuid")
    assert [row for rows in (*of_receipts, of_incidents) for row in rows] == [("0" * 48, offer.uuid)]


def test_a_finish_whose_times_make_no_sense_pays_for_nothing() -> None:
    offer = routed(job_request())
    early = dt.datetime(1970, 1, 2, tzinfo=dt.UTC)
    with pytest.raises(BadInputError, match="time_started"):
        note(of(offer, Finished, timestamp=early, time_took_us=366 * 24 * 3600 * 10**6))
    assert set(states().values()) == {"held"}


def test_a_finish_that_can_not_be_recorded_pays_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = routed(job_request())

    def record(*_: object, **__: object) -> None:
        raise IntegrityError

    with monkeypatch.context() as patch:
        patch.setattr("receipts.service.Receipts.record", record)
        with pytest.raises(IntegrityError):
            note(of(offer, Finished))
    assert set(states().values()) == {"held"}
    assert note(of(offer, Finished)) == "spent"


def test_a_job_picked_in_python_may_be_followed_by_who_may_speak_of_all_jobs() -> None:
    request = job_request()
    decision = service.pick(request)
    assert decision.route
    offer = Offer(UUID(request.uuid), decision.route, None, 0)
    with pytest.raises(JobUnknown):
        note(of(offer, Finished))
    assert statements.note(of(offer, Finished), by=Visitor("operator", all_jobs=True)) == "spent"


@pytest.mark.parametrize("kind", [Started, Accepted])
def test_a_route_that_was_given_up_keeps_no_executor_busy(kind: Callable[..., Any]) -> None:
    """A client could else collect routes that it gave up, start them all, and pay for none."""
    offer = routed(job_request(30))
    note(of(offer, Failed))
    note(of(offer, Started, ttl=130))
    assert note(of(offer, kind, ttl=130)) == "released"
    assert busy_at(timezone.now() + SECOND) == {}


@pytest.mark.parametrize("ended_by", [Failed, RejectedByMiner, Retry])
def test_a_job_that_started_and_was_given_up_keeps_no_executor_busy(ended_by: Callable[..., Any]) -> None:
    """A client could else start jobs, fail them, and keep all executors busy with allowance for one."""
    offer = routed(job_request(30))
    for kind in (Started, Accepted):
        note(of(offer, kind, ttl=60))
    if ended_by is Retry:
        retry(of(offer, Retry))
    else:
        note(of(offer, ended_by))
    later = timezone.now() + SECOND
    assert offer.route.miner.hotkey_ss58 not in busy_at(later)
    assert JobStartedReceipt.objects.get().ttl == JobAcceptedReceipt.objects.get().ttl == 60


@pytest.mark.parametrize("ended_by", [Failed, RejectedByMiner, Retry])
def test_a_start_that_is_noted_beside_the_end_of_its_route_keeps_no_executor_busy(
    ended_by: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route is released after the statement has read it as held."""
    offer, read = routed(job_request(30)), statements.attempt_of

    def read_and_end(*args: Any) -> Any:
        attempt = read(*args)
        monkeypatch.setattr(statements, "attempt_of", read)
        retry(of(offer, Retry)) if ended_by is Retry else note(of(offer, ended_by))
        return attempt

    monkeypatch.setattr(statements, "attempt_of", read_and_end)
    with suppress(RouteReleased):
        note(of(offer, Started, ttl=60))
    assert offer.route.miner.hotkey_ss58 not in busy_at(timezone.now() + SECOND)


@postgresql
def test_the_end_of_a_job_that_this_site_picked_waits_for_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job has no row of its own until a client with all jobs makes a statement about it."""
    request = job_request(30)
    offer = Offer(UUID(request.uuid), routing().pick(request), None, None)
    operator = Visitor("operator", token_id=UUID(int=3), all_jobs=True)
    read, reads = statements.attempt_of, count(1)

    def fail() -> None:
        statements.note(of(offer, Failed), by=operator)
        connection.close()

    failing = Thread(target=fail)

    def read_and_fail(*args: Any) -> Any:
        attempt = read(*args)
        if next(reads) == 2:  # under the lock of the job
            monkeypatch.setattr(statements, "attempt_of", read)
            failing.start()
            wait_until(lambda: not failing.is_alive() or waits_for_lock())
        return attempt

    monkeypatch.setattr(statements, "attempt_of", read_and_fail)
    statements.note(of(offer, Started, ttl=60), by=operator)
    failing.join()
    assert busy_at(timezone.now() + SECOND) == {}


def waits_for_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
        return cursor.fetchone() is not None


def test_a_job_that_is_paid_for_and_fails_keeps_its_executor_busy() -> None:
    offer = routed(job_request(30))
    note(of(offer, Started, ttl=130))
    allowance().spend_allowance(offer.route.allowance_reservation_id or 0)
    assert note(of(offer, Failed)) == "spent"
    assert busy_at(timezone.now() + SECOND) == {offer.route.miner.hotkey_ss58: 1}


@pytest.mark.parametrize(("late", "ttl", "left"), [(0, 130, 130), (100, None, 30), (100, 130, 30), (129, None, 1)])
def test_a_receipt_ends_with_the_time_for_which_its_route_was_held(late: int, ttl: int | None, left: int) -> None:
    """Started at the last moment, or dated ahead, a job is busy no longer than one that started at once."""
    at = timezone.now()
    offer = routed(job_request(30), now=at)
    note(of(offer, Started, ttl=ttl, timestamp=at + late * SECOND), now=at + late * SECOND)
    note(of(offer, Accepted, ttl=ttl, timestamp=at + late * SECOND), now=at + late * SECOND)
    assert JobStartedReceipt.objects.get().ttl == JobAcceptedReceipt.objects.get().ttl == left


def test_a_job_that_starts_days_late_is_on_record_and_keeps_nobody_busy() -> None:
    at = timezone.now()
    offer = routed(job_request(30), now=at - 20 * DAY)
    note(of(offer, Started), now=at)
    assert JobStartedReceipt.objects.get().ttl == 0
    assert busy_at(at + SECOND) == {}


def busy_at(at: dt.datetime) -> dict[str, int]:
    return receipts().get_busy_executor_count(CLASS, at)
