"""Manifests that take allowance from everybody are logged, found by the status, and named by refusals and pages."""

from __future__ import annotations

import pytest
from django.test import Client

from allowance import allowance
from allowance.losses import CHECK_MANIFESTS, absence, silences
from allowance.models import ManifestSync
from allowance.types import BLOCK_EXPIRY, ExecutorClass, NotEnoughAllowanceException
from routing import routing
from routing.log import replay, report
from routing.models import DecisionRecord
from routing.types import AllMinersBusy
from routing.watch.findings import Level
from tests.clock import NOW, SECOND, noon
from tests.factories import job_request, run_command
from tests.integration.losses import MORE, NAMES, find, sync, warnings
from tests.ledgers import CLASS, NEWEST
from tests.pages import shown
from tests.rows import declare, mint

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), noon, pytest.mark.miners(*NAMES)]

SILENCE = f"4 of 4 miners that had answered were silent at block {NEWEST}: their allowance is void."


def test_a_sync_that_nobody_answered_is_told_everywhere(caplog: pytest.LogCaptureFixture, admin_client: Client) -> None:
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
    for page in (["routing_board"], ["routing_ledger"], ["routing_status"], ["routing_miner", "anna"]):
        assert SILENCE in shown(admin_client, *page)


def test_a_recorded_refusal_keeps_its_cause() -> None:
    sync(NEWEST)
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(12))
    sync(NEWEST + 1, *NAMES)
    ManifestSync.objects.update(silent=[])  # what is said now is another matter
    record = DecisionRecord.objects.get()
    (explained,) = report.explain([record])
    assert SILENCE in explained.fate(NOW)
    assert replay.differences(record) == []


@pytest.mark.parametrize(
    ("answering", "told"),
    [(["anna", "bert"], False), (["anna"], True), (["nina"], True)],
    ids=["half", "more", "others"],
)
def test_more_than_half_must_be_silent(answering: list[str], told: bool, caplog: pytest.LogCaptureFixture) -> None:
    sync(NEWEST, *answering, asked=[*NAMES, "nina"])
    assert bool(warnings(caplog)) == told
    assert (find("silent_miners").level is not Level.OK) == told


def test_miners_that_are_not_asked_are_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    sync(NEWEST, "anna", asked=["anna"])
    assert (warnings(caplog), find("silent_miners").value) == ([], 0)


def test_a_silence_is_told_for_as_long_as_it_lasts() -> None:
    for block in range(NEWEST, NEWEST + BLOCK_EXPIRY + 100, 100):
        sync(block)
    newest = NEWEST + BLOCK_EXPIRY + 100
    assert [silence.block for silence in silences(newest)] == [NEWEST]
    sync(newest, "anna")
    assert [silence.block for silence in silences(newest)] == [NEWEST]  # most have not answered since
    sync(newest, "anna", "bert")
    assert silences(newest) == []


def test_a_silence_lasts_though_some_miners_come_and_go() -> None:
    sync(NEWEST)
    for block in (NEWEST + 10, NEWEST + 20):
        sync(block, "anna")
        sync(block + 1)
    sync(NEWEST + 30, "anna")
    later = NEWEST + 2 * BLOCK_EXPIRY
    mint(later)
    assert [silence.block for silence in silences(later)] == [NEWEST]
    with pytest.raises(NotEnoughAllowanceException, match="4 of 4 miners that had answered were silent"):
        routing().pick(job_request(600))


def test_a_silence_is_over_when_the_silent_miners_are_no_longer_registered() -> None:
    sync(NEWEST, "anna")
    later = NEWEST + 2 * BLOCK_EXPIRY
    assert len(silences(later)) == 1
    mint(NEWEST + 1, hotkeys=["anna"])
    assert silences(later) == []


def test_a_miner_that_left_long_ago_is_no_cause_of_a_silence() -> None:
    mint(NEWEST + 1, hotkeys=NAMES[1:])
    later = NEWEST + 2 * BLOCK_EXPIRY
    mint(later, hotkeys=NAMES[1:])
    sync(later, asked=NAMES[1:])
    assert absence(later) is None
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(12))
    assert [cause for cause in refused.value.causes if "neuron list" in cause] == []
    assert find("missing_miners").level is Level.OK


@pytest.mark.miners(*NAMES, *MORE)
def test_a_newer_silence_of_a_class_does_not_hide_an_older_one_that_lasts() -> None:
    declare({name: {CLASS: 2} for name in MORE}, NEWEST, asked=NAMES + MORE)
    later = NEWEST + 2 * BLOCK_EXPIRY
    mint(later)
    declare({name: {CLASS: 1} for name in MORE}, later, asked=NAMES + MORE)
    told = [(silence.block, silence.executor_class) for silence in silences(later)]
    assert told == [(later, CLASS), (NEWEST, None)]


