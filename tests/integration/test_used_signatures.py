"""A signature routes one job: it does not sign the uuid, so whoever has heard it could route others with it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from allowance.models import Reservation
from routing.access import signatures
from routing.access.signatures import SignatureRefused
from routing.models import RoutedJob, UsedSignature
from routing.requests import Signature, V2JobRequest
from routing.sockets import answers, jobs
from routing.sockets.messages import Failed
from tests.factories import job_request
from tests.jobs import ME, note, of, route, routed

pytestmark = [
    pytest.mark.usefixtures("ledger_clean_at_the_end"),
    pytest.mark.miners("anna", "bert", executors=9),
]


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every signature for genuine; whether they are is for tests/unit/test_signatures.py."""
    monkeypatch.setattr(signatures, "check", lambda request, _now: request.signature)


def signed(at: int, **changes: Any) -> V2JobRequest:
    """Return a job signed at a time in nanoseconds."""
    signature = {"signature_type": "bittensor", "signatory": "facilitator", "timestamp_ns": at, "signature": "YQ=="}
    return job_request(**{"signature": Signature.model_validate(signature), **changes})


def other(request: V2JobRequest) -> V2JobRequest:
    """Return another job under the same signature."""
    return request.model_copy(update={"uuid": str(uuid4())})


def assert_used_up(request: V2JobRequest) -> None:
    before = Reservation.objects.count(), RoutedJob.objects.count()
    for fixed in (False, True):
        with pytest.raises(SignatureRefused, match="used for another job"):
            route(other(request).model_copy(update={"on_trusted_miner": fixed}))
    assert (Reservation.objects.count(), RoutedJob.objects.count()) == before


def test_a_signature_routes_one_job_however_often() -> None:
    request = signed(1)
    assert routed(request).route == routed(request).route
    assert_used_up(request)
    assert answers.to_question(other(request), ME).message.model_dump()["reason"] == "BAD_SIGNATURE"


def test_a_signature_with_which_a_job_was_told_again_is_used_up_too() -> None:
    first = signed(1)
    again = signed(2, uuid=first.uuid)
    assert routed(first).route == routed(again).route
    assert_used_up(again)
    assert_used_up(first)


def test_a_signature_of_a_job_that_was_routed_anew_stays_used_up() -> None:
    first = signed(1)
    note(of(routed(first), Failed))
    again = signed(2, uuid=first.uuid)
    routed(again)
    assert_used_up(first)
    assert_used_up(again)


def test_a_signature_of_a_job_that_found_no_miner_may_be_used_again() -> None:
    request = signed(1, execution_time_limit=3000)
    assert not isinstance(route(request), jobs.Offer)
    assert not UsedSignature.objects.exists()
    routed(other(request).model_copy(update={"execution_time_limit": 30}))


def test_jobs_without_a_signature_use_up_nothing() -> None:
    routed(job_request())
    routed(job_request(on_trusted_miner=True))
    assert not UsedSignature.objects.exists()
