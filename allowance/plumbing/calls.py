"""Calls to remote sources: a deadline on each, and their number, errors and times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

Answer = TypeVar("Answer")

DEADLINE = 10.0
"""The maximum time (s) of a call, unless the caller sets another one."""


class Calls:
    """The calls to one source. `counted` maps each method to its number of calls, errors, and seconds."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self.deadline = deadline
        self.counted: dict[str, list[float]] = {}

    @property
    def good(self) -> int:
        """The number of calls that had an answer."""
        return sum(round(counts[0] - counts[1]) for counts in self.counted.values())

    async def make(self, method: str, call: Awaitable[Answer], deadline: float | None = None) -> Answer:
        """Wait for the answer to a call. Raises TimeoutError after `deadline` seconds, and the errors of the call.

        Without a `deadline` it is that of all calls.
        """
        seconds = deadline or self.deadline
        counts = self.counted.setdefault(method, [0, 0, 0.0])
        begun = time.monotonic()
        counts[0] += 1
        try:
            async with asyncio.timeout(seconds):
                return await call
        except TimeoutError:
            counts[1] += 1
            raise TimeoutError(f"The call {method} had no answer within {seconds:g} s.") from None
        except asyncio.CancelledError:
            raise
        except BaseException:
            counts[1] += 1
            raise
        finally:
            counts[2] += time.monotonic() - begun
