"""The decision log: what a pick leaves behind, what can be read from it, and whether it would be decided again."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event, Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from django import db
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from allowance import allowance, ledger, reservations
from allowance.ledger import Balance
from allowance.models import Account, Reservation
from allowance.types import LockTimeout, NotEnoughAllowanceException
from receipts.schemas import JobFinished, JobStarted
from routing import routing
from routing.decision import book, in_force, pipeline
from routing.decision.model import Decision, Job
from routing.decision.ranking import rank
from routing.log import records, replay
from routing.models import DecisionRecord
from routing.types import TRUSTED_MINER_FAKE_KEY, AllMinersBusy, NotEnoughCollateralException
from tests.factories import ESCAPED, HTML, job_request, run_command
from tests.integration.test_locks import Holder, needs_row_locks
from tests.integration.test_metrics import counted
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.pages import page, shown
from tests.programs import DEADLINE, Finished
from tests.rows import REJECTED, hold, receive, report
from tests.visitors import clerk, member

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")


@pytest.fixture(autouse=True)
def all_candidates_are_kept(settings: Settings) -> None:
    settings.ROUTING_DECISIONS_SAMPLE = 1.0


def refused(error: type[Exception], seconds: int = 12) -> DecisionRecord:
    """Ask for a job, be refused, and return the record of it."""
    with pytest.raises(error):
        routing().pick(job_request(seconds))
    return DecisionRecord.objects.latest("pk")


def ask_for_collateral(monkeypatch: pytest.MonkeyPatch, wei: int) -> None:
    policy = in_force.make_policy(wei, 24.0)
    monkeypatch.setattr("routing.decision.in_force.parse", lambda _rows: in_force.InForce(policy, None))


def test_a_route_leaves_a_record_of_why() -> None:
    fill_ledger("anna", "bert", "cleo")
    report("anna")
    request = job_request(30)
    route = routing().pick(request, exclude=["bert"])
    (record,) = DecisionRecord.objects.all()
    reservation = Reservation.objects.get()
    assert (record.job_uuid, record.executor_class, record.seconds) == (UUID(request.uuid), CLASS, 30)
    assert (record.outcome, record.miner, record.reservation_id) == ("ROUTED", "cleo", route.allowance_reservation_id)
    assert (record.rank, record.score, record.block) == (1, 0.0, FIRST_BLOCK + 20)
    assert (record.asked, record.counts) == (3, {"excluded": 1})
    assert (record.minimum_wei, record.window_hours) == (0, 24.0)
    assert record.at <= reservation.created_at
    assert record.microseconds > 0
    assert record.waited_us == 0


def test_of_refusals_all_candidates_are_kept_whatever_the_sample(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROUTING_DECISIONS_SAMPLE = 0
    fill_ledger("anna", "bert", executors=1)
    outcomes = [refused(NotEnoughAllowanceException, 3600)]
    for _ in range(2):
        routing().pick(job_request(12))
    outcomes.append(refused(AllMinersBusy))
    ask_for_collateral(monkeypatch, 10**30)
    outcomes.append(refused(NotEnoughCollateralException))
    assert [(o.outcome, o.miner, o.reservation_id, o.counts) for o in outcomes] == [
        ("NOT_ENOUGH_ALLOWANCE", "", None, {"allowance": 2}),
        ("ALL_MINERS_BUSY", "", None, {"executors": 2}),
        ("NOT_ENOUGH_COLLATERAL", "", None, {"collateral": 2}),
    ]
    for record in outcomes:
        decision = records.load(record)
        assert decision is not None
        assert [c.hotkey for c in decision.candidates] == ["anna", "bert"]
        assert replay.differences(record) == []


@pytest.mark.parametrize(("share", "kept"), [(0, {0}), (0.5, set(range(1, 32))), (1, {32})])
def test_of_routes_a_share_has_its_candidates_by_the_job(share: float, kept: set[int], settings: Settings) -> None:
    """A client can't choose it by its uuids: these look alike to who doesn't know the SECRET_KEY."""
    settings.ROUTING_DECISIONS_SAMPLE = share
    settings.SECRET_KEY = "a" * 50
    jobs = [Job(str(UUID(int=10**6 * i)), CLASS, 6) for i in range(32)]
    sampled = [records._sampled(job) for job in jobs]
    assert sum(sampled) in kept
    assert sampled == [records._sampled(job) for job in jobs]
    fill_ledger("anna", executors=4)
    for job in jobs[:3]:
        routing().pick(job_request(6, uuid=job.uuid))
    recorded = DecisionRecord.objects.order_by("pk").values_list("candidates", flat=True)
    assert [candidates is not None for candidates in recorded] == sampled[:3]


def kept_candidates() -> int:
    return DecisionRecord.objects.filter(candidates__isnull=False).count()


def refuse(times: int, seconds: int = 3600, at: dt.datetime | None = None, uuid: str | None = None) -> None:
    for _ in range(times):
        request = job_request(seconds, **({"uuid": uuid} if uuid else {}))
        with pytest.raises((NotEnoughAllowanceException, AllMinersBusy)):
            routing().pick(request, now=at)


def test_of_many_refusals_the_first_of_a_kind_in_a_minute_have_their_candidates(settings: Settings) -> None:
    settings.ROUTING_DECISIONS_SAMPLE, settings.ROUTING_REFUSALS_KEPT = 0, 2
    fill_ledger("anna", executors=1)
    now = timezone.now()
    refuse(5, at=now)
    refuse(5, at=now + dt.timedelta(seconds=59))
    assert kept_candidates() == 2
    refuse(5, at=now + dt.timedelta(seconds=60))
    assert kept_candidates() == 4
    routing().pick(job_request(12), now=now)
    refuse(5, 12, at=now)
    assert kept_candidates() == 6
    assert DecisionRecord.objects.exclude(outcome="ROUTED").count() == 20
    assert all(record.counts for record in DecisionRecord.objects.exclude(outcome="ROUTED"))


def test_one_job_that_is_refused_again_and_again_is_sampled_each_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROUTING_DECISIONS_SAMPLE, settings.ROUTING_REFUSALS_KEPT = 0.5, 0
    fill_ledger("anna")
    drawn = iter([0.4, 0.6, 0.5, 0.1])
    monkeypatch.setattr(random, "random", lambda: next(drawn))
    refuse(4, uuid=str(UUID(int=0)))
    assert kept_candidates() == 2


def no_such_table(*_: object, **__: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO nowhere VALUES (1)")


def test_a_route_whose_record_can_t_be_written_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna")
    account = Account.objects.get()
    monkeypatch.setattr(records, "route_record", lambda *_, **__: DecisionRecord())
    with pytest.raises(db.Error):
        routing().pick(job_request())
    assert not Reservation.objects.exists()
    assert Account.objects.get().version == account.version


def test_a_refusal_whose_record_can_t_be_written_stands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill_ledger("anna")
    lost = counted("router_decisions_lost_total")
    monkeypatch.setattr(records.INSERT, "execute", no_such_table)
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))
    assert counted("router_decisions_lost_total") == lost + 1
    assert "could not be recorded" in caplog.text
    assert DecisionRecord.objects.count() == 0  # and the connection is fine


@pytest.mark.parametrize("uuid", [f"{'3' * 8}-1111-4111-8111-{'3' * 12}", "not a uuid", "\0" * 100])
def test_a_fixed_route_is_recorded_whatever_its_uuid(uuid: str) -> None:
    routing().pick(job_request(uuid=uuid, on_trusted_miner=True, executor_class="c\0" * 100))
    (record,) = DecisionRecord.objects.all()
    assert str(record.job_uuid) == (uuid if len(uuid) == 36 else "None")
    assert (record.outcome, record.miner, record.window_hours) == ("ROUTED", TRUSTED_MINER_FAKE_KEY, None)
    assert replay.differences(record) is None


@pytest.mark.parametrize(
    ("fields", "executor_class", "seconds"),
    [
        ({"execution_time_limit": 10**400}, CLASS, 2.0**31),
        ({"execution_time_limit": -(10**400)}, CLASS, 0.0),
        ({"execution_time_limit": float("nan")}, CLASS, 0.0),
        ({"executor_class": "\ud800x"}, "?x", 30.0),
    ],
)
def test_a_fixed_route_s_record_takes_what_can_be_stored_of_its_job(
    fields: dict[str, Any], executor_class: str, seconds: float
) -> None:
    routing().pick(job_request(**{"on_trusted_miner": True, **fields}))
    record = DecisionRecord.objects.get()
    assert (record.executor_class, record.seconds) == (executor_class, seconds)


def test_an_unknown_class_that_is_no_text_is_refused_and_recorded() -> None:
    fill_ledger("anna")
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(executor_class="\ud800"))
    assert DecisionRecord.objects.get().executor_class == "?"


@pytest.fixture
def locked_out() -> Iterator[None]:
    """Somebody else keeps from everybody what a record is written to: the table, or SQLite's whole file."""
    locked, let_go = Event(), Event()

    def hold() -> None:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("LOCK TABLE routing_decisionrecord IN SHARE MODE")
            locked.set()
            let_go.wait(DEADLINE)
        connection.close()

    thread = Thread(target=hold)
    thread.start()
    assert locked.wait(DEADLINE)
    yield
    let_go.set()
    thread.join()