@pytest.mark.miners(*NAMES, *MORE)
def test_a_sync_that_asks_three_of_seven_is_no_silence_if_they_do_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    sync(NEWEST, asked=MORE)
    assert (warnings(caplog), silences(NEWEST)) == ([], [])


@pytest.mark.miners(*NAMES, *MORE)
def test_who_counts_for_a_sync_is_who_was_registered_at_its_block(caplog: pytest.LogCaptureFixture) -> None:
    """The list of a later block, here an empty one, is known when the sync is recorded."""
    mint(NEWEST + 1, hotkeys=[])
    caplog.clear()
    sync(NEWEST, asked=["anna"])
    assert (warnings(caplog), silences(NEWEST + 1)) == ([], [])


@pytest.mark.miners(*NAMES)
def test_a_class_that_all_its_miners_drop_is_told_if_most_other_miners_were_not_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    others = [f"other_{i}" for i in range(5)]
    mint(NEWEST + 1, hotkeys=NAMES + others)
    declare({name: {ExecutorClass.always_on__test: 2} for name in others}, NEWEST + 1, asked=others)
    sync(NEWEST + 2)
    assert [f"4 of 4 miners that had executors of {CLASS} declared" in warning for warning in warnings(caplog)] == [
        True
    ]
    assert find("silent_miners").level is Level.CRITICAL


def test_what_lacks_allowance_is_asked_in_one_way() -> None:
    """A miner that is not registered was not asked: `find_miners_with_allowance` names the causes of a pick."""
    sync(NEWEST, "anna")
    mint(NEWEST + 1, hotkeys=["anna"])
    found = []
    for ask in (
        lambda: routing().pick(job_request(3000)),
        lambda: allowance().find_miners_with_allowance(
            allowance_seconds=3000, executor_class=CLASS, job_start_block=NEWEST + 1
        ),
    ):
        with pytest.raises(NotEnoughAllowanceException) as refused:
            ask()
        found.append([cause for cause in refused.value.causes if "silent" in cause])
    assert found == [[], []]


def test_an_old_silence_is_no_cause_if_no_candidate_lacks_allowance() -> None:
    sync(NEWEST)
    for number in range(1, 40):
        mint(NEWEST + number, NOW + 12 * number * SECOND)
        sync(NEWEST + number, *NAMES)
    for _ in range(8):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy) as refused:
        routing().pick(job_request(1))
    assert refused.value.causes == ()


def test_who_answers_with_no_executors_is_silent() -> None:
    """Else all that a miner had would be void without a word."""
    declare(dict.fromkeys(NAMES, 0))
    assert find("silent_miners").level is Level.CRITICAL
    with pytest.raises(NotEnoughAllowanceException, match="4 of 4 miners that had answered were silent"):
        routing().pick(job_request())


def test_of_two_syncs_at_a_block_the_last_says_who_answered() -> None:
    """Who was silent in the last of them is not silent anew in the next."""
    sync(NEWEST, "anna")
    sync(NEWEST, "bert")
    sync(NEWEST + 1)
    newest = ManifestSync.objects.latest("pk")
    assert newest.silent == [[None, 1, 1]]


OTHER = ExecutorClass.always_on__llm__a6000


def test_a_class_that_most_miners_declare_no_more_is_told(caplog: pytest.LogCaptureFixture) -> None:
    declare({name: {OTHER: 2} for name in NAMES}, NEWEST)
    sentence = (
        f"4 of 4 miners that had executors of {CLASS} declared fewer or none at block {NEWEST}: "
        "their allowance for it is void."
    )
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    finding = find("silent_miners")
    assert (finding.level, finding.sentence) == (Level.CRITICAL, f"{sentence} {CHECK_MANIFESTS}")
    with pytest.raises(NotEnoughAllowanceException, match=sentence):
        routing().pick(job_request(12))
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3600, executor_class=OTHER))
    assert refused.value.causes == ()  # the other class lost nothing
    declare({name: {OTHER: 2, CLASS: n} for n, name in enumerate(NAMES)}, NEWEST + 1)
    assert find("silent_miners").level is Level.CRITICAL  # what the miners had is void still
    assert [silence.executor_class for silence in silences(NEWEST + BLOCK_EXPIRY)] == []


def test_a_class_that_nobody_declares_is_the_cause_however_long_ago_it_was_left() -> None:
    declare({name: {OTHER: 2} for name in NAMES}, NEWEST)
    mint(NEWEST + BLOCK_EXPIRY)
    assert silences(NEWEST + BLOCK_EXPIRY) == []
    with pytest.raises(NotEnoughAllowanceException, match=f"No registered miner declares executors of {CLASS}"):
        routing().pick(job_request(12))


