"""Routers under load, and what they told their callers."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.faults.aftermath import Route, Told
from tests.faults.processes import Child
from tests.programs import DEADLINE

logger = logging.getLogger(__name__)

NAME = "router under load"
"""The application_name by which the server knows them."""


@dataclass
class Crowd:
    """Several routers at work, and what their callers heard: routes, how they ended, how perhaps, and errors.

    `began` has the times at which the calls began that got a route, and `failed` that of the last one with an error.
    """

    routers: list[Child]
    routes: dict[int, Route] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    doubtful: dict[int, str] = field(default_factory=dict)
    unrouted: set[UUID] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    began: dict[int, float] = field(default_factory=dict)
    failed: float = 0.0

    def wait_for_picks(self, least: int = 10) -> None:
        """Wait until every router has made so many picks that began after this call."""
        now, deadline = time.time(), time.monotonic() + DEADLINE
        for router in self.routers:
            picks = 0
            while picks < least:
                assert time.monotonic() < deadline, f"a router does not pick again: {self.errors}"
                line = router.hear()
                self._note(line)
                picks += line["told"] == "pick" and line["began"] > now

    def stop(self) -> None:
        """Let all routers come to their ends, of their own accord: none of them has ended before, or begun anew."""
        for router in self.routers:
            router.say("stop")
        for router in self.routers:
            assert "result" in router.answer(self._note)
        for router in self.routers:
            assert router.process.poll() is None
        for text, times in self.errors.items():
            logger.info("%d callers were told %s", times, text)

    def pick(self) -> Route:
        """Let one of them pick, after `stop`."""
        return self.routers[0].pick()

    @property
    def told(self) -> Iterator[Told]:
        """All routes, and the states in which what was told later leaves their reservations."""
        for pk, route in self.routes.items():
            states = {self.ended.get(pk, "held")}
            if pk in self.doubtful:  # the caller does not know whether that was done
                states |= {self.doubtful[pk]}
            yield Told(route, frozenset(states))

    def _note(self, line: dict[str, Any]) -> None:
        if line["told"] == "pick":
            route = Route(*line["route"])
            assert route.reservation not in self.routes
            self.routes[route.reservation] = route
            self.began[route.reservation] = line["began"]
        elif line["told"] == "error":
            self.errors[line["text"]] += 1
            self.failed = max(self.failed, line["began"])
            if "job" in line:
                self.unrouted.add(UUID(line["job"]))
            else:
                self.doubtful[line["reservation"]] = line["perhaps"]
        else:
            self.ended[line["reservation"]] = line["told"]


@contextmanager
def crowd(routers: int = 3) -> Iterator[Crowd]:
    """Start routers, and put them to work."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(PGAPPNAME=NAME)) for _ in range(routers)]
        for child in children:
            child.tell("serve_jobs")
        yield Crowd(children)
