"""Locks: who holds none waits, but not for ever, and is told so by name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Barrier, Event, Thread
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from allowance import allowance, reservations
from allowance.locks import ledger_transaction, lock_account, lock_chain
from allowance.models import Account, Reservation, new_version
from allowance.oversight.audit import check_ledger
from allowance.types import LockTimeout
from receipts.schemas import JobStarted
from routing import routing
from routing.decision.book import LiveBook
from routing.decision.pipeline import decide
from routing.log import records
from routing.models import MinerIncident
from routing.types import AllMinersBusy
from tests.factories import job_request, stored
from tests.ledgers import CLASS, NEWEST, fill_ledger
from tests.programs import DEADLINE
from tests.rows import declare, hold, mint, receive, report
from tests.threads import side_by_side

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")

needs_row_locks = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks the whole file, and waits")


class Holder:
    """Somebody else who has the account of a miner locked, or, without one, the chain.

    Who is given something to do `once_waited_for` does it under the lock, and lets go.
    """

    def __init__(self, miner: str | None, once_waited_for: Callable[[], object] | None = None) -> None:
        self.locked, self.let_go = Event(), Event()
        self.once_waited_for = once_waited_for
        self.thread = Thread(target=self.hold, args=(miner,))

    def hold(self, miner: str | None) -> None:
        try:
            with transaction.atomic():
                if miner is None:
                    lock_chain()
                else:
                    lock_account(miner=miner, executor_class=CLASS)
                self.locked.set()
                if self.once_waited_for is None:
                    self.let_go.wait(DEADLINE)
                elif self.is_waited_for():
                    self.once_waited_for()
        finally:
            connection.close()

    def is_waited_for(self) -> bool:
        """Wait until somebody waits for this very transaction (True), or it is told to let go (False)."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if somebody_waits():
                return True
            if self.let_go.wait(0.01):
                return False
        raise TimeoutError("nobody waits for this transaction")

    def __enter__(self) -> Holder:
        self.thread.start()
        assert self.locked.wait(DEADLINE)
        return self

    def __exit__(self, *_error: object) -> None:
        self.let_go.set()
        self.thread.join()


