"""Whose job it is: a client speaks of its own jobs, and learns nothing of those of others."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone
from pytest_django import Settings

from allowance.models import Reservation
from allowance.plumbing.threads import in_database_thread
from receipts.models import JobFinishedReceipt, JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing import routing
from routing.access import tokens
from routing.access.admission import Visitor, admit
from routing.access.tokens import Scope
from routing.models import MinerIncident, RoutedJob
from routing.sockets import answers, jobs, statements
from routing.sockets.jobs import Offer
from routing.sockets.messages import Accepted, Failed, Finished, Refused, Rejected, RejectedByMiner, Retry, Started
from routing.types import JobAlreadyOver, JobTaken, JobUnknown
from routing.upkeep.journal import JournalError, export, replay
from tests.clock import DAY
from tests.factories import job_request
from tests.jobs import HOLD, ME, MINERS, note, of, retried, route, routed
from tests.ledgers import CLASS
from tests.rows import hold, receive
from tests.sockets import PATIENCE, answer, ask, job, permitted, socket, tell
from tests.visitors import RIGHT, bearer, handshake

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners(*MINERS)]

OTHER = Visitor("other", token_id=UUID(int=2))
OPERATOR = Visitor("operator", token_id=UUID(int=3), all_jobs=True)
STATEMENTS = (Started, Accepted, Finished, Failed, RejectedByMiner)


def said(answered: Any) -> dict[str, object]:
    """Return an answer without the numbers that the asker knew."""
    found: dict[str, object] = answered.model_dump()
    uuid = str(found.pop("uuid"))
    found["sentence"] = str(found["sentence"]).replace(uuid, "UUID")
    return found


@pytest.mark.parametrize("kind", [JobStarted, JobAccepted])
def test_a_job_of_which_only_a_receipt_is_known_belongs_to_who_may_use_all_jobs(kind: Any) -> None:
    request = job_request()
    receive(kind, request.uuid)
    with pytest.raises(JobTaken):
        routed(request, by=OTHER)
    assert routed(request, by=OPERATOR)


def test_a_retry_of_a_job_of_which_only_its_end_is_known_is_answered_as_if_there_were_none() -> None:
    offer = routed(job_request())
    receive(JobFinished, "12345678-1234-5678-1234-567812345678")
    stranger = of(offer, Retry).model_copy(update={"uuid": UUID("12345678-1234-5678-1234-567812345678")})
    with pytest.raises(JobUnknown):
        jobs.retry(stranger, by=OTHER)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("kind", STATEMENTS)
def test_what_others_say_of_a_job_is_answered_as_if_there_were_none(kind: Any, fixed: bool) -> None:
    offer = routed(job_request(on_trusted_miner=fixed))
    message = of(offer, kind)
    told = answers.to_statement(message, OTHER)
    assert isinstance(told, Refused)
    assert said(told) == said(answers.to_statement(message.model_copy(update={"uuid": uuid4()}), OTHER))
    assert told.reason == "JOB_UNKNOWN"
    assert not MinerIncident.objects.exists()
    assert not JobStartedReceipt.objects.exists()
    assert not JobFinishedReceipt.objects.exists()
    assert [row.state for row in Reservation.objects.all()] == ([] if fixed else ["held"])


@pytest.mark.parametrize("over", [False, True])
def test_another_client_gets_no_other_miner_for_a_job(over: bool) -> None:
    offer = routed(job_request())
    if over:
        note(of(offer, Finished))
    message = of(offer, Retry)
    told = answers.to_question(message, OTHER).message
    nothing = answers.to_question(message.model_copy(update={"uuid": uuid4()}), OTHER).message
    assert said(told) == said(nothing)
    assert isinstance(told, Rejected)
    assert told.reason == "JOB_UNKNOWN"


@pytest.mark.parametrize("state", ["held", "expired", "finished", "fixed", "another"])
def test_another_client_is_told_no_route_by_a_uuid(state: str) -> None:
    now = timezone.now()
    request = job_request(on_trusted_miner=state == "fixed")
    offer = routed(request, now=now - HOLD if state == "expired" else now)
    if state == "finished":
        note(of(offer, Finished))
    asked = request.model_copy(update={"execution_time_limit": 31}) if state == "another" else request
    told = answers.to_question(asked, OTHER).message
    assert isinstance(told, Rejected)
    assert told.reason == "JOB_TAKEN"
    for secret in (ME.name, *MINERS, "31", "30 s", str(offer.route.allowance_reservation_id)):
        assert secret not in told.sentence.replace(request.uuid, "")
    assert RoutedJob.objects.get().owner == "token:me"


def test_another_token_of_the_name_is_the_same_client() -> None:
    (_, first), (_, second) = (tokens.issue("anna", ["jobs"], DAY) for _ in range(2))
    one, two = (admit(handshake(bearer(token)), **RIGHT) for token in (first, second))
    request = job_request()
    offer = routed(request, by=one)
    again = routed(request, by=two)
    assert again.route == offer.route
    assert statements.note(of(offer, Finished), by=two) == "spent"


def test_a_token_with_the_name_of_a_user_is_not_the_user() -> None:
    user = permitted("anna")
    by_user = admit(handshake(user=user), **RIGHT)
    by_token = admit(handshake(bearer(tokens.issue("anna", ["jobs"], DAY)[1])), **RIGHT)
    request = job_request()
    jobs.route(request, by=by_user)
    with pytest.raises(JobTaken):
        jobs.route(request, by=by_token)
    assert RoutedJob.objects.get().owner == f"user:{user.pk}"
    assert Visitor(f"user:{user.pk}", token_id=UUID(int=1)).owner != by_user.owner


def test_a_user_of_another_name_is_the_same_client_and_another_user_of_the_name_is_not() -> None:
    user = permitted("anna")
    request = job_request()
    offer = routed(request, by=admit(handshake(user=user), **RIGHT))
    user.username = "bert"
    user.save()
    with pytest.raises(JobUnknown):
        statements.note(of(offer, Failed), by=admit(handshake(user=permitted("anna")), **RIGHT))
    assert statements.note(of(offer, Failed), by=admit(handshake(user=user), **RIGHT)) == "released"


def test_who_may_speak_of_all_jobs_does_and_leaves_them_their_owner() -> None:
    request = job_request()
    offer = routed(request)
    told = routed(request, by=OPERATOR)
    assert told.route == offer.route
    assert statements.note(of(offer, Failed), by=OPERATOR) == "released"
    again = retried(offer, by=OPERATOR)
    assert RoutedJob.objects.get().owner == ME.owner
    assert note(of(again, Finished)) == "spent"


def test_a_job_without_an_owner_is_for_the_scope_of_all_jobs() -> None:
    request = job_request()
    pk, _ = hold(job=request.uuid)
    failed = Failed(uuid=UUID(request.uuid), allowance_reservation_id=pk)
    with pytest.raises(JobTaken):
        route(request)
    with pytest.raises(JobUnknown):
        note(failed)
    assert statements.note(failed, by=OPERATOR) == "released"


def test_the_route_of_a_job_without_an_owner_is_told_again_to_who_may_speak_of_all_jobs() -> None:
    request = job_request()
    made = routing().pick(request)
    told = routed(request, by=OPERATOR)
    assert told.route == made
    assert Reservation.objects.count() == 1
    assert RoutedJob.objects.get().owner == ""
    with pytest.raises(JobTaken):
        route(request)
    with pytest.raises(ValueError, match="was routed before, with 30 s"):
        jobs.route(request.model_copy(update={"execution_time_limit": 31}), by=OPERATOR)


def test_a_job_without_an_owner_is_retried_for_who_may_speak_of_all_jobs() -> None:
    request = job_request()
    made = routing().pick(request)
    retry = Retry(uuid=UUID(request.uuid), allowance_reservation_id=made.allowance_reservation_id)
    with pytest.raises(JobUnknown):
        jobs.retry(retry, by=ME)
    again = jobs.retry(retry, by=OPERATOR)
    assert isinstance(again, jobs.Offer)
    assert again.route.miner != made.miner
    assert sorted(row.state for row in Reservation.objects.all()) == ["held", "released"]


def test_a_finished_job_without_an_owner_is_told_to_be_over_to_who_may_speak_of_all() -> None:
    request = job_request()
    note(of(routed(request), Finished))
    RoutedJob.objects.all().delete()
    with pytest.raises(JobTaken):
        route(request)
    with pytest.raises(JobAlreadyOver):
        jobs.route(request, by=OPERATOR)


def test_two_clients_that_send_one_uuid_at_once_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second client come in when the first has found that nothing is known of the uuid."""
    request, find = job_request(), jobs._find
    begun: list[Visitor] = []

    def found(uuid: UUID, by: Visitor) -> RoutedJob | None:
        job = find(uuid, by)
        if by == OTHER and not begun:
            begun.append(by)
            routed(request)
        return job

    monkeypatch.setattr(jobs, "_find", found)
    with pytest.raises(JobTaken):
        jobs.route(request, by=OTHER)
    assert RoutedJob.objects.get().owner == ME.owner
    assert Reservation.objects.count() == 1