def test_who_reserves_nothing_does_not_wait_for_its_record(request: pytest.FixtureRequest) -> None:
    fill_ledger("anna")
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))
    lost = counted("router_decisions_lost_total")
    request.getfixturevalue("locked_out")
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))
    assert routing().pick(job_request(on_trusted_miner=True)).miner.hotkey_ss58 == TRUSTED_MINER_FAKE_KEY
    assert counted("router_decisions_lost_total") == lost + 2
    assert DecisionRecord.objects.count() == 1
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            assert cursor.execute("PRAGMA busy_timeout").fetchone() == (20_000,)  # others are as patient as before


@needs_row_locks
def test_who_is_passed_over_for_a_lock_is_said_to_have_been(settings: Settings) -> None:
    fill_ledger("anna", "bert", "cleo")
    for miner in ("bert", "cleo", "cleo"):
        report(miner)
    with Holder("anna"), Holder("bert"):
        assert routing().pick(job_request(12)).miner.hotkey_ss58 == "cleo"
    record = DecisionRecord.objects.get()
    assert (record.counts, record.rank) == ({"lock": 2}, 3)
    assert replay.differences(record) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"miner": "cleo"}, "winner: was cleo, is anna"),
        ({"rank": 2}, "rank and score of the winner: were (2, 0.0), are (1, 0.0)"),
        ({"score": -1.0}, "rank and score of the winner"),
        ({"asked": 4}, "candidates: were 4"),
        ({"counts": {"lock": 1}}, "candidates: were 3, failed {'lock': 1}; are 3, failed {}"),
        ({"outcome": "ALL_MINERS_BUSY"}, "outcome: was ALL_MINERS_BUSY, is ROUTED"),
    ],
)
def test_a_replay_believes_no_column(changed: dict[str, object], told: str) -> None:
    fill_ledger("anna", "bert", "cleo")
    routing().pick(job_request(12))
    DecisionRecord.objects.update(**changed)
    assert [line for line in replay.differences(DecisionRecord.objects.get()) or [] if line.startswith(told)]


