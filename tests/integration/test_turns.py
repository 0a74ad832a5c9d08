"""The picks of one process take turns, and go on without a turn that does not come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from django.db import connection

from allowance import locks
from allowance.models import Reservation
from allowance.types import NotEnoughAllowanceException
from routing import routing
from routing.decision import book, pipeline, reading, turns
from routing.decision.model import Decision
from routing.decision.reading import Seen
from tests.factories import job_request
from tests.ledgers import CLASS
from tests.programs import DEADLINE

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert")]


@contextmanager
def a_pick_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Let another thread of this process pick, and stop it after its reading. Set the event to let it go on."""
    settle, stopped, go_on = pipeline.settle, Event(), Event()

    def settle_late(*what: Any, **how: Any) -> Decision:
        monkeypatch.setattr(pipeline, "settle", settle)
        stopped.set()
        go_on.wait(DEADLINE)
        return settle(*what, **how)

    def pick() -> None:
        try:
            routing().pick(job_request(12))
        finally:
            connection.close()

    monkeypatch.setattr(pipeline, "settle", settle_late)
    thread = Thread(target=pick)
    thread.start()
    assert stopped.wait(DEADLINE)
    try:
        yield go_on
    finally:
        go_on.set()
        thread.join()


class Asked:
    """A turn that lets the pick that has it go on as soon as another one asks for it."""

    def __init__(self, go_on: Event) -> None:
        self.lock, self.go_on = turns._locks[CLASS], go_on

    def acquire(self, timeout: float) -> bool:
        self.go_on.set()
        return self.lock.acquire(timeout=timeout)

    def release(self) -> None:
        self.lock.release()


def test_a_pick_waits_for_the_pick_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT", DEADLINE)
    with a_pick_in_its_turn(monkeypatch) as go_on:
        monkeypatch.setitem(turns._locks, CLASS, Asked(go_on))
        stored_when_read, read = [], reading.read

        def read_and_note(*what: Any, **how: Any) -> Seen:
            stored_when_read.append(Reservation.objects.count())
            return read(*what, **how)

        monkeypatch.setattr(reading, "read", read_and_note)
        routing().pick(job_request(12))
    assert stored_when_read == [1]


def test_a_pick_goes_on_without_a_turn_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT", 0.01)
    with a_pick_in_its_turn(monkeypatch) as go_on:
        routing().pick(job_request(12))
        assert not go_on.is_set()


def test_a_pick_gives_its_turn_away_whatever_becomes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    routing().pick(job_request(12))
    assert not turns._locks[CLASS].locked()
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))
    assert not turns._locks[CLASS].locked()
    monkeypatch.setattr(pipeline, "settle", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        routing().pick(job_request(12))
    assert not turns._locks[CLASS].locked()


def test_nobody_has_a_turn_while_it_waits_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book.LiveBook, "_reserve_as_read", lambda *_: None)
    locked, seen = locks.lock_account, []

    def lock_account(**how: Any) -> Any:
        seen.append(turns._locks[CLASS].locked())
        return locked(**how)

    monkeypatch.setattr(book, "lock_account", lock_account)
    routing().pick(job_request(12))
    assert seen == [False]


def test_a_fork_has_turns_of_its_own() -> None:
    with turns._locks[CLASS]:
        turns._begin_anew_in_child()
        assert not turns._locks[CLASS].locked()
