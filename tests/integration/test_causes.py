"""Blocks and neuron lists that keep allowance from everybody are logged, found by the status, and named by refusals."""

from __future__ import annotations

import pytest
from django.test import Client

from allowance import allowance
from allowance.losses import absence
from allowance.oversight.forgetting import forget_blocks
from allowance.types import BLOCK_EXPIRY, NotEnoughAllowanceException
from routing import routing
from routing.types import AllMinersBusy
from routing.watch.findings import Level
from tests.clock import NOW, SECOND, noon
from tests.factories import job_request, run_command
from tests.integration.losses import MORE, NAMES, find, sync, warnings
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.pages import shown
from tests.rows import declare, mint

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), noon, pytest.mark.miners(*NAMES)]


@pytest.mark.miners(*NAMES, *MORE)
def test_miners_that_leave_one_by_one_beside_some_silent_ones_are_no_absence(caplog: pytest.LogCaptureFixture) -> None:
    for left in (1, 2, 3):
        mint(NEWEST + left, hotkeys=NAMES + MORE[left:])
    sync(NEWEST + 3, *NAMES[:2], asked=NAMES)
    assert (absence(NEWEST + 3), warnings(caplog)) == (None, [])


@pytest.mark.miners("anna")
def test_a_miner_that_changes_its_hotkey_twice_is_no_absence() -> None:
    for number, name in enumerate(["bert", "cleo"], start=NEWEST + 1):
        mint(number, hotkeys=[name])
        sync(number, name, asked=[name])
    assert absence(NEWEST + 2) is None


def test_a_list_of_strangers_after_a_silence_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sync(NEWEST)
    mint(NEWEST + 1, hotkeys=["strange"])
    assert ["4 of 4 miners with executors are not in" in warning for warning in warnings(caplog)] == [False, True]
    with pytest.raises(NotEnoughAllowanceException, match="4 of 4 miners with executors are not in"):
        routing().pick(job_request(12))


@pytest.mark.miners(*NAMES, *MORE)
def test_miners_that_stopped_long_ago_neither_hide_an_absence_nor_make_one(caplog: pytest.LogCaptureFixture) -> None:
    declare({name: {CLASS: 2} for name in MORE}, NEWEST, asked=NAMES + MORE)
    later = NEWEST + 2 * BLOCK_EXPIRY
    mint(later)
    for number, left, told in ((later + 1, NAMES, True), (later + 2, MORE, False)):
        mint(number, hotkeys=left)
        assert (absence(number) is not None) == told, left


def test_miners_that_left_long_before_the_list_that_is_in_force_again_are_an_absence() -> None:
    later = NEWEST + 3 * BLOCK_EXPIRY
    mint(NEWEST + 1, hotkeys=["strange"])
    mint(later)
    forget_blocks(later)
    lost = absence(NEWEST + 1)
    assert lost is not None
    assert (lost.gone, lost.miners) == (4, 4)


def test_miners_that_were_never_registered_are_an_absence() -> None:
    mint(NEWEST + 1, hotkeys=["strange"])
    declare(dict.fromkeys(MORE, 2), NEWEST + 1, asked=MORE)
    lost = absence(NEWEST + 1)
    assert lost is not None
    assert (lost.gone, lost.miners) == (7, 7)


@pytest.mark.miners
def test_a_stake_share_of_0_is_the_cause(caplog: pytest.LogCaptureFixture, admin_client: Client) -> None:
    for i in range(3):
        mint(FIRST_BLOCK + i, NOW - (30 - 12 * i) * SECOND, share=0, hotkeys=NAMES)
    sync(FIRST_BLOCK, *NAMES)
    assert [f"0 from block {FIRST_BLOCK} on" in warning for warning in warnings(caplog)] == [True]
    cause = "Our own stake share was 0 in 3 of the last 3 recorded blocks"
    with pytest.raises(
        NotEnoughAllowanceException, match=f"{cause}. Blocks with a stake share of 0 earn nothing. Check the stake"
    ):
        routing().pick(job_request(12))
    assert (find("blocks_without_stake").level, find("blocks_without_stake").value) == (Level.WARNING, 3)
    assert cause in find("blocks_without_stake").sentence
    for page in ("routing_board", "routing_ledger", "routing_status"):
        assert cause in shown(admin_client, page)


def test_an_empty_neuron_list_is_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    assert find("missing_miners").value == 0
    for number in (NEWEST + 1, NEWEST + 2):
        mint(number, hotkeys=[])
    cause = f"The neuron list of block {NEWEST + 2} is empty: no miner is registered."
    assert [f"block {NEWEST + 1} is empty" in warning for warning in warnings(caplog)] == [True]
    with pytest.raises(NotEnoughAllowanceException, match=cause):
        routing().pick(job_request(12))
    assert find("missing_miners").level is Level.CRITICAL