def test_what_a_pick_heard_under_the_lock_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three candidates the better two lose an executor and all allowance between reading and reserving."""
    monkeypatch.setattr(book, "READINGS", 1)
    monkeypatch.setattr(book, "SHORTEST_WAIT", math.inf)  # after a wait it would rank again
    fill_ledger("anna", "bert", "cleo", executors=1)
    report("cleo")
    settle = pipeline.settle

    def settle_late(*asked: Any, **how: Any) -> Decision:
        monkeypatch.setattr(pipeline, "settle", settle)
        routing().pick(job_request(12), exclude=["bert", "cleo"])
        held, _ = hold("bert", 114)
        allowance().spend_allowance(held)
        return settle(*asked, **how)

    monkeypatch.setattr(pipeline, "settle", settle_late)
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "cleo"
    record = DecisionRecord.objects.latest("pk")
    assert record.counts == {"executors": 1, "reservation": 1}
    assert replay.differences(record) == []


def test_a_pick_for_which_all_accounts_stay_locked_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna", "bert")
    monkeypatch.setattr(book, "lock_account", lambda **_: None)
    monkeypatch.setattr(reservations, "hold", lambda *_, **__: False)
    record = refused(LockTimeout)
    assert (record.outcome, record.counts) == ("LOCK_TIMEOUT", {"lock": 2})
    assert replay.differences(record) == []


def better_scores(incidents: Any, executors: Any) -> object:
    return incidents.astype(float)


def backwards(balance: Balance, *amounts: int) -> object:
    place = ["anna", "cleo", "bert"].index(balance.hotkey)
    return standing(balance, *amounts)._replace(order=(float(place), 0.0, 0, balance.hotkey))


def nobody_passes(question: Decision, *known: Any) -> object:
    return rank(replace(question, job=replace(question.job, seconds=10**6)), *known)


standing = ledger.standing


@pytest.mark.parametrize(
    ("where", "changed", "told"),
    [
        ("routing.decision.ranking.scores", better_scores, "winner: was bert, is anna"),
        ("routing.decision.ranking.scores", better_scores, "anna: was rank 3, score -0.5"),
        ("routing.log.records.ledger.standing", backwards, "order by allowance: candidate 2 was bert, is cleo"),
        ("routing.decision.pipeline.rank", nobody_passes, "outcome: was ROUTED, is NOT_ENOUGH_ALLOWANCE"),
        ("routing.decision.pipeline.rank", nobody_passes, "winner: was bert, is none"),
    ],
)
def test_a_replay_says_what_differs(
    where: str, changed: Callable[..., object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that decides otherwise than the recorded decision did stands for any reason to differ."""
    fill_ledger("anna", "bert", "cleo")
    report("anna")
    routing().pick(job_request(12))
    record = DecisionRecord.objects.get()
    assert replay.differences(record) == []
    monkeypatch.setattr(where, changed)
    assert [line for line in replay.differences(record) or [] if line.startswith(told)]


