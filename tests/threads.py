"""Calls in threads of their own, each with its own connection to the database."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.db import connections


def side_by_side(*calls: Callable[[], object]) -> list[object]:
    """Make calls at once; return what they returned or raised."""

    def call(function: Callable[[], object]) -> object:
        try:
            return function()
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))
