"""Workers that measure: tell them what to do, all at once, and hear what it took."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.programs import Worker

Advance = Callable[[int, int], None]
"""Take note that so many are done, of so many."""

Turn = Callable[[], list[float]]
"""Measure for a while, and return what was measured."""


class Team:
    """Workers on one database.

    `outcomes` counts what became of all that was repeated for a rate. Of each turn that has them, the first of which
    only warmed up, `lags` are the seconds that event loops were late, `latencies` the milliseconds that answers took.
    """

    def __init__(self, workers: list[Worker], stretch: int, seconds: float) -> None:
        self._workers = workers
        self._stretch = stretch
        self._seconds = seconds
        self.outcomes: Counter[str] = Counter()
        self.lags: list[list[float]] = []
        self.latencies: list[list[float]] = []

    def part(self, *members: int) -> Team:
        """Return a team of some of its workers."""
        return Team([self._workers[i] for i in members], self._stretch, self._seconds)

    def do(self, operation: str, **how: object) -> list[Any]:
        """Let all do something at the same time, and return their answers."""
        for worker in self._workers:
            worker.tell(operation, **how)
        return [worker.answer() for worker in self._workers]

    def time(self, act: str, count: int | None = None, **how: object) -> Turn:
        """Return the turn in which the only worker acts a few times, which gives the milliseconds of each."""

        def turn() -> list[float]:
            (seconds,) = self.do("time_each", act=act, count=count or self._stretch, **how)
            self.do("undo")
            return [second * 1000 for second in seconds]

        return turn

    def stretch(self, act: str, seconds: float) -> Turn:
        """Return the turn in which the only worker acts for some seconds, which gives the milliseconds of each."""

        def turn() -> list[float]:
            (times,) = self.do("time_for", act=act, seconds=seconds)
            return [second * 1000 for second in times]

        return turn

    def rate(self, operation: str = "repeat", **how: object) -> Turn:
        """Return the turn in which all act as often as they can, which gives how often that was in a second."""

        def turn() -> list[float]:
            answers = self.do(operation, seconds=self._seconds, **how)
            self.do("undo")
            for answer in answers:
                self.outcomes.update(answer["outcomes"])
                self.lags += [answer["lags"]] if "lags" in answer else []
                self.latencies += [answer["latencies"]] if "latencies" in answer else []
            done = sum(answer["outcomes"].get("done", 0) for answer in answers)
            return [done / max(answer["seconds"] for answer in answers)]

        return turn


@contextmanager
def workers_on(url: str, number: int, environment: Mapping[str, object] | None = None) -> Iterator[list[Worker]]:
    """Start so many workers; at the end they are gone."""
    given = {"DATABASE_URL": url, "LOG_LEVEL": "INFO", **(environment or {})}
    with ExitStack() as stack:
        workers = (Worker("tests.benchmarks.worker", **given) for _ in range(number))
        yield [stack.enter_context(worker) for worker in workers]


def take_turns(turns: Mapping[str, Turn], rounds: int, advance: Advance) -> dict[str, list[float]]:
    """Let each have its turn, A B A B, and return what each measured. One more round before them only warms up."""
    measured: dict[str, list[float]] = {name: [] for name in turns}
    for done in range(rounds + 1):
        for name, turn in turns.items():
            figures = turn()
            if done:
                measured[name] += figures
        advance(done, rounds)
    return measured


def percentile(figures: list[float], percent: int) -> float:
    """Return the figure that so many percent of all do not exceed."""
    return statistics.quantiles(figures, n=100, method="inclusive")[percent - 1] if len(figures) > 1 else figures[0]