@pytest.mark.parametrize("between", [[], NAMES[:1]], ids=["nobody", "one"])
def test_a_sync_that_asks_few_hides_no_silence(between: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """As after a neuron list that came empty: nobody is asked, then nobody answers."""
    sync(NEWEST - 5, *between, asked=between)
    sync(NEWEST, *between)
    sentence = f"{4 - len(between)} of 4 miners that had answered were silent at block {NEWEST}"
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    assert sentence in find("silent_miners").sentence
    with pytest.raises(NotEnoughAllowanceException, match=sentence):
        routing().pick(job_request(600))


def test_a_silence_that_is_over_is_told_for_as_long_as_blocks_last_and_no_longer() -> None:
    sync(NEWEST)
    sync(NEWEST + 10, *NAMES)
    later = NEWEST + BLOCK_EXPIRY
    sync(later, asked=[])
    assert [silence.block for silence in silences(later - 1)] == [NEWEST]
    assert silences(later) == []


@pytest.mark.miners(*NAMES, *MORE)
def test_a_newer_silence_does_not_hide_an_older_one() -> None:
    full: dict[str, dict[str, int]] = {name: {CLASS if name in NAMES else OTHER: 2} for name in NAMES + MORE}
    for block, answers in (
        (NEWEST - 9, full),
        (NEWEST - 8, {}),
        (NEWEST - 4, full),
        (NEWEST, dict.fromkeys(NAMES, full["anna"])),
    ):
        declare(answers, block, asked=NAMES + MORE)
    told = [(silence.block, silence.executor_class, silence.silent) for silence in silences(NEWEST)]
    assert told == [(NEWEST - 8, None, 7), (NEWEST, OTHER, 3)]
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000))
    sentence = f"7 of 7 miners that had answered were silent at block {NEWEST - 8}"
    assert [sentence in cause for cause in refused.value.causes] == [True]


@pytest.mark.parametrize(("leaving", "told"), [(2, False), (3, True)])
def test_more_than_half_and_three_must_leave_a_class(
    leaving: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    declare({name: {OTHER: 1} if i < leaving else {CLASS: 2} for i, name in enumerate(NAMES)}, NEWEST)
    assert bool(warnings(caplog)) == told
    assert (find("silent_miners").level is not Level.OK) == told


def test_miners_that_declare_fewer_executors_are_told(caplog: pytest.LogCaptureFixture) -> None:
    declare({name: {CLASS: 1} for name in NAMES}, NEWEST)
    sentence = f"4 of 4 miners that had executors of {CLASS} declared fewer or none at block {NEWEST}"
    assert [sentence in warning for warning in warnings(caplog)] == [True]
    assert find("silent_miners").level is Level.CRITICAL
    with pytest.raises(NotEnoughAllowanceException, match=sentence):
        routing().pick(job_request(12))


def test_a_sync_that_asks_one_of_many_is_no_silence_if_that_one_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in NAMES[:2]:
        sync(NEWEST, asked=[name])
    assert (warnings(caplog), silences(NEWEST)) == ([], [])
    for name in NAMES[2:]:  # now most are silent, however few each sync asks
        sync(NEWEST, asked=[name])
    assert len(silences(NEWEST)) == 1


def test_two_miners_may_leave_a_class_without_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    declare({name: {CLASS: 2, OTHER: 1} for name in NAMES[:2]} | {name: {CLASS: 2} for name in NAMES[2:]}, NEWEST - 1)
    declare({name: {CLASS: 2} for name in NAMES}, NEWEST)
    assert (warnings(caplog), find("silent_miners").level) == ([], Level.OK)


def test_a_busy_miner_does_not_hide_that_the_others_are_silent() -> None:
    sync(NEWEST, "anna")
    for _ in range(2):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy) as refused:
        routing().pick(job_request(1))
    sentence = f"3 of 4 miners that had answered were silent at block {NEWEST}: their allowance is void."
    assert refused.value.causes == (f"{sentence} {CHECK_MANIFESTS}",)
    assert sentence in str(refused.value)
    (explained,) = report.explain([DecisionRecord.objects.latest("at", "pk")])
    assert sentence in explained.fate(NOW)


def test_a_refusal_of_busy_miners_names_no_cause_of_a_few_without_allowance() -> None:
    sync(NEWEST, "anna", "bert", "cleo")
    mint(NEWEST + 100)
    for _ in range(6):
        routing().pick(job_request(1))
    with pytest.raises(AllMinersBusy) as refused:
        routing().pick(job_request(1))
    assert refused.value.causes == ()


@pytest.mark.miners(*NAMES, *MORE)
def test_a_refusal_that_does_not_follow_from_the_silence_does_not_name_it() -> None:
    sync(NEWEST)
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000), exclude=NAMES)
    assert refused.value.causes  # the others are candidates, only not asked
    mint(NEWEST + 1, hotkeys=MORE)
    with pytest.raises(NotEnoughAllowanceException) as refused:
        routing().pick(job_request(3000))
    assert not [cause for cause in refused.value.causes if "silent" in cause]
