"""A site whose DATABASE_ROUTERS send the router's apps to the database `ledger`: all that it does, and where.

`test_two_databases` runs this program. It migrates both databases. Then it notes each statement on `default`, in every
thread, while the apps work.
"""
# ruff: noqa: E402 (Django is set up before models are imported)

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import django

django.setup()

from constance import config
from constance.models import Constance
from django.apps import apps
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.db.models import Model
from django.test import Client, RequestFactory
from django.test.utils import setup_test_environment
from django.urls import reverse
from django.utils import timezone

from allowance import allowance, clock
from allowance.models import Account, Reservation, ReservationState
from allowance.oversight.audit import check_ledger
from allowance.plumbing.database import alias, database
from receipts import receipts
from receipts.models import JobStartedReceipt
from receipts.schemas import JobFinished, JobStarted
from routing import routing
from routing.dynamic import WINDOW_HOURS
from routing.metrics import INCIDENTS
from routing.models import AccessToken, DecisionRecord, MinerIncident
from routing.types import MinerIncidentType
from routing.watch.views import readyz
from tests.complaints import OURS, complaints
from tests.factories import EXECUTOR_CLASS, job_request, run_command
from tests.ledgers import CLASS, NEWEST, fill_ledger
from tests.pages import page
from tests.programs import DEADLINE
from tests.threads import close_database_pool

CONFIG = "admin:constance_config_changelist"
REASON = "A host of ours was down."

on_default: list[str] = []
"""The statements on `default`, in all threads."""


def note(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    on_default.append(sql)
    return execute(sql, params, many, context)


def listen(connection: Any, **_: object) -> None:
    if connection.alias == "default" and note not in connection.execute_wrappers:
        connection.execute_wrappers.append(note)


@contextmanager
def nothing_on_default() -> Iterator[None]:
    """Insist that no thread runs a statement on `default`."""
    before = len(on_default)
    yield
    assert on_default[before:] == []


def tables(of: str) -> set[str]:
    with connections[of].cursor() as cursor:
        return set(connections[of].introspection.table_names(cursor))


def migrate() -> None:
    """Migrate both databases, each to its own tables, and check them."""
    for name in ("ledger", "default"):
        call_command("migrate", database=name, verbosity=0)
    assert (alias(), database().alias) == ("ledger", "ledger")
    assert complaints(databases=["default", "ledger"]) == []
    call_command("check", databases=["ledger"], fail_level="WARNING")
    models: list[type[Model]] = [*apps.get_models(include_auto_created=True)]
    ours = {model._meta.db_table for model in models if model._meta.app_label in OURS}
    assert tables("ledger") == ours | {"django_migrations"}
    assert tables("default") == {model._meta.db_table for model in models} - ours | {"django_migrations"}
    with connections["ledger"].cursor() as cursor:
        cursor.execute("ALTER TABLE router_receipts_jobstartedreceipt RENAME COLUMN ttl TO lifetime")
        found = complaints(databases=["ledger"])
        cursor.execute("ALTER TABLE router_receipts_jobstartedreceipt RENAME COLUMN lifetime TO ttl")
    assert {m.id for m in found} == {"routing.E025"}
    assert complaints(databases=["ledger"]) == []


def work() -> list[UUID]:
    """Record a ledger, pick, spend, release, record receipts and incidents. Return the jobs."""
    fill_ledger("anna", "bert", executors=8)
    assert clock.now() <= clock.now("ledger") <= clock.now()
    config.DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS = 5.0
    requests = [job_request(12) for _ in range(4)]
    jobs = [UUID(request.uuid) for request in requests]
    first, second = map(routing().pick, requests[:2])

    async def together() -> Any:
        return await asyncio.gather(*map(routing().pick_miner_for_job_request, requests[2:]))

    third, _ = asyncio.run(together())
    for route, end in (
        (first, allowance().spend_allowance),
        (second, allowance().undo_allowance_reservation),
    ):
        assert route.allowance_reservation_id is not None
        end(route.allowance_reservation_id)
    assert third.allowance_reservation_id is not None
    asyncio.run(allowance().aspend_allowance(third.allowance_reservation_id))
    for job in jobs[:3]:
        routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "anna", str(job), EXECUTOR_CLASS)
    counted = INCIDENTS.labels(MinerIncidentType.MINER_JOB_FAILED, CLASS)._value
    before = counted.get()
    with transaction.atomic(alias()):
        routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "bert", str(jobs[1]), EXECUTOR_CLASS)
        transaction.set_rollback(True, alias())
    assert (MinerIncident.objects.count(), counted.get(), before) == (3, 3.0, 3.0)
    now, whose = timezone.now(), {"miner_hotkey": "anna", "validator_hotkey": "victor"}
    started = JobStarted(job_uuid=jobs[0], timestamp=now, executor_class=CLASS, ttl=300, **whose)
    receipts().record(started)
    other = started.model_copy(update={"job_uuid": uuid4()})
    finished = JobFinished(job_uuid=jobs[0], timestamp=now, time_started=now, time_took_us=1, **whose)
    assert asyncio.run(receipts().arecord_many([other, finished])) == []
    assert receipts().get_busy_executor_count(CLASS, timezone.now()) == {"anna": 1}
    return jobs


