"""Make a history that fails small: leave out what it fails without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.properties.history import Do, Step

History = list[Step]

TRIES = 400
MODEST: Do = {"limits": [0, 1, 0], "exclude": [], "seconds": 1}


def shrink(steps: History, fails: Callable[[History], bool], *, tries: int = TRIES) -> History:
    """Return a part of a failing history that still fails, and fails no more with any one thing left out.

    That is, unless the `tries` run out first.
    """
    left = tries

    def still_fails(smaller: History) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(smaller)

    before = None
    while steps != before:
        before = steps
        steps = _leave_out_steps(steps, still_fails)
        steps = _simplify_steps(steps, still_fails)
    return steps


def _leave_out_steps(steps: History, fails: Callable[[History], bool]) -> History:
    """Leave out runs of steps, long ones first, from the end to the beginning."""
    run = max(1, len(steps) // 2)
    while True:
        stop = len(steps)
        while stop > 0:
            start = max(0, stop - run)
            smaller = steps[:start] + steps[stop:]
            if fails(smaller):
                steps = smaller
            stop = start
        if run == 1:
            return steps
        run //= 2


def _simplify_steps(steps: History, fails: Callable[[History], bool]) -> History:
    for i in range(len(steps)):
        for simpler in _simpler(steps[i]):
            smaller = [*steps[:i], simpler, *steps[i + 1 :]]
            if fails(smaller):
                steps = smaller
                break
    return steps


def _simpler(step: Step) -> Iterator[Step]:
    """Yield the step with one action of several left out, or one crash, or with less asked for."""
    for i, action in enumerate(step.actions):
        before, after = step.actions[:i], step.actions[i + 1 :]
        if len(step.actions) > 1:
            yield replace(step, actions=before + after)
        if action.crash:
            yield replace(step, actions=(*before, replace(action, crash=None), *after))
        modest = {name: value for name, value in MODEST.items() if name in action.do}
        if action.do | modest != action.do:
            yield replace(step, actions=(*before, replace(action, do=action.do | modest), *after))
