"""The turns of the picks of this process. Two picks at once would choose the same account, and one would read again.

Turns only save time. Correctness does not depend on them.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import Self

from allowance.interface import EXECUTOR_CLASSES

WAIT = 0.02
"""The maximum wait (s) for a turn. If the database is far away, picks are slow, and are better made side by side."""

_locks = {executor_class: Lock() for executor_class in EXECUTOR_CLASSES}
"""The locks by which the picks of this process take turns, by class."""


class Turn:
    """The turn of a pick of a class, from `with` until `end`. After a wait of WAIT the pick goes on without it."""

    def __init__(self, executor_class: str) -> None:
        self._lock = _locks.get(executor_class)
        self._is_mine = False

    def __enter__(self) -> Self:
        self._is_mine = self._lock is not None and self._lock.acquire(timeout=WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let another pick of this process go on. A pick calls this before it waits for a lock of the database."""
        if self._lock and self._is_mine:
            self._is_mine = False
            self._lock.release()


def _begin_anew_in_child() -> None:
    """Give a forked child new locks: a thread of the parent may hold an old one, and can't release it in the child."""
    _locks.update({executor_class: Lock() for executor_class in EXECUTOR_CLASSES})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
