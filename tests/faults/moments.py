"""The moments at which a fault may strike: right before every statement, right before every COMMIT, right after it.

A statement that writes outside a transaction is its own COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

BEFORE_COMMIT, AFTER_COMMIT = "COMMIT", "after COMMIT"


@contextmanager
def each_moment(happen: Callable[[str], object]) -> Iterator[None]:
    """Call `happen` at every moment of this thread's connection, with its name: the statement, or one of the above."""
    wrapper: Any = connections["default"]
    commit = wrapper._commit

    def before_statement(execute: Callable[..., object], sql: str, *rest: Any) -> object:
        happen(sql)
        answer = execute(sql, *rest)
        if sql.startswith("WITH") and not wrapper.in_atomic_block and rest[-1]["cursor"].rowcount:
            happen(AFTER_COMMIT)
        return answer

    def around_commit() -> None:
        happen(BEFORE_COMMIT)
        commit()
        happen(AFTER_COMMIT)

    vars(wrapper)["_commit"] = around_commit
    try:
        with wrapper.execute_wrapper(before_statement):
            yield
    finally:
        del vars(wrapper)["_commit"]
