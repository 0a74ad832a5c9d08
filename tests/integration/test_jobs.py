"""A job that came over a socket is routed once, told again, retried, given back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from threading import Barrier, Thread
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from allowance import allowance, reservations
from allowance.models import Reservation
from allowance.types import RESERVATION_IDS, BadInputError, JobTooLong, LockTimeout
from receipts.schemas import JobFinished as JobFinishedSchema
from routing import service
from routing.decision.model import Decision, Gate
from routing.decision.pipeline import decide
from routing.models import RoutedJob
from routing.sockets import jobs
from routing.sockets.jobs import Claim, Offer
from routing.sockets.messages import Failed, Finished, Retry
from routing.types import JobAlreadyOver, JobUnknown
from tests.clock import TICK
from tests.factories import job_request, raising
from tests.jobs import HOLD, MINERS, note, of, retried, retry, route, routed, states
from tests.programs import DEADLINE
from tests.rows import receive
from tests.threads import side_by_side

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners(*MINERS)]


def test_a_job_asked_for_again_while_its_route_is_held_gets_the_same_route() -> None:
    request, now = job_request(), timezone.now()
    first = routed(request, now=now)
    again = routed(request, now=now + HOLD - TICK)
    assert (again.route, again.expires_at) == (first.route, first.expires_at)
    assert Reservation.objects.count() == 1


def test_a_job_asked_for_again_after_its_route_has_lapsed_gets_another() -> None:
    request, now = job_request(), timezone.now()
    first, second = routed(request, now=now), routed(request, now=now + HOLD)
    assert first.route.allowance_reservation_id != second.route.allowance_reservation_id
    assert RoutedJob.objects.get().reservation_id == second.route.allowance_reservation_id


def test_a_job_that_lapsed_may_ask_for_something_else() -> None:
    request, now = job_request(), timezone.now()
    routed(request, now=now)
    routed(request.model_copy(update={"execution_time_limit": 60}), now=now + HOLD)
    assert RoutedJob.objects.get().seconds == 60


def test_a_job_keeps_its_class_also_after_its_route_was_released() -> None:
    """Its receipts count in the first class: a client could keep executors of it busy and pay for another one."""
    first = routed(job_request())
    note(of(first, Failed))
    with pytest.raises(BadInputError, match="Send a different job with another uuid"):
        routed(job_request(uuid=str(first.uuid), executor_class="always_on.test"))


OTHERS = [{"execution_time_limit": 31}, {"executor_class": "always_on.test"}, {"on_trusted_miner": True}]


@pytest.mark.parametrize("change", OTHERS)
def test_another_job_of_the_same_uuid_is_refused(change: dict[str, object]) -> None:
    request = job_request()
    routed(request)
    with pytest.raises(BadInputError, match="Send a different job with another uuid"):
        route(request.model_copy(update=change))
    assert Reservation.objects.count() == 1


def test_a_uuid_is_the_same_however_it_is_written() -> None:
    request = job_request()
    first = routed(request)
    assert routed(request.model_copy(update={"uuid": request.uuid.upper()})).route == first.route


@pytest.mark.parametrize("uuid", ["", "x", "0" * 31, "\n" + "1" * 32])
def test_a_job_without_a_uuid_is_refused_even_on_a_fixed_route(uuid: str) -> None:
    for trusted in (False, True):
        with pytest.raises(BadInputError):
            route(job_request(uuid=uuid, on_trusted_miner=trusted))
    assert RoutedJob.objects.count() == 0


def test_a_job_too_long_leaves_nothing() -> None:
    with pytest.raises(JobTooLong):
        route(job_request(3601))
    assert (RoutedJob.objects.count(), Reservation.objects.count()) == (0, 0)


def test_a_job_that_is_over_is_refused() -> None:
    for end in (Finished, None):
        request = job_request()
        offer = routed(request)
        if end:
            note(of(offer, end))
        else:
            allowance().spend_allowance(offer.route.allowance_reservation_id or 0)
        with pytest.raises(JobAlreadyOver):
            route(request)
        with pytest.raises(JobAlreadyOver):
            retry(of(offer, Retry))


def test_a_job_that_a_receipt_ends_is_refused_whoever_routed_it() -> None:
    request = job_request()
    receive(JobFinishedSchema, request.uuid)
    with pytest.raises(JobAlreadyOver):
        route(request)


@pytest.mark.parametrize("seconds", [30, 0, -5, 10**30])
def test_a_fixed_route_is_told_again_whatever_the_length(seconds: int) -> None:
    request = job_request(seconds, on_trusted_miner=True)
    first, again = routed(request), routed(request)
    assert first.route == again.route
    assert (first.route.allowance_reservation_id, first.expires_at) == (None, None)
    assert RoutedJob.objects.get().reservation is None


@pytest.fixture
def nobody_is_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many callers read before any of them picks; whoever must begin again is let through."""

    def of_many(callers: int) -> None:
        barrier, calls = Barrier(callers), count()

        def wait_and_decide(*args: Any, **kwargs: Any) -> Decision:
            if next(calls) < callers:
                barrier.wait(DEADLINE)
            return decide(*args, **kwargs)

        monkeypatch.setattr(service, "decide", wait_and_decide)

    return of_many


def ids(told: Sequence[object]) -> list[int | None]:
    """Return the reservations of routes; there must be nothing else."""
    return [
        offer.route.allowance_reservation_id for offer in told if isinstance(offer, Offer) or pytest.fail(str(offer))
    ]


def test_one_job_asked_for_by_many_at_once_gets_one_route(nobody_is_first: Callable[[int], None]) -> None:
    request = job_request()
    nobody_is_first(3)
    told = side_by_side(*[lambda: route(request)] * 3)
    assert ids(told) == [Reservation.objects.get().pk] * 3


