"""The strip of an account's blocks, against the sums of the audit, the survey, and each block by itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allowance.ledger import Balance, Steps, Window, earned_by_block, survey, to_bits
from allowance.oversight import audit
from allowance.oversight.strip import BlockState, Run, strip, totals

LOW, SIZE = 1000, 30
END = LOW + SIZE
NUMBERS = st.integers(LOW - 10, END)


def steps(highest: int) -> st.SearchStrategy[Steps]:
    """Return step functions whose values alternate between 0 and something, up to `highest`."""
    return st.dictionaries(NUMBERS, st.integers(0, highest), max_size=5).map(lambda found: tuple(sorted(found.items())))


sets = st.sets(NUMBERS)


@st.composite
def balances(draw: st.DrawFn) -> Balance:
    held, spent, base = draw(sets), draw(sets), draw(st.integers(LOW - 10, LOW + 10))
    taken = to_bits(held - spent, base), to_bits(spent, base)
    voided_before = draw(st.integers(0, END))
    return Balance("anna", "10.0.0.1", 4, 1, 0, draw(steps(1)), "class", 1, draw(steps(3)), voided_before, base, *taken)


windows = st.lists(st.sampled_from([0, 1, 11_999_999_999]), min_size=1, max_size=SIZE).map(
    lambda ns: Window(LOW, np.array(ns, dtype=np.int64), LOW + len(ns) - 1)
)


@given(balances(), windows)
def test_the_runs_add_up_to_what_the_audit_and_the_survey_say(balance: Balance, window: Window) -> None:
    by_state = {state: total.ns for state, total in totals(strip(balance, window)).items()}
    parts = audit.sums(balance, window)
    assert (parts.free, parts.held, parts.spent, parts.voided) == (
        by_state[BlockState.FREE],
        by_state[BlockState.HELD],
        by_state[BlockState.SPENT],
        by_state[BlockState.VOIDED],
    )
    assert by_state[BlockState.NONE] == 0
    assert sum(by_state.values()) == parts.earned
    (standing,) = survey(window, [balance])
    assert (standing.free, standing.spent) == (by_state[BlockState.FREE], by_state[BlockState.SPENT])
    assert standing.unspent - standing.free == by_state[BlockState.HELD]


@given(balances(), windows)
def test_the_runs_cover_the_window_and_each_block_is_in_its_state(balance: Balance, window: Window) -> None:
    runs = strip(balance, window)
    assert (runs[0].first, runs[-1].last) == (window.low, window.newest)
    assert all(left.last + 1 == right.first and left.state is not right.state for left, right in pairwise(runs))
    given_by = earned_by_block(window, balance)
    assert sum(total.blocks for total in totals(runs).values()) == window.ns.size
    for run in runs:
        assert run.blocks > 0
        for block in range(run.first, run.last + 1):
            assert run.state is state_of(balance, block, int(given_by[block - window.low]))


def state_of(balance: Balance, block: int, ns: int) -> BlockState:
    if block < balance.base or not ns:
        return BlockState.NONE
    if block < balance.voided_before:
        return BlockState.VOIDED
    bit = 1 << (block - balance.base)
    if balance.spent & bit:
        return BlockState.SPENT
    return BlockState.HELD if balance.held & bit else BlockState.FREE


def test_a_window_in_which_nothing_was_recorded_is_one_run_of_nothing() -> None:
    nothing = Window(0, np.zeros(1, dtype=np.int64), None)
    balance = Balance("anna", "", 4, 0, 0, (), "class", 0, (), 0, 0, 0, 0)
    assert strip(balance, nothing) == [Run(BlockState.NONE, 0, 0, 0)]