def explain(job: str, *options: str) -> Finished:
    return run_command("explain_job", job, *options)


def test_a_job_is_explained_with_all_that_happened_to_it(settings: Settings) -> None:
    fill_ledger("anna", "bert")
    request = job_request(30)
    first = routing().pick(request)
    report("anna", request.uuid, kind=REJECTED)
    allowance().undo_allowance_reservation(first.allowance_reservation_id or 0)
    settings.ROUTING_DECISIONS_SAMPLE = 0
    second = routing().pick(request, exclude=["anna"])
    receive(JobStarted, request.uuid, "bert")
    receive(JobFinished, request.uuid, "bert", time_took_us=1_500_000)
    allowance().spend_allowance(second.allowance_reservation_id or 0)
    code, out, _ = explain(request.uuid)
    assert code == 0
    for told in (
        f"reservation {first.allowance_reservation_id} of 3 blocks (1000 to 1002) was released",
        "Routed to anna, rank 1, score 0",
        "eligible: gets the job",
        f"reservation {second.allowance_reservation_id} of 3 blocks (1000 to 1002) was spent",
        "not stored: the log keeps the candidates of the first refusals and of a sample.",
        "1 of 2 miners eligible: 1 excluded by the caller",
        "anna rejected the job",
        "started at bert, for 60 s at most",
        "finished by bert in 1.5 s",
    ):
        assert told in out, told
    as_json = json.loads(explain(request.uuid, "--format", "json").out)
    assert [d["hotkey"] for d in as_json["decisions"]] == ["anna", "bert"]
    assert [d["reservation_state"] for d in as_json["decisions"]] == ["released", "spent"]
    assert [d["candidates"] is None for d in as_json["decisions"]] == [False, True]
    assert len(as_json["happened"]) == 3
    assert explain(request.uuid, "--replay").code == 3