def test_the_scope_of_all_jobs_brings_that_of_jobs() -> None:
    row, token = tokens.issue("ops", ["all-jobs"], DAY)
    assert row.scopes == [Scope.JOBS, Scope.ALL_JOBS]
    assert admit(handshake(bearer(token)), **RIGHT).all_jobs
    assert not admit(handshake(bearer(tokens.issue("a", ["jobs"], DAY)[1])), **RIGHT).all_jobs


def test_a_user_speaks_of_all_jobs_by_permission() -> None:
    user = permitted("anna")
    assert not admit(handshake(user=user), **RIGHT).all_jobs
    chief = permitted("chief")
    chief.user_permissions.add(Permission.objects.get(codename="route_all_jobs"))
    assert admit(handshake(user=chief), **RIGHT).all_jobs


@pytest.mark.asyncio
async def test_who_loses_the_permission_for_all_jobs_speaks_of_its_own_from_the_next_look_on(
    transactional_db: None, settings: Settings
) -> None:
    settings.ROUTING_SOCKET_RECHECK_SECONDS = 0.05
    anna, boss = [await _user(name) for name in ("anna", "boss")]
    all_jobs = await in_database_thread(Permission.objects.get)(codename="route_all_jobs")
    await in_database_thread(boss.user_permissions.add)(all_jobs)

    async def said_of_a_job() -> str:
        route = await ask(one)
        named = {"uuid": route["uuid"], "allowance_reservation_id": route["allowance_reservation_id"]}
        told: str = (await tell(other, {"type": "job.failed", **named}))["type"]
        return told

    async with socket(anna) as one, socket(boss) as other:
        assert await said_of_a_job() == "job.acknowledged"
        await in_database_thread(boss.user_permissions.remove)(all_jobs)
        deadline = time.monotonic() + PATIENCE
        while await said_of_a_job() == "job.acknowledged":
            assert time.monotonic() < deadline