@pytest.mark.parametrize(("left", "level"), [(0, Level.CRITICAL), (1, Level.WARNING), (2, Level.OK)])
def test_a_list_that_lacks_most_neurons_is_the_cause(left: int, level: Level, caplog: pytest.LogCaptureFixture) -> None:
    """As of another subnet: it is not empty, but has only strangers."""
    listed = [*NAMES[:left], "strange", "unknown", "foreign"]
    for number in (NEWEST + 1, NEWEST + 2):
        mint(number, hotkeys=listed)
    sentence = f"{4 - left} of 4 miners with executors are not in the neuron list of block"
    told = level is not Level.OK
    assert [f"{sentence} {NEWEST + 1}" in warning for warning in warnings(caplog)] == [True] * told
    assert find("missing_miners").level is level
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3600))
    assert (f"{sentence} {NEWEST + 2}" in str(refused.value)) == told
    assert (absence(NEWEST + BLOCK_EXPIRY) is None) == (left == 2)
    # What went before has expired, but without a miner there is no allowance.
    assert (absence(NEWEST + 1 + BLOCK_EXPIRY) is None) == (left > 0)


@pytest.mark.miners
def test_a_first_list_of_strangers_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Until the first list those are registered who were asked in the first sync."""
    mint(NEWEST, NOW - 12 * SECOND)
    sync(NEWEST, *NAMES)
    mint(NEWEST + 1, hotkeys=["strange"])
    sentence = f"4 of 4 miners with executors are not in the neuron list of block {NEWEST + 1}"
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    assert find("missing_miners").level is Level.CRITICAL


def test_neurons_without_executors_may_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    for number, others in enumerate([["v", "w", "x", "y", "z"], ["a"], ["b", "c", "d"]], start=NEWEST + 1):
        mint(number, hotkeys=[*NAMES, *others])
    assert (warnings(caplog), find("missing_miners").level) == ([], Level.OK)


def test_validators_that_stay_do_not_hide_that_all_miners_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    validators = [f"v{i}" for i in range(20)]
    mint(NEWEST + 1, hotkeys=[*NAMES, *validators])
    mint(NEWEST + 2, hotkeys=validators)
    assert ["4 of 4 miners with executors" in warning for warning in warnings(caplog)] == [True]


def test_a_late_block_with_the_newest_list_is_told(caplog: pytest.LogCaptureFixture) -> None:
    mint(NEWEST + 3)
    mint(NEWEST + 2, hotkeys=[])
    assert [f"The neuron list of block {NEWEST + 2} is empty" in warning for warning in warnings(caplog)] == [True]


def test_a_busy_miner_does_not_hide_that_the_others_are_gone() -> None:
    mint(NEWEST + 1, hotkeys=["anna", "strange"])
    for _ in range(2):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy, match="3 of 4 miners with executors are not in the neuron list"):
        routing().pick(job_request(1))


def test_one_block_without_stake_among_many_is_no_cause() -> None:
    mint(NEWEST + 1, share=0)
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000))
    assert refused.value.causes == ()


def test_a_block_whose_number_is_far_ahead_is_found_by_the_blocks_that_are_missing() -> None:
    mint(NEWEST + 100_000)
    with pytest.raises(NotEnoughAllowanceException, match=r"722 of the last 723 blocks are missing.* forget_blocks\."):
        routing().pick(job_request(12))
    assert find("block_gaps").level is Level.CRITICAL


def test_an_unknown_class_has_no_cause_but_itself() -> None:
    sync(NEWEST)
    with pytest.raises(NotEnoughAllowanceException, match="Check the executor class"):
        allowance().find_miners_with_allowance(allowance_seconds=1, executor_class="x", job_start_block=NEWEST)


@pytest.mark.miners
def test_gaps_are_told_with_the_blocks_that_are_missing() -> None:
    for number in (0, 1, 4, 5, 9, 11, 13, 15):
        mint(FIRST_BLOCK + number, NOW - 12 * (16 - number) * SECOND)
    finding = find("block_gaps")
    assert (finding.level, finding.value) == (Level.WARNING, 8)
    assert finding.sentence.startswith(
        "8 of the last 16 blocks are missing (1002 to 1003, 1006 to 1008, …). "
        "These and the block before each gap earn nothing."
    )
    mint(FIRST_BLOCK + 15 + 722)
    finding = find("block_gaps")
    assert (finding.level, finding.value) == (Level.CRITICAL, 721)
    mint(FIRST_BLOCK + 15 + 724)
    assert find("block_gaps").value == 721  # the oldest of them are out of reach


def test_a_collateral_filter_that_is_off_is_worth_to_know_and_no_alarm() -> None:
    finding = find("collateral_filter")
    assert (finding.level, finding.value) == (Level.INFO, None)
    assert "DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI" in finding.sentence
    run_command("check_ledger")
    ended = run_command("routing_status")
    told = "OK: No problem was found. Note: collateral filter, follower heartbeat."
    assert (ended.code, ended.out.splitlines()[0]) == (0, told)
