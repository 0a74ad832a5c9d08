"""Voiding a receipt: it counts as if it were not there, for every router, and says who took it out and why."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from allowance import allowance
from allowance.types import LockTimeout
from receipts import receipts
from receipts.models import JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from receipts.types import BadReceiptError, ReceiptAlreadyVoided
from receipts.voiding import void_receipt
from routing import routing
from routing.decision.book import DryBook, LiveBook
from routing.log.report import happenings
from routing.types import AllMinersBusy
from routing.types import JobAlreadyOver as JobIsOver
from routing.upkeep import voiding
from routing.upkeep.journal import JournalError, export, replay
from tests.clock import DAY, HOUR, NOW, SECOND
from tests.factories import job_request, run_command, stored, stored_fields
from tests.jobs import route, routed
from tests.ledgers import CLASS, fill_ledger
from tests.pages import page
from tests.receipts import GOLDEN
from tests.rows import RECEIPTS, receive
from tests.visitors import clerk

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_clean_at_the_end")]

SAID: dict[str, Any] = {"by": "boss", "reason": "It was never sent.", "now": NOW}


def ongoing() -> int:
    """Return how many jobs anna runs, if all ways to ask agree."""
    now = timezone.now()
    ways = {
        receipts().get_busy_executor_count(CLASS, now).get("anna", 0),
        len(LiveBook().read(CLASS, now).state.rows["anna"].ongoing),
        len(DryBook().read(CLASS, now).state.rows["anna"].ongoing),
    }
    (jobs,) = ways
    return jobs


def test_a_voided_receipt_frees_the_executor_from_the_next_pick_on() -> None:
    fill_ledger("anna", executors=1)
    started = receive(JobStarted)
    with pytest.raises(AllMinersBusy):
        routing().pick(job_request(12))
    void_receipt(started, **SAID)
    assert ongoing() == 0
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "anna"


def test_each_kind_counts_as_if_it_were_not_there() -> None:
    fill_ledger("anna")
    job = uuid4()
    started = receive(JobStarted, job, ttl=0, at=timezone.now() - 30 * SECOND)
    accepted = receive(JobAccepted, job)
    assert ongoing() == 1
    finished = receive(JobFinished, job)
    assert ongoing() == 0
    void_receipt(finished, **SAID)
    assert ongoing() == 1
    void_receipt(accepted, **SAID)
    assert ongoing() == 0
    other = uuid4()
    first, _ = receive(JobStarted, other), receive(JobAccepted, other)
    assert ongoing() == 1
    void_receipt(first, **SAID)  # an accepted receipt alone names no class
    assert ongoing() == 0
    assert started.voided_at is None


def test_a_job_whose_finished_receipt_is_voided_is_held_and_may_be_asked_for_again() -> None:
    fill_ledger("anna")
    request = job_request(30)
    offer = routed(request)
    finished = receive(JobFinished, offer.uuid)
    now = timezone.now()
    assert not LiveBook().read(CLASS, now).state.rows["anna"].ongoing
    with pytest.raises(JobIsOver):
        route(request)
    void_receipt(finished, **SAID)
    assert LiveBook().read(CLASS, now).state.rows["anna"].ongoing
    assert routed(request).route.allowance_reservation_id == offer.route.allowance_reservation_id
    allowance().undo_allowance_reservation(offer.route.allowance_reservation_id or 0)


def test_a_void_stays_and_says_who_and_why() -> None:
    started = receive(JobStarted)
    returned = void_receipt(started, by=" boss", reason="It was never sent.\n", now=NOW)
    void = {"voided_by": "boss", "void_reason": "It was never sent.", "voided_at": NOW}
    assert {name: getattr(returned, name) for name in void} == void
    receive(JobStarted, started.job_uuid)
    assert JobStartedReceipt.objects.filter(**void).count() == JobStartedReceipt.objects.count() == 1
    with pytest.raises(ReceiptAlreadyVoided, match="voided by boss at 2026-01-01 12:00:00 UTC") as error:
        void_receipt(started, by="carl", reason="again", now=NOW + DAY)
    assert (error.value.by, error.value.at) == ("boss", NOW)
    assert JobStartedReceipt.objects.filter(**void).exists()
    assert "voided by boss: It was never sent." in happenings(started.job_uuid)[0].sentence


@pytest.mark.parametrize("words", ["", " ", None, 5, "x" * 501, "a\0b"], ids=repr)
@pytest.mark.parametrize("which", ["by", "reason"])
def test_without_a_name_or_a_reason_nothing_is_voided(which: str, words: Any) -> None:
    started = receive(JobStarted)
    before = stored()
    with pytest.raises(BadReceiptError, match="Voiding needs a"):
        void_receipt(started, **{**SAID, which: words})
    with pytest.raises(BadReceiptError, match="zone"):
        void_receipt(started, **{**SAID, "now": NOW.replace(tzinfo=None)})
    assert stored() == before
    with pytest.raises(IntegrityError), transaction.atomic():
        JobStartedReceipt.objects.update(voided_at=NOW)


@time_machine.travel(dt.datetime(2026, 11, 27, tzinfo=dt.UTC), tick=False)
def test_a_journal_carries_voids_and_signatures() -> None:
    assert receipts().record_many(GOLDEN) == []
    for kind in RECEIPTS:
        void_receipt(receive(kind), **SAID)
        receive(kind)
    columns = [[field.attname for field in stored_fields(model) if field.name != "id"] for model in RECEIPTS.values()]

    def rows() -> list[list[tuple[Any, ...]]]:
        models = zip(RECEIPTS.values(), columns, strict=True)
        return [[*model._default_manager.order_by("job_uuid").values_list(*names)] for model, names in models]

    before = rows()
    lines = [line.encode() for line in export()]
    for model in RECEIPTS.values():
        model._default_manager.all().delete()
    for _ in range(2):
        list(replay(lines))
    assert rows() == before


MAY = ("router_receipts.view_jobstartedreceipt", "router_receipts.void_receipts")
LIST = "admin:router_receipts_jobstartedreceipt_changelist"


def test_an_operator_voids_a_receipt_on_its_page() -> None:
    started, client = receive(JobStarted), clerk(*MAY)
    assert page(started, "void") in client.get(page(started)).content.decode()
    assert str(started.job_uuid) in client.get(page(started, "void")).content.decode()
    for nothing in ({}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 501}, {"reason": "\0"}):
        assert client.post(page(started, "void"), nothing).status_code == 200
    started.refresh_from_db()
    assert started.voided_at is None
    response = client.post(page(started, "void"), {"reason": " It was never sent. "}, follow=True)
    content = response.content.decode()
    assert response.redirect_chain == [(page(started), 302)]
    assert "is voided and does not count any more" in content
    assert "It was never sent." in content
    assert page(started, "void") not in content
    entry = LogEntry.objects.get()
    assert (entry.object_id, "It was never sent." in entry.get_change_message()) == (str(started.pk), True)
    asks_again = [client.get(page(started, "void"), follow=True)]
    asks_again += [
        client.post(page(started, "void"), said, follow=True) for said in ({}, {"reason": ""}, {"reason": "again"})
    ]
    for again in asks_again:
        assert again.redirect_chain == [(page(started), 302)]
        assert "was already voided by clerk at " in again.content.decode()
    assert LogEntry.objects.count() == 1
    assert client.get(reverse("admin:router_receipts_jobstartedreceipt_void", args=[10**9])).status_code == 404


def test_an_operator_voids_many_with_one_reason_and_an_entry_each() -> None:
    rows, client = [receive(JobStarted) for _ in range(5)], clerk(*MAY)
    chosen = {"action": "void", "_selected_action": [row.pk for row in rows[:4]]}
    asked = client.post(reverse(LIST), chosen)
    assert asked.status_code == 200
    assert "Void 4 receipts" in asked.content.decode()
    assert not JobStartedReceipt.objects.exclude(voided_at=None).exists()
    client.post(reverse(LIST), {**chosen, "reason": "A token leaked."}, follow=True)
    assert JobStartedReceipt.objects.filter(void_reason="A token leaked.").count() == LogEntry.objects.count() == 4
    again = client.post(reverse(LIST), chosen, follow=True)
    assert "All selected receipts are already voided." in again.content.decode()


@pytest.mark.parametrize("permissions", [(), MAY[:1], MAY[1:]], ids=str)
def test_without_a_permission_there_is_no_page_and_no_action(permissions: tuple[str, ...]) -> None:
    started, client = receive(JobStarted), clerk(*permissions)
    assert (
        client.get(page(started, "void")).status_code
        == client.post(page(started, "void"), {"reason": "x"}).status_code
        == 403
    )
    client.post(reverse(LIST), {"action": "void", "_selected_action": [started.pk], "reason": "x"})
    assert page(started, "void") not in client.get(page(started)).content.decode()
    started.refresh_from_db()
    assert started.voided_at is None


REASON = "A token leaked."
WHY = ("--by", "boss", "--reason", REASON, "--yes")


@pytest.fixture
def boss() -> User:
    return User.objects.create_superuser("boss")


def test_the_command_voids_what_is_chosen_and_logs_each(boss: User) -> None:
    job = uuid4()
    for kind in RECEIPTS:
        receive(kind, job)
        receive(kind, miner="bert")
    before = stored()
    tried = run_command("void_receipts", "--miner", "anna", "--dry-run")
    assert (tried.code, "2 receipts would be voided." in tried.out) == (0, True)
    assert stored() == before
    assert run_command("void_receipts", "--job", job, "--kind", "finished", *WHY).code == 0
    since, until = timezone.now() - HOUR, timezone.now() + HOUR
    times = ("--since", since.isoformat(), "--until", until.isoformat(), "--validator", "us")
    done = run_command("void_receipts", "--miner", "anna", *times, *WHY)
    assert "2 receipts are voided." in done.out
    rows = [model._default_manager.get(miner_hotkey="anna") for model in RECEIPTS.values()]
    for row in rows:
        assert (row.voided_by, row.void_reason) == ("boss", REASON)
        assert type(row)._default_manager.get(miner_hotkey="bert").voided_at is None
    assert {(e.get_edited_object(), e.user, e.get_change_message()) for e in LogEntry.objects.all()} == {
        (row, boss, f"Voided: {REASON}") for row in rows
    }
    again = run_command("void_receipts", "--miner", "anna", *WHY)
    assert again == (1, "", "There is no matching receipt to void. Matching, but voided before: 2.")


@pytest.mark.usefixtures("boss")
def test_the_command_tells_programs_what_it_did() -> None:
    for miner in ("anna", "anna", "bert"):
        receive(JobStarted, miner=miner)
    told = json.loads(run_command("void_receipts", "--validator", "us", "--format", "json", *WHY).out)
    assert told == {
        "dry_run": False,
        "matching": 3,
        "voided": 3,
        "voided_before": 0,
        "of": [{"kind": "started", "receipts": 3, "miners": 2}],
    }


@pytest.mark.usefixtures("boss")
def test_without_a_terminal_only_yes_voids() -> None:
    receive(JobStarted)
    ended = run_command("void_receipts", "--miner", "anna", *WHY[:-1])
    assert (ended.code, "Add --yes" in ended.err) == (2, True)
    assert not JobStartedReceipt.objects.exclude(voided_at=None).exists()


@pytest.mark.usefixtures("boss")
def test_a_lock_that_is_not_had_in_time_leaves_what_was_voided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voiding, "VOIDED_AT_ONCE", 2)
    write = voiding.log

    def write_once(*what: Any) -> None:
        if LogEntry.objects.exists():
            raise LockTimeout
        write(*what)

    for _ in range(3):
        receive(JobStarted)
    with monkeypatch.context() as patch:
        patch.setattr(voiding, "log", write_once)
        ended = run_command("void_receipts", "--miner", "anna", *WHY)
    assert (ended.code, "1 of 3 receipts are not voided." in ended.err) == (3, True)
    assert JobStartedReceipt.objects.exclude(voided_at=None).count() == LogEntry.objects.count() == 2
    assert run_command("void_receipts", "--miner", "anna", *WHY).code == 0
    assert LogEntry.objects.count() == 3


BAD: list[tuple[list[str], str]] = [
    ([], "one or more of these options: --since, --until, --job, --miner, --validator."),
    (["--job", "x"], "--job: A job's uuid"),
    (["--miner", "a\0b"], r"--miner: 'a\x00b' is not a hotkey"),
    (["--validator", ""], "--validator: '' is not a hotkey"),
    (["--since", ""], "--since ''"),
    (["--since", "yesterday"], "--since 'yesterday'"),
    (["--since", "2026-01-01T12:00:00"], "--since '2026-01-01T12:00:00'"),
    (["--since", "0001-01-01T00:00:00+14:00"], "--since '0001"),
    (["--until", "9999-12-31T23:59:59-14:00"], "--until '9999"),
    (["--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"], "is not later than --since"),
    (["--miner", "anna", "--reason", " "], "--reason TEXT"),
    (["--miner", "anna", "--reason", "x" * 501], "--reason: Voiding needs a reason of 1 to 500"),
    (["--miner", "anna", "--by", "carl"], "not 'carl'"),
    (["--miner", "anna", "--by", "a\0b"], "--by must be the name of a user"),
    (["--miner", "anna", "--by", "clerk"], "a user with the permission router_receipts.void_receipts"),
]


@pytest.mark.usefixtures("boss")
@pytest.mark.parametrize(("bad", "named"), BAD, ids=lambda value: repr(value)[:60])
def test_the_command_names_bad_options_and_voids_nothing(bad: list[str], named: str) -> None:
    User.objects.create_user("clerk")
    receive(JobStarted)
    before = stored()
    ended = run_command("void_receipts", *WHY, *bad)
    assert (ended.code, stored()) == (2, before)
    assert named in ended.err


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_journal_s_void_of_another_age_is_refused_by_its_line(at: str) -> None:
    receive(JobStarted)
    void_receipt(receive(JobStarted, miner="bert"), **SAID)
    lines = [line.replace(NOW.isoformat().replace("+00:00", "Z"), at) for line in export()]
    (bad,) = [number for number, line in enumerate(lines, 1) if at in line]
    JobStartedReceipt.objects.all().delete()
    with pytest.raises(JournalError, match="a datetime with a time zone") as error:
        list(replay(line.encode() for line in lines))
    assert error.value.line == bad
    assert not JobStartedReceipt.objects.filter(miner_hotkey="bert").exists()