def run_commands(job: UUID, folder: Path) -> None:
    """Run the commands that need no user."""
    journal = folder / "journal.jsonl"
    commands: list[list[object]] = [
        ["dry_run_routing", "--executor-class", CLASS, "--seconds", 12],
        ["explain_job", job],
        ["check_ledger"],
        ["reservations"],
        ["export_journal", journal],
        ["replay_journal", journal],
        ["prune", "--dry-run"],
        ["prune"],
        ["forget_blocks", "--from", NEWEST, "--dry-run"],
        ["issue_token", "facilitator", "--scope", "jobs"],
        ["revoke_token", "facilitator"],
    ]
    for name, *arguments in commands:
        ended = run_command(str(name), *arguments)
        assert ended.code == 0, (name, ended)
    assert run_command("routing_status").code < 3
    assert list(check_ledger()) == []
    assert len(journal.read_text().splitlines()) > NEWEST - 1000
    response: Any = asyncio.run(readyz(RequestFactory().get("/readyz")))
    assert response.status_code == 200, response.content


def fork() -> None:
    """Pick in a child of this process, in both kinds of threads, and then here. Each has connections of its own."""
    before, child = session(), os.fork()
    signal.alarm(round(DEADLINE))  # a child that hangs would keep the test's pipe open
    code = 1
    try:
        routing().pick(job_request(12))
        asyncio.run(routing().pick_miner_for_job_request(job_request(12)))
        assert child or before is None or session() != before
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        if not child:
            os._exit(code)
    assert code == 0
    assert (os.waitpid(child, 0)[1], session()) == (0, before)
    signal.alarm(0)


def session() -> int | None:
    """Return the process of PostgreSQL that serves this thread. SQLite has none."""
    server: Any = database().connection if database().vendor == "postgresql" else None
    pid: int | None = server and server.info.backend_pid
    return pid


def use_admin() -> None:
    """Look at the pages as a superuser, and void: an incident, several, a receipt. The log is in `default`."""
    boss, client = User.objects.create_superuser("boss"), Client()
    client.force_login(boss)
    one, *others = MinerIncident.objects.order_by("pk")
    rows: list[Model] = [one, *(model._default_manager.all()[0] for model in (Account, Reservation, DecisionRecord))]
    listed = [f"{row._meta.app_label}_{row._meta.model_name}" for row in (*rows, *JobStartedReceipt.objects.all()[:1])]
    places = ("/admin/", "/admin/routing/", "/admin/routing/decisionrecord/status/", reverse(CONFIG))
    for address in (*places, *(reverse(f"admin:{name}_changelist") for name in listed), *map(page, rows)):
        assert client.get(address).status_code == 200, address
    connections["ledger"].settings_dict["ATOMIC_REQUESTS"] = True
    for address in (*places, "/healthz", "/readyz", "/metrics"):
        assert client.get(address).status_code == 200, address
    connections["ledger"].settings_dict["ATOMIC_REQUESTS"] = False
    client.post(page(one, "void"), {"reason": REASON})
    chosen = {"action": "void", ACTION_CHECKBOX_NAME: [others[0].pk], "newest": others[0].pk, "select_across": "0"}
    client.post(reverse("admin:routing_minerincident_changelist"), {**chosen, "confirmed": "yes", "reason": REASON})
    assert MinerIncident.objects.filter(voided_by="boss").count() == 2
    receipt = JobStartedReceipt.objects.all()[0]
    client.post(page(receipt, "void"), {"reason": REASON})
    said = ("--reason", REASON, "--by", "boss", "--yes")
    for name in ("void_incidents", "void_receipts"):
        ended = run_command(name, "--miner", "anna", *said)
        assert ended.code == 0, ended
    for model in (MinerIncident, JobStartedReceipt):
        voids = model._default_manager.using("ledger").values_list("voided_by", "void_reason")
        assert {*voids} == {("boss", REASON)}
    voided = MinerIncident.objects.count() + JobStartedReceipt.objects.count()
    assert LogEntry.objects.using("default").count() == voided
    assert REASON in client.get(page(one, "history")).content.decode()
    form = client.get(reverse(CONFIG)).context["form"]
    fields = {name: form[name].value() for name in form.fields}
    assert client.post(reverse(CONFIG), {**fields, WINDOW_HOURS: "7"}).status_code == 302
    assert "7.0" in Constance.objects.using("ledger").get(key=WINDOW_HOURS).value


def main(folder: Path) -> None:
    setup_test_environment()  # the client then gives the contexts of its answers
    migrate()
    connection_created.connect(listen)
    for connection in connections.all():
        connection.close()
    with nothing_on_default():
        jobs = work()
        run_commands(jobs[0], folder)
    assert Reservation.objects.using("ledger").count() == 4
    assert Reservation.objects.using("ledger").filter(state=ReservationState.SPENT).count() == 2
    assert set(DecisionRecord.objects.using("ledger").values_list("job_uuid", flat=True)) == {*jobs}
    assert AccessToken.objects.using("ledger").count() == 1
    use_admin()
    assert on_default  # users, sessions and the log: they would have been noted before, too
    with nothing_on_default():
        fork()
    assert OURS.isdisjoint(table.partition("_")[0] for table in tables("default"))
    close_database_pool()
    sys.stdout.write("All is in its place.")


main(Path(sys.argv[1]))