def test_explaining_says_by_its_exit_code_whether_a_replay_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna", "bert")
    report("anna")
    request = job_request(12)
    routing().pick(request)
    code, out, _ = explain(request.uuid, "--replay", "--top", "1")
    assert (code, "the same decision" in out, "… and 1 more" in out) == (0, True, True)
    monkeypatch.setattr("routing.decision.ranking.scores", better_scores)
    code, out, _ = explain(request.uuid, "--replay")
    assert (code, "another decision" in out, "winner: was bert, is anna" in out) == (1, True, True)
    assert "anna: was rank 2, score -0.5" in out
    code, out, _ = explain(request.uuid, "--replay", "--format", "json")
    assert (code, len(json.loads(out)["decisions"][0]["replay_differs_in"]) > 0) == (1, True)


def test_a_fixed_route_has_no_candidates_to_replay(admin_client: Client) -> None:
    request = job_request(on_trusted_miner=True)
    routing().pick(request)
    sentence = "A fixed route has no candidates to replay."
    code, out, _ = explain(request.uuid, "--replay")
    assert (code, sentence in out, "not stored" in out) == (3, True, False)
    content = shown(admin_client, "routing_decisionrecord_change", DecisionRecord.objects.get().pk)
    assert (sentence in content, "not stored" in content) == (True, False)


@pytest.mark.parametrize("arguments", [("abc",), (str(uuid4()),), (str(uuid4()), "--top", "0")])
def test_a_job_that_nothing_is_known_of_is_told_as_such(arguments: Sequence[str]) -> None:
    code, out, err = explain(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_a_reservation_that_is_pruned_or_has_lapsed_is_told_as_such() -> None:
    fill_ledger("anna")
    gone, expired = job_request(12), job_request(12)
    routing().pick(gone)
    held = routing().pick(expired, now=timezone.now() - dt.timedelta(hours=1))
    assert held.allowance_reservation_id
    released = Reservation.objects.exclude(pk=held.allowance_reservation_id).get()
    allowance().undo_allowance_reservation(released.pk)
    released.delete()
    assert "is no longer stored" in explain(gone.uuid).out
    assert "expired unclaimed" in explain(expired.uuid).out


def test_a_decision_s_page_shows_its_candidates_as_text_and_that_it_agrees(admin_client: Client) -> None:
    fill_ledger(HTML, "bert")
    record = refused(NotEnoughAllowanceException, 3600)
    content = shown(admin_client, "routing_decisionrecord_change", record.pk)
    assert HTML not in content
    assert ESCAPED in content
    assert "240 s free, 3600 s needed" in content
    assert "No miner has 3600 s of allowance" in content
    assert "agrees" in content


def test_a_decision_s_page_shows_what_happened_to_whoever_may_see_that() -> None:
    fill_ledger("anna")
    request = job_request(12)
    routing().pick(request)
    report("anna", request.uuid)
    client = clerk()
    record = DecisionRecord.objects.get()
    assert client.get(page(record)).status_code == 403
    told = ("reservation", "anna failed the job", "is held until")
    permissions = ("routing.view_decisionrecord", "routing.view_minerincident", "allowance.view_reservation")
    for i in range(len(told)):
        member(*permissions[: i + 1])
        content = client.get(page(record)).content.decode()
        assert [sentence in content for sentence in told] == [place <= i for place in range(len(told))]


def test_the_log_is_found_by_job_through_its_index(admin_client: Client) -> None:
    fill_ledger("anna", executors=3)
    requests = [job_request(12) for _ in range(3)]
    for request in requests:
        routing().pick(request)
    with CaptureQueriesContext(connection) as captured:
        response = admin_client.get(reverse("admin:routing_decisionrecord_changelist"), {"q": requests[1].uuid})
    searches = [query["sql"] for query in captured if '"job_uuid" BETWEEN' in query["sql"]]
    assert searches
    assert not any("LIKE" in sql or '"candidates"' in sql for sql in searches)
    assert [str(r.job_uuid) for r in response.context["cl"].result_list] == [requests[1].uuid]
