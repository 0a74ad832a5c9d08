"""Run a seed; if it fails, say so with the smallest history that still does."""

from __future__ import annotations

from collections.abc import Sequence

from tests.properties.coverage import Tally
from tests.properties.history import LENGTH, Step, dump, generate
from tests.properties.router import Router
from tests.properties.shrink import TRIES, shrink
from tests.properties.world import simulate


class Found(AssertionError):
    """Say what is wrong, how to see it again, and after which history: `journal`, a line for each step."""

    def __init__(self, seed: int | None, steps: list[Step], error: Exception) -> None:
        self.seed, self.steps, self.error = seed, steps, error
        self.journal = dump(steps)
        again = "" if seed is None else f"\nSee it again: SOAK_SEED={seed} SOAK_JOBS=1 SOAK_OPS=1 make soak"
        super().__init__(
            f"{type(error).__name__}: {error}\nSeed {seed}, shrunk to {len(steps)} steps:\n{self.journal}{again}"
        )


def run(seed: int, routers: Sequence[Router], tally: Tally, *, length: int = LENGTH, tries: int = TRIES) -> list[str]:
    """Go through the history of a seed and return its trace. Raises Found."""
    return run_history(generate(seed, length), routers, tally, seed=seed, tries=tries)


def run_history(
    steps: list[Step], routers: Sequence[Router], tally: Tally, *, seed: int | None = None, tries: int = TRIES
) -> list[str]:
    """Go through a history and return its trace. Raises Found, after so many `tries` to make it small at most."""
    told: list[Step] = []
    try:
        return simulate(steps, routers, tally, told)
    except Exception as error:
        kind = type(error)
        small = shrink(told, lambda smaller: isinstance(failure(smaller, routers), kind), tries=tries)
        told.clear()
        last = failure(small, routers, told) or error
        raise Found(seed, told, last) from error


def failure(steps: list[Step], routers: Sequence[Router], told: list[Step] | None = None) -> Exception | None:
    """Return what a history fails with, if it does."""
    try:
        simulate(steps, routers, Tally(), told)
    except Exception as error:
        return error
    return None