async def test_no_client_makes_news_of_anothers_job(transactional_db: None) -> None:
    anna, bert = [await _user(name) for name in ("anna", "bert")]
    async with socket(anna) as one, socket(anna) as second, socket(bert) as other:
        route = await ask(one)
        assert route["type"] == "job.routed"
        named = {"uuid": route["uuid"], "allowance_reservation_id": route["allowance_reservation_id"]}
        jobs_of_one = [job(uuid=route["uuid"]), job(uuid=route["uuid"], execution_time_limit=4000)]
        said = [{"type": kind, **named} for kind in ("job.failed", "job.retry", "job.rejected_by_miner")]
        for message in (*jobs_of_one, *said):
            assert (await tell(other, message))["reason"] in {"JOB_TAKEN", "JOB_UNKNOWN"}
        assert await one.receive_nothing(0.2)
        assert (await tell(second, said[0]))["reservation"] == "released"
        assert (await answer(one))["of"] == "job.failed"


async def _user(name: str) -> Any:
    return await in_database_thread(permitted)(name)


def test_a_retry_stays_with_the_owner() -> None:
    offer = routed(job_request())
    retried(offer)
    assert RoutedJob.objects.get().owner == ME.owner


@pytest.mark.parametrize("fixed", [False, True])
def test_a_journal_keeps_whose_a_job_is(fixed: bool) -> None:
    request = job_request(on_trusted_miner=fixed)
    offer = routed(request)
    lines = [line.encode() for line in export()]
    RoutedJob.objects.all().delete()
    assert list(replay(lines))[-1] == list(replay(lines))[-1] == "job"
    assert list(export()) == [line.decode() for line in lines]
    assert routed(request).route.allowance_reservation_id == offer.route.allowance_reservation_id
    with pytest.raises(JobUnknown):
        statements.note(of(offer, Failed), by=OTHER)


JOB = {
    "event": "job",
    "uuid": str(uuid4()),
    "executor_class": CLASS,
    "seconds": 30,
    "miner": "anna",
    "routed_at": "2026-01-01T12:00:00Z",
}


@pytest.mark.parametrize("change", [{"reservation": 1}, {"reservation": 0}, {"owner": "\0"}, {"miner": ""}, {"x": 1}])
def test_a_journal_brings_no_job_that_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(JournalError):
        list(replay([json.dumps({**JOB, **change}).encode()]))
    assert not RoutedJob.objects.exists()


def test_a_journal_does_not_change_whose_a_job_is() -> None:
    lines = [json.dumps({**JOB, "owner": owner}).encode() for owner in ("token:anna", "token:bert")]
    with pytest.raises(JournalError, match="has a different job with the uuid"):
        list(replay(lines))
    assert RoutedJob.objects.get().owner == "token:anna"


def test_a_job_that_this_site_picked_twice_is_paid_for_at_both_miners() -> None:
    request = job_request()
    offers = [Offer(UUID(request.uuid), routing().pick(request), None, None) for _ in range(2)]
    for offer in offers:
        assert statements.note(of(offer, Finished), by=OPERATOR) == "spent"
