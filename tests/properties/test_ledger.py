"""The arithmetic, against sums done block by block."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allowance.ledger import Balance, Steps, Window, assign, forget, rebase, survey, take, to_bits, to_blocks, value_at

LOW, SIZE = 100, 24
BLOCKS = range(LOW - 10, LOW + SIZE)

steps = st.lists(
    st.tuples(st.integers(LOW - 10, LOW + SIZE), st.integers(0, 3), st.none() | st.integers(1, 12)), max_size=5
)


def build(changes: list[tuple[int, int, int | None]]) -> tuple[Steps, dict[int, int]]:
    """Return a step function and, by block, what it should say."""
    function: Steps = ()
    values = dict.fromkeys(BLOCKS, 0)
    for start, value, length in changes:
        stop = None if length is None else start + length
        function = assign(function, value, start, stop)
        values |= {b: value for b in BLOCKS if b >= start and (stop is None or b < stop)}
    return function, values


@given(steps)
def test_a_step_function_says_what_was_assigned_last(changes: list[tuple[int, int, int | None]]) -> None:
    function, values = build(changes)
    assert {b: value_at(function, b) for b in BLOCKS} == values
    assert all(a[0] < b[0] and a[1] != b[1] for a, b in pairwise(function))


@given(steps, st.integers(LOW - 10, LOW + SIZE))
def test_forgetting_changes_nothing_from_the_horizon_on(
    changes: list[tuple[int, int, int | None]], horizon: int
) -> None:
    function, values = build(changes)
    kept = forget(function, horizon)
    assert all(value_at(kept, b) == values[b] for b in BLOCKS if b >= horizon)


sets = st.sets(st.sampled_from(list(BLOCKS)))


@given(
    counts=steps,
    presence=st.lists(st.tuples(st.integers(LOW - 10, LOW + SIZE), st.integers(0, 1), st.just(None)), max_size=4),
    held=sets,
    spent=sets,
    base=st.integers(LOW - 10, LOW + 10),
    voided_before=st.integers(0, LOW + SIZE),
    ns=st.lists(st.integers(0, 12 * 10**9), min_size=SIZE, max_size=SIZE),
    need=st.integers(1, 40 * 10**9),
)
def test_a_survey_and_a_taking_agree_with_sums_block_by_block(
    *,
    counts: list[tuple[int, int, int | None]],
    presence: list[tuple[int, int, None]],
    held: set[int],
    spent: set[int],
    base: int,
    voided_before: int,
    ns: list[int],
    need: int,
) -> None:
    count, executors = build(counts)
    present, registered = build([*presence])
    bits = to_bits(held - spent, base), to_bits(spent, base)
    balance = Balance("anna", "10.0.0.1", 4, 1, 0, present, "class", 1, count, voided_before, base, *bits)
    window = Window(LOW, np.array(ns, dtype=np.int64), LOW + SIZE - 1)
    usable = range(max(LOW, base, voided_before), LOW + SIZE)
    earned = {b: ns[b - LOW] * executors[b] * registered[b] for b in usable}
    free = {b: n for b, n in earned.items() if n and b not in held | spent}

    (standing,) = survey(window, [balance])
    assert standing.earned == sum(earned.values())
    assert standing.free == sum(free.values())
    assert standing.spent == sum(n for b, n in earned.items() if b in spent)
    assert standing.earliest == min(free, default=None)

    taken = take(window, balance, need)
    if sum(free.values()) < need:
        assert taken is None
    else:
        assert taken is not None
        assert taken == sorted(free)[: len(taken)]
        assert sum(free[b] for b in taken) >= need > sum(free[b] for b in taken[:-1])


@given(sets, st.integers(0, LOW), st.integers(0, 3000))
def test_rebasing_forgets_only_what_is_out_of_reach(blocks: set[int], base: int, newest: int) -> None:
    balance = Balance("anna", "", 4, 0, 0, (), "class", 1, (), 0, base, to_bits(blocks, base), 0)
    moved = rebase(balance, newest)
    assert moved.base >= base
    assert to_blocks(moved.held, moved.base) == sorted(b for b in blocks if b >= moved.base)
