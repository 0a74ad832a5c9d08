"""What keeps allowance from everybody is logged, found by the status, and named by refusals and pages."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from allowance import allowance
from allowance.losses import CHECK_MANIFESTS, absence, silences
from allowance.models import ManifestSync
from allowance.types import BLOCK_EXPIRY, ExecutorClass, NotEnoughAllowanceException
from routing import routing
from routing.log import explain, replay
from routing.models import DecisionRecord
from routing.types import AllMinersBusy
from routing.watch.findings import Finding, Level
from routing.watch.status import status
from tests.factories import CLASS, FIRST_BLOCK, fill_ledger, job_request, run_command

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
NEWEST = FIRST_BLOCK + 20
NAMES = ["anna", "bert", "cleo", "dora"]
AXON = {"address": "10.0.0.1", "ip_version": 4, "port": 9000}


@pytest.fixture(autouse=True)
def clock(transactional_db: None) -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


def sync(block: int, *answering: str, asked: list[str] = NAMES) -> None:
    axons = dict.fromkeys(asked, AXON)
    allowance().record_manifests(block=block, axons=axons, executors={name: {CLASS: 2} for name in answering})


def find(name: str) -> Finding:
    return next(finding for finding in status(NOW).findings if finding.name == name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


SILENCE = f"4 of 4 miners that had answered were silent at block {NEWEST}: their allowance is void."


def test_a_sync_that_nobody_answered_is_told_everywhere(caplog: pytest.LogCaptureFixture, admin_client: Client) -> None:
    fill_ledger(*NAMES)
    assert (find("silent_miners").level, find("silent_miners").value) == (Level.OK, 0)
    sync(NEWEST)
    sync(NEWEST)  # again: it changes nothing
    assert [SILENCE in warning for warning in warnings(caplog)] == [True]
    assert (find("silent_miners").level, find("silent_miners").value) == (Level.CRITICAL, 100)
    assert SILENCE in find("silent_miners").sentence
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(12))
    assert any(SILENCE in cause for cause in refused.value.causes)
    assert SILENCE in str(refused.value)
    with pytest.raises(NotEnoughAllowanceException, match="4 of 4 miners"):
        allowance().find_miners_with_allowance(allowance_seconds=1, executor_class=CLASS, job_start_block=NEWEST)
    assert SILENCE in run_command("dry_run_routing", "--executor-class", CLASS, "--seconds", "12").out
    for page in ("routing_board", "routing_ledger", "routing_status"):
        assert SILENCE in admin_client.get(reverse(f"admin:{page}")).content.decode()
    assert SILENCE in admin_client.get(reverse("admin:routing_miner", args=["anna"])).content.decode()


def test_a_recorded_refusal_keeps_its_cause() -> None:
    fill_ledger(*NAMES)
    sync(NEWEST)
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(12))
    sync(NEWEST + 1, *NAMES)
    ManifestSync.objects.update(silent=[])  # what is said now is another matter
    record = DecisionRecord.objects.get()
    (explained,) = explain.explain([record])
    assert SILENCE in explained.fate(NOW)
    assert replay.differences(record) == []


@pytest.mark.parametrize(
    ("answering", "told"),
    [(["anna", "bert"], False), (["anna"], True), (["nina"], True)],
    ids=["half", "more", "others"],
)
def test_more_than_half_must_be_silent(answering: list[str], told: bool, caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    sync(NEWEST, *answering, asked=[*NAMES, "nina"])
    assert bool(warnings(caplog)) == told
    assert (find("silent_miners").level is not Level.OK) == told


def test_miners_that_are_not_asked_are_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    sync(NEWEST, "anna", asked=["anna"])
    assert (warnings(caplog), find("silent_miners").value) == ([], 0)


def test_a_silence_is_told_for_as_long_as_it_lasts() -> None:
    fill_ledger(*NAMES)
    for block in range(NEWEST, NEWEST + BLOCK_EXPIRY + 100, 100):
        sync(block)
    newest = NEWEST + BLOCK_EXPIRY + 100
    assert [silence.block for silence in silences(newest)] == [NEWEST]
    sync(newest, "anna")
    assert silences(newest) == []


def test_who_answers_with_no_executors_is_silent() -> None:
    """Else all that a miner had would be void without a word."""
    fill_ledger(*NAMES)
    allowance().record_manifests(
        block=NEWEST, axons=dict.fromkeys(NAMES, AXON), executors={name: {CLASS: 0} for name in NAMES}
    )
    assert find("silent_miners").level is Level.CRITICAL
    with pytest.raises(NotEnoughAllowanceException, match="4 of 4 miners that had answered were silent"):
        routing().pick(job_request())


def test_of_two_syncs_at_a_block_the_last_says_who_answered() -> None:
    """Who was silent in the last of them is not silent anew in the next."""
    fill_ledger(*NAMES)
    sync(NEWEST, "anna")
    sync(NEWEST, "bert")
    sync(NEWEST + 1, "anna")
    newest = ManifestSync.objects.latest("pk")
    assert newest.silent == [[None, 1, 1]]


OTHER = ExecutorClass.always_on__llm__a6000


def declare(block: int, answers: dict[str, dict[str, int]]) -> None:
    allowance().record_manifests(block=block, axons=dict.fromkeys(NAMES, AXON), executors=answers)


def test_a_class_that_most_miners_declare_no_more_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    declare(NEWEST, {name: {OTHER: 2} for name in NAMES})
    sentence = (
        f"4 of 4 miners that had executors of {CLASS} declared none at block {NEWEST}: their allowance for it is void."
    )
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    assert (find("silent_miners").level, find("silent_miners").sentence) == (
        Level.CRITICAL,
        f"{sentence} {CHECK_MANIFESTS}",
    )
    with pytest.raises(NotEnoughAllowanceException, match=sentence):
        routing().pick(job_request(12))
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3600, executor_class=OTHER))
    assert refused.value.causes == ()  # the other class lost nothing
    declare(NEWEST + 1, {name: {OTHER: 2, CLASS: n} for n, name in enumerate(NAMES)})
    assert find("silent_miners").level is Level.CRITICAL  # what the miners had is void still
    assert [silence.executor_class for silence in silences(NEWEST + BLOCK_EXPIRY)] == []


def test_a_class_that_nobody_declares_is_the_cause_however_long_ago_it_was_left() -> None:
    fill_ledger(*NAMES)
    declare(NEWEST, {name: {OTHER: 2} for name in NAMES})
    allowance().record_block(number=NEWEST + BLOCK_EXPIRY, timestamp=NOW, stake_share=0.5)
    assert silences(NEWEST + BLOCK_EXPIRY) == []
    with pytest.raises(NotEnoughAllowanceException, match=f"No registered miner declares executors of {CLASS}"):
        routing().pick(job_request(12))


@pytest.mark.parametrize("between", [[], NAMES[:1]], ids=["nobody", "one"])
def test_a_sync_that_asks_few_hides_no_silence(between: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """As after a neuron list that came empty: nobody is asked, then nobody answers."""
    fill_ledger(*NAMES)
    sync(NEWEST - 5, *between, asked=between)
    sync(NEWEST, *between)
    sentence = f"{4 - len(between)} of 4 miners that had answered were silent at block {NEWEST}"
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    assert sentence in find("silent_miners").sentence
    with pytest.raises(NotEnoughAllowanceException, match=sentence):
        routing().pick(job_request(600))


def test_a_silence_that_is_over_is_told_for_as_long_as_blocks_last_and_no_longer() -> None:
    fill_ledger(*NAMES)
    sync(NEWEST)
    sync(NEWEST + 10, *NAMES)
    later = NEWEST + BLOCK_EXPIRY
    sync(later, asked=[])
    assert [silence.block for silence in silences(later - 1)] == [NEWEST]
    assert silences(later) == []


def test_a_newer_silence_does_not_hide_an_older_one() -> None:
    fill_ledger(*NAMES, "eric", "fred", "gina")
    names = [*NAMES, "eric", "fred", "gina"]
    axons = dict.fromkeys(names, AXON)
    full: dict[str, dict[str, int]] = {name: {CLASS if name in NAMES else OTHER: 2} for name in names}
    for block, answers in (
        (NEWEST - 9, full),
        (NEWEST - 8, {}),
        (NEWEST - 4, full),
        (NEWEST, dict.fromkeys(NAMES, full["anna"])),
    ):
        allowance().record_manifests(block=block, axons=axons, executors=answers)
    told = [(silence.block, silence.executor_class, silence.silent) for silence in silences(NEWEST)]
    assert told == [(NEWEST - 8, None, 7), (NEWEST, OTHER, 3)]
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000))
    assert [
        f"7 of 7 miners that had answered were silent at block {NEWEST - 8}" in c for c in refused.value.causes
    ] == [True]


@pytest.mark.parametrize(("leaving", "told"), [(2, False), (3, True)])
def test_more_than_half_and_three_must_leave_a_class(
    leaving: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fill_ledger(*NAMES)
    declare(NEWEST, {name: {OTHER: 1} if i < leaving else {CLASS: 1} for i, name in enumerate(NAMES)})
    assert bool(warnings(caplog)) == told
    assert (find("silent_miners").level is not Level.OK) == told


def test_two_miners_may_leave_a_class_without_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    declare(NEWEST - 1, {name: {CLASS: 2, OTHER: 1} for name in NAMES[:2]} | {name: {CLASS: 2} for name in NAMES[2:]})
    declare(NEWEST, {name: {CLASS: 2} for name in NAMES})
    assert (warnings(caplog), find("silent_miners").level) == ([], Level.OK)


def test_a_busy_miner_does_not_hide_that_the_others_are_silent() -> None:
    fill_ledger(*NAMES)
    sync(NEWEST, "anna")
    for _ in range(2):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy) as refused:
        routing().pick(job_request(1))
    sentence = f"3 of 4 miners that had answered were silent at block {NEWEST}: their allowance is void."
    assert refused.value.decision.causes == (f"{sentence} {CHECK_MANIFESTS}",)
    assert sentence in str(refused.value)
    (explained,) = explain.explain([DecisionRecord.objects.latest("at", "pk")])
    assert sentence in explained.fate(NOW)


def test_a_refusal_of_busy_miners_names_no_cause_of_a_few_without_allowance() -> None:
    fill_ledger(*NAMES)
    sync(NEWEST, "anna", "bert", "cleo")
    allowance().record_block(number=NEWEST + 100, timestamp=NOW, stake_share=0.5)
    for _ in range(6):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy) as refused:
        routing().pick(job_request(1))
    assert refused.value.decision.causes == ()


def test_a_refusal_that_does_not_follow_from_the_silence_does_not_name_it() -> None:
    others = ["eric", "fred", "gina"]
    fill_ledger(*NAMES, *others)
    sync(NEWEST, "anna")
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000), exclude=["bert", "cleo", "dora"])
    assert refused.value.causes  # the others are candidates, only not asked
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=0.5, hotkeys=["anna", *others])
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000))
    assert refused.value.causes == ()


def test_a_stake_share_of_0_is_the_cause(caplog: pytest.LogCaptureFixture, admin_client: Client) -> None:
    for i in range(3):
        allowance().record_block(
            number=FIRST_BLOCK + i, timestamp=NOW - dt.timedelta(seconds=30 - 12 * i), stake_share=0, hotkeys=NAMES
        )
    sync(FIRST_BLOCK, *NAMES)
    assert [f"0 from block {FIRST_BLOCK} on" in warning for warning in warnings(caplog)] == [True]
    cause = "Our own stake share was 0 in 3 of the last 3 blocks"
    with pytest.raises(NotEnoughAllowanceException, match=f"{cause}, which earn nothing. Check the stake"):
        routing().pick(job_request(12))
    assert (find("blocks_without_stake").level, find("blocks_without_stake").value) == (Level.WARNING, 3)
    assert cause in find("blocks_without_stake").sentence
    for page in ("routing_board", "routing_ledger", "routing_status"):
        assert cause in admin_client.get(reverse(f"admin:{page}")).content.decode()


def test_an_empty_neuron_list_is_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    assert find("missing_miners").value == 0
    for number in (NEWEST + 1, NEWEST + 2):
        allowance().record_block(number=number, timestamp=NOW, stake_share=0.5, hotkeys=[])
    cause = f"The neuron list of block {NEWEST + 2} is empty: no miner is registered."
    assert [f"block {NEWEST + 1} is empty" in warning for warning in warnings(caplog)] == [True]
    with pytest.raises(NotEnoughAllowanceException, match=cause):
        routing().pick(job_request(12))
    assert find("missing_miners").level is Level.CRITICAL


@pytest.mark.parametrize(("left", "level"), [(0, Level.CRITICAL), (1, Level.WARNING), (2, Level.OK)])
def test_a_list_that_lacks_most_neurons_is_the_cause(left: int, level: Level, caplog: pytest.LogCaptureFixture) -> None:
    """As of another subnet: it is not empty, but has only strangers."""
    fill_ledger(*NAMES)
    listed = [*NAMES[:left], "strange", "unknown", "foreign"]
    for number in (NEWEST + 1, NEWEST + 2):
        allowance().record_block(number=number, timestamp=NOW, stake_share=0.5, hotkeys=listed)
    sentence = f"{4 - left} of 4 miners with executors are not in the neuron list of block"
    told = level is not Level.OK
    assert [f"{sentence} {NEWEST + 1}" in warning for warning in warnings(caplog)] == [True] * told
    assert find("missing_miners").level is level
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3600))
    assert (f"{sentence} {NEWEST + 2}" in str(refused.value)) == told
    assert (absence(NEWEST + BLOCK_EXPIRY) is None) == (left == 2)
    assert absence(NEWEST + 1 + BLOCK_EXPIRY) is None  # what went before has expired


def test_a_first_list_of_strangers_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Until the first list those are registered who were asked in the first sync."""
    allowance().record_block(number=NEWEST, timestamp=NOW - dt.timedelta(seconds=12), stake_share=0.5)
    sync(NEWEST, *NAMES)
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=0.5, hotkeys=["strange"])
    sentence = f"4 of 4 miners with executors are not in the neuron list of block {NEWEST + 1}"
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    assert find("missing_miners").level is Level.CRITICAL