def somebody_waits() -> bool:
    """Tell whether somebody waits for this thread's transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))")
        return cursor.fetchone() is not None


@needs_row_locks
def test_a_report_and_a_batch_of_reports_do_not_wait_for_each_other() -> None:
    """Both tell of the same job, the batch as the last of its words."""
    fill_ledger("anna")
    job, done = uuid4(), []

    def report_it() -> None:
        report("anna", job)
        done.append(True)
        connection.close()

    thread = Thread(target=report_it)
    with transaction.atomic():
        report("anna")
        thread.start()
        while not somebody_waits():
            assert thread.is_alive()
        report("anna", job)
    thread.join()
    assert done == [True]
    assert MinerIncident.objects.count() == 2


def test_an_account_is_locked_in_a_transaction_only() -> None:
    with pytest.raises(transaction.TransactionManagementError):
        lock_account(pk=1)


@needs_row_locks
def test_a_locked_candidate_is_passed_over() -> None:
    fill_ledger("anna", "bert")
    with Holder("anna"):
        assert routing().pick(job_request()).miner.hotkey_ss58 == "bert"


@needs_row_locks
def test_a_locked_candidate_is_waited_for_when_the_others_fail() -> None:
    fill_ledger("anna", "bert", executors=1)
    routing().pick(job_request(12), exclude=["anna"])
    waited_for = Event()
    with Holder("anna", once_waited_for=waited_for.set):
        route = routing().pick(job_request(12))
    assert route.miner.hotkey_ss58 == "anna"
    assert waited_for.is_set()


@needs_row_locks
def test_whoever_waited_reads_again_what_is_ongoing() -> None:
    """A job that was never held starts meanwhile: the account's version can't tell."""
    fill_ledger("anna", executors=1)

    with Holder("anna", once_waited_for=lambda: receive(JobStarted)), pytest.raises(AllMinersBusy):
        routing().pick(job_request(12))


BOUNDED = r"^SELECT set_config\('lock_timeout', '(\d+)'"


@needs_row_locks
def test_a_pick_waits_for_all_locks_together_no_longer_than_for_one(settings: Settings) -> None:
    settings.ALLOWANCE_LOCK_TIMEOUT = 0.2
    fill_ledger("anna", "bert", "cleo", "dora", executors=1)
    routing().pick(job_request(12), exclude=["anna", "bert", "cleo"])
    with ExitStack() as holders:
        for miner in ("anna", "bert", "cleo"):
            holders.enter_context(Holder(miner))
        with CaptureQueriesContext(connection) as captured, pytest.raises(LockTimeout):
            routing().pick(job_request(12))
    waits = [int(ms) for q in captured for ms in re.findall(BOUNDED, q["sql"])]
    assert waits == [200, round(records.PATIENCE * 1000)]  # the second is for the record of the refusal
    assert Reservation.objects.count() == 1
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "anna"


@needs_row_locks
def test_a_pick_has_less_patience_after_each_wait(settings: Settings) -> None:
    """Whoever waited for a miner whose last executor was then taken waits for the next one only as long as is left."""
    settings.ALLOWANCE_LOCK_TIMEOUT = 30.0
    fill_ledger("anna", "bert", executors=1)
    waited_for_bert = Event()

    def take_anna() -> None:
        Account.objects.filter(miner="anna").update(executors=0, version=new_version())
        time.sleep(0.01)  # patience is counted in milliseconds

    with (
        Holder("anna", once_waited_for=take_anna),
        Holder("bert", once_waited_for=waited_for_bert.set),
        CaptureQueriesContext(connection) as captured,
    ):
        route = routing().pick(job_request(12))
    assert waited_for_bert.is_set()
    assert route.miner.hotkey_ss58 == "bert"
    first, second = (int(ms) for q in captured for ms in re.findall(BOUNDED, q["sql"]))
    assert second < first == 30_000
    Account.objects.filter(miner="anna").update(executors=1, version=new_version())


UNDER_THE_ACCOUNT: dict[str, Callable[[int], object]] = {
    "pick": lambda _: routing().pick(job_request()),
    "reserve": lambda _: hold("anna", 6),
    "spend": lambda held: allowance().spend_allowance(held),
    "undo": lambda held: allowance().undo_allowance_reservation(held),
    "drop": lambda _: declare({"anna": 1}),
    "leave": lambda _: mint(NEWEST + 1, timezone.now(), hotkeys=["bert"]),
    "repair": lambda _: list(check_ledger(repair=True)),
}

UNDER_THE_CHAIN: dict[str, Callable[[int], object]] = {
    **{name: UNDER_THE_ACCOUNT[name] for name in ("drop", "leave", "repair")},
    "block": lambda _: mint(NEWEST + 1, timezone.now()),
    "collateral": lambda _: allowance().record_collateral(hotkey="anna", wei=1),
}


@needs_row_locks
@pytest.mark.parametrize(
    ("holder", "operation"),
    [("anna", name) for name in UNDER_THE_ACCOUNT] + [(None, name) for name in UNDER_THE_CHAIN],
)
def test_who_waits_too_long_is_told_so_and_changes_nothing(
    holder: str | None, operation: str, settings: Settings
) -> None:
    settings.ALLOWANCE_LOCK_TIMEOUT = 0.05
    fill_ledger("anna")
    held, _ = hold("anna", 6)
    if operation == "repair":
        Account.objects.update(held=0)
    before = stored()
    call = UNDER_THE_CHAIN[operation] if holder is None else UNDER_THE_ACCOUNT[operation]
    with Holder(holder), pytest.raises(LockTimeout):
        call(held)
    assert stored() == before
    call(held)


@needs_row_locks
@pytest.mark.parametrize("operation", ["pick", "reserve", "spend", "undo"])
def test_nobody_who_routes_waits_for_the_chain(operation: str, settings: Settings) -> None:
    settings.ALLOWANCE_LOCK_TIMEOUT = 0.05
    fill_ledger("anna")
    held = routing().pick(job_request()).allowance_reservation_id or 0
    with Holder(None):
        UNDER_THE_ACCOUNT[operation](held)


@needs_row_locks
def test_a_deadlock_has_the_same_name() -> None:
    """The ledger's own order has none; a caller who nests its calls in transactions can make one."""
    fill_ledger("anna", "bert")
    both = Barrier(2)

    def lock(first: str, second: str) -> str:
        try:
            with ledger_transaction():
                lock_account(miner=first, executor_class=CLASS)
                both.wait(DEADLINE)
                lock_account(miner=second, executor_class=CLASS)
        except LockTimeout as error:
            return type(error.__cause__.__cause__).__name__ if error.__cause__ else ""
        return "both"

    outcomes = side_by_side(lambda: lock("anna", "bert"), lambda: lock("bert", "anna"))
    assert sorted(map(str, outcomes)) == ["DeadlockDetected", "both"]


@needs_row_locks
def test_a_pick_looks_again_at_who_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that a miner left with is recorded between what a pick read and its reservation."""
    fill_ledger("anna", "bert")
    hold = reservations.hold

    def hold_late(*what: Any, **how: Any) -> bool:
        monkeypatch.setattr(reservations, "hold", hold)
        side_by_side(lambda: mint(NEWEST + 1, timezone.now(), hotkeys=["bert"]))
        return hold(*what, **how)

    monkeypatch.setattr(reservations, "hold", hold_late)
    assert routing().pick(job_request()).miner.hotkey_ss58 == "bert"


@needs_row_locks
def test_a_miner_that_gets_free_during_the_wait_for_another_gets_the_job() -> None:
    """The ranking from before the wait knows it as busy."""
    fill_ledger("anna", "bert", executors=1)
    request = job_request(12)
    route = routing().pick(request, exclude=["bert"])
    report("bert")

    def let_anna_go() -> None:
        receive(JobStarted, miner="bert")
        side_by_side(lambda: allowance().spend_allowance(route.allowance_reservation_id or 0))

    with Holder("bert", once_waited_for=let_anna_go):
        assert routing().pick(job_request(12)).miner.hotkey_ss58 == "anna"


@needs_row_locks
def test_a_pick_waits_for_none_of_many_equals_while_one_of_them_is_free() -> None:
    names = [f"miner_{n:02}" for n in range(12)]
    fill_ledger(*names)
    with ExitStack() as holders:
        for name in names[:10]:
            holders.enter_context(Holder(name))
        book = LiveBook()
        decision = decide(job_request(12), book)
    assert decision.route is not None
    assert (decision.route.miner.hotkey_ss58, book.waits) == (names[10], 0)


@needs_row_locks
def test_an_account_that_was_written_without_a_number_is_read_again_under_its_lock() -> None:
    fill_ledger("anna", executors=3)
    routing().pick(job_request(12))
    QuerySet(Account).filter(miner="anna").update(version=new_version())
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "anna"
