"""The fates of an account's blocks, against the survey, and each block by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allowance.ledger import Balance, Steps, Window, earned_by_block, survey, to_bits
from allowance.oversight.fates import Fate, Run, runs, totals
from allowance.types import BLOCK_EXPIRY

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
def test_the_totals_add_up_to_what_the_runs_and_the_survey_say(balance: Balance, window: Window) -> None:
    by_fate = {fate: total.ns for fate, total in totals(balance, window).items()}
    assert by_fate == {fate: sum(run.ns for run in runs(balance, window) if run.fate is fate) for fate in Fate}
    assert by_fate[Fate.NONE] == by_fate[Fate.AGED_OUT] == 0
    (standing,) = survey(window, [balance])
    assert (standing.free, standing.spent) == (by_fate[Fate.FREE], by_fate[Fate.SPENT])
    assert standing.unspent - standing.free == by_fate[Fate.HELD]
    (whole,) = survey(window, [balance._replace(voided_before=0)])
    assert sum(by_fate.values()) == whole.earned


@given(balances(), windows, st.integers(0, SIZE))
def test_the_runs_cover_the_window_and_each_block_has_its_fate(balance: Balance, window: Window, old: int) -> None:
    window = replace(window, newest=LOW + BLOCK_EXPIRY + old)
    found = runs(balance, window)
    assert (found[0].first, found[-1].last) == (window.low, window.low + window.ns.size - 1)
    assert all(left.last + 1 == right.first and left.fate is not right.fate for left, right in pairwise(found))
    given_by = earned_by_block(window, balance)
    assert sum(total.blocks for total in totals(balance, window).values()) == window.ns.size
    for run in found:
        assert run.blocks > 0
        for block in range(run.first, run.last + 1):
            assert run.fate is fate_of(balance, block, int(given_by[block - window.low]), old)


def fate_of(balance: Balance, block: int, ns: int, old: int) -> Fate:
    if block < balance.base or not ns:
        return Fate.NONE
    if block < balance.voided_before:
        return Fate.VOIDED
    bit = 1 << (block - balance.base)
    if balance.spent & bit:
        return Fate.SPENT
    if balance.held & bit:
        return Fate.HELD
    return Fate.AGED_OUT if block < LOW + old else Fate.FREE


def test_a_window_in_which_nothing_was_recorded_is_one_run_of_nothing() -> None:
    nothing = Window(0, np.zeros(1, dtype=np.int64), None)
    balance = Balance("anna", "", 4, 0, 0, (), "class", 0, (), 0, 0, 0, 0)
    assert runs(balance, nothing) == [Run(Fate.NONE, 0, 0, 0)]