def test_neurons_without_executors_may_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    for number, others in enumerate([["v", "w", "x", "y", "z"], ["a"], ["b", "c", "d"]], start=NEWEST + 1):
        allowance().record_block(number=number, timestamp=NOW, stake_share=0.5, hotkeys=[*NAMES, *others])
    assert (warnings(caplog), find("missing_miners").level) == ([], Level.OK)


def test_validators_that_stay_do_not_hide_that_all_miners_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    validators = [f"v{i}" for i in range(20)]
    fill_ledger(*NAMES)
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=0.5, hotkeys=[*NAMES, *validators])
    allowance().record_block(number=NEWEST + 2, timestamp=NOW, stake_share=0.5, hotkeys=validators)
    assert ["4 of 4 miners with executors" in warning for warning in warnings(caplog)] == [True]


def test_a_late_block_with_the_newest_list_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger(*NAMES)
    allowance().record_block(number=NEWEST + 3, timestamp=NOW, stake_share=0.5)
    allowance().record_block(number=NEWEST + 2, timestamp=NOW, stake_share=0.5, hotkeys=[])
    assert [f"The neuron list of block {NEWEST + 2} is empty" in warning for warning in warnings(caplog)] == [True]


def test_a_busy_miner_does_not_hide_that_the_others_are_gone() -> None:
    fill_ledger(*NAMES)
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=0.5, hotkeys=["anna", "strange"])
    for _ in range(2):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy, match="3 of 4 miners with executors are not in the neuron list"):
        routing().pick(job_request(1))