def test_without_the_claim_it_would_get_several(
    nobody_is_first: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = job_request()
    nobody_is_first(3)
    monkeypatch.setattr(Claim, "rows", lambda *_: [])
    assert len(set(ids(side_by_side(*[lambda: route(request)] * 3)))) == 3


def test_one_route_given_up_by_many_at_once_is_replaced_by_one(nobody_is_first: Callable[[int], None]) -> None:
    first = routed(job_request())
    nobody_is_first(3)
    told = side_by_side(*[lambda: retry(of(first, Retry))] * 3)
    assert set(ids(told)) == {Reservation.objects.get(state="held").pk}
    assert sorted(states().values()) == ["held", "released"]


def test_whoever_is_always_overtaken_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claim, "rows", raising(jobs.Overtaken))
    with pytest.raises(LockTimeout):
        route(job_request())
    assert Reservation.objects.count() == 0


def test_a_retry_releases_and_goes_to_miners_that_have_not_had_the_job() -> None:
    offer = routed(job_request())
    had = [offer.route.miner.hotkey_ss58]
    for _ in MINERS[1:]:
        offer = retried(offer)
        had.append(offer.route.miner.hotkey_ss58)
    assert sorted(had) == sorted(MINERS)
    assert states() == {had[0]: "released", had[1]: "released", had[2]: "held"}
    refused = retry(of(offer, Retry))
    assert isinstance(refused, Decision)
    assert refused.counts == {Gate.EXCLUDED: 3}
    assert set(states().values()) == {"released"}


def test_a_retry_that_is_said_again_gets_the_same_route() -> None:
    first = routed(job_request())
    second = retried(first)
    assert retried(first).route == second.route
    third = retried(second)
    assert retried(first).route == retried(second).route == third.route


def test_a_retry_asks_for_as_much_as_the_job_did() -> None:
    first = routed(job_request(60))
    second = retried(first)
    assert len(second.route.allowance_blocks or ()) == len(first.route.allowance_blocks or ()) == 5
    assert RoutedJob.objects.get().seconds == 60


def test_a_retry_does_not_pass_over_miners_that_nobody_was_told_of() -> None:
    first = routed(job_request())
    for _ in range(2 * len(MINERS)):
        jobs.release_undelivered(retried(first))
    assert retried(first).route.miner != first.route.miner


def test_a_job_that_was_retried_and_then_asked_for_anew_may_go_where_it_was() -> None:
    request = job_request()
    offer = routed(request)
    for _ in MINERS[1:]:
        offer = retried(offer)
    note(of(offer, Failed))
    offer = routed(request)
    assert isinstance(retry(of(offer, Retry)), Decision)


def test_a_retry_of_a_lapsed_route_goes_on() -> None:
    now = timezone.now()
    first = routed(job_request(), now=now)
    second = retried(first, now=now + HOLD)
    assert second.route.miner != first.route.miner


def test_a_retry_of_what_never_was_is_refused() -> None:
    offer, other = routed(job_request()), routed(job_request())
    for uuid, reservation in (
        (uuid4(), offer.route.allowance_reservation_id),
        (offer.uuid, other.route.allowance_reservation_id),
        (offer.uuid, RESERVATION_IDS - 1),
    ):
        with pytest.raises(JobUnknown):
            retry(Retry(uuid=uuid, allowance_reservation_id=reservation))
    assert set(states().values()) == {"held"}


def test_a_fixed_route_has_no_other_miner() -> None:
    offer = routed(job_request(on_trusted_miner=True))
    with pytest.raises(BadInputError, match="no other miner"):
        retry(of(offer, Retry))


def test_a_route_that_could_not_be_told_is_given_back_and_the_job_routed_anew() -> None:
    request = job_request()
    offer = routed(request)
    jobs.release_undelivered(offer)
    assert states() == {offer.route.miner.hotkey_ss58: "released"}
    jobs.release_undelivered(offer)
    again = routed(request)
    assert again.route.allowance_reservation_id != offer.route.allowance_reservation_id
    assert Reservation.objects.filter(state="held").count() == 1


def test_a_route_that_could_not_be_given_back_may_be_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second route would be made beside it, which nobody could release."""
    request = job_request()
    offer = routed(request)
    with monkeypatch.context() as patch:
        patch.setattr(reservations, "release", raising(LockTimeout))
        with pytest.raises(LockTimeout):
            jobs.release_undelivered(offer)
    assert routed(request).route == offer.route
    assert list(states().values()) == ["held"]


def test_a_route_that_somebody_else_may_rely_on_is_not_given_back() -> None:
    request = job_request()
    for offer in [routed(request) for _ in range(3)]:  # the first can't be passed on, nor can the last
        jobs.release_undelivered(offer)
    assert set(states().values()) == {"held"}


def test_a_route_that_is_being_given_back_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the claim and the release another client connection asks for the job."""
    request = job_request()
    offer, release, told = routed(request), reservations.release_undelivered, list[Any]()
    asking = Thread(target=lambda: told.extend(side_by_side(lambda: routed(request))))

    def ask_first(reservation_id: int) -> None:
        asking.start()
        asking.join(0.2)  # on PostgreSQL it has read the row, and waits for it
        release(reservation_id)

    monkeypatch.setattr(reservations, "release_undelivered", ask_first)
    jobs.release_undelivered(offer)
    asking.join()
    assert told[0].route.allowance_reservation_id != offer.route.allowance_reservation_id
    assert ids(told) == [Reservation.objects.get(state="held").pk]