def test_one_block_without_stake_among_many_is_no_cause() -> None:
    fill_ledger(*NAMES)
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=0)
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000))
    assert refused.value.causes == ()


def test_a_block_whose_number_is_far_ahead_is_found_by_the_blocks_that_are_missing() -> None:
    fill_ledger(*NAMES)
    allowance().record_block(number=NEWEST + 100_000, timestamp=NOW, stake_share=0.5)
    with pytest.raises(NotEnoughAllowanceException, match=r"722 of the last 723 blocks are missing.* forget_blocks\."):
        routing().pick(job_request(12))
    assert find("block_gaps").level is Level.CRITICAL


def test_an_unknown_class_has_no_cause_but_itself() -> None:
    fill_ledger(*NAMES)
    sync(NEWEST)
    with pytest.raises(NotEnoughAllowanceException, match="Check the executor class"):
        allowance().find_miners_with_allowance(allowance_seconds=1, executor_class="x", job_start_block=NEWEST)


def test_gaps_are_told_with_the_blocks_that_are_missing() -> None:
    for number in (0, 1, 4, 5, 9, 11, 13, 15):
        at = NOW - dt.timedelta(seconds=12 * (16 - number))
        allowance().record_block(number=FIRST_BLOCK + number, timestamp=at, stake_share=0.5)
    finding = find("block_gaps")
    assert (finding.level, finding.value) == (Level.WARNING, 8)
    assert finding.sentence.startswith(
        "8 of the last 16 blocks are missing, 1002 to 1003, 1006 to 1008, …: they earn nothing, "
        "nor does the block before each gap."
    )
    allowance().record_block(number=FIRST_BLOCK + 15 + 722, timestamp=NOW, stake_share=0.5)
    finding = find("block_gaps")
    assert (finding.level, finding.value) == (Level.CRITICAL, 721)
    allowance().record_block(number=FIRST_BLOCK + 15 + 724, timestamp=NOW, stake_share=0.5)
    assert find("block_gaps").value == 721  # the oldest of them are out of reach


def test_a_collateral_filter_that_is_off_is_worth_to_know_and_no_alarm() -> None:
    fill_ledger(*NAMES)
    finding = find("collateral_filter")
    assert (finding.level, finding.value) == (Level.INFO, None)
    assert "DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI" in finding.sentence
    run_command("check_ledger")
    ended = run_command("routing_status")
    assert (ended.code, ended.out.splitlines()[0]) == (0, "OK: All is well. Worth to know: collateral filter.")
