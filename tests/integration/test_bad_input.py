"""Every bad input is an error that names it, and leaves nothing behind."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from pydantic import ValidationError

from allowance import allowance
from allowance.models import Reservation
from allowance.types import (
    MAX_EXECUTORS,
    MAX_WEI,
    AllowanceException,
    CannotReserveAllowanceException,
    JobTooLong,
    NotEnoughAllowanceException,
    ReservationNotFound,
)
from routing import routing
from routing.requests import V2JobRequest
from tests.clock import NOW, noon
from tests.factories import job_request, stored
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.rows import AXON, FAILED

pytestmark = noon

BLOCK_TIME = dt.timedelta(seconds=12)
BLOCKS = 2
NEXT_BLOCK = FIRST_BLOCK + BLOCKS
UNKNOWN_CLASS = "always_on.gpu-80gb"

Taker = Callable[..., object]


@pytest.fixture(autouse=True)
def nothing_stored(db: None) -> Iterator[None]:
    """Whatever a test of this module tries, all tables stay as they are."""
    fill_ledger("hot-1", "hot-2", blocks=BLOCKS)
    before = stored()
    yield
    assert stored() == before


def assert_refused(taker: Taker, *named: object, error: type[Exception] = ValueError) -> None:
    """Call `taker`, and insist on an `error` whose message has all that is `named`."""
    with pytest.raises(error) as refusal:
        taker()
    for value in named:
        assert str(value) in str(refusal.value)


def record_block(**fields: Any) -> None:
    good = {"number": NEXT_BLOCK, "timestamp": NOW, "stake_share": 0.5, "hotkeys": None}
    allowance().record_block(**{**good, **fields})


def record_manifests(*, name: Any = "hot-1", block: Any = NEXT_BLOCK, axon: Any = AXON, executors: Any = None) -> None:
    counts = {CLASS: 3} if executors is None else executors
    allowance().record_manifests(block=block, axons={name: axon}, executors={name: counts})


def record_collateral(*, hotkey: Any = "hot-1", wei: Any = 5) -> None:
    allowance().record_collateral(hotkey=hotkey, wei=wei)


def find(**fields: Any) -> object:
    good = {"allowance_seconds": 10.0, "executor_class": CLASS, "job_start_block": NEXT_BLOCK}
    return allowance().find_miners_with_allowance(**{**good, **fields})


def reserve(**fields: Any) -> object:
    good = {"miner": "hot-1", "executor_class": CLASS, "allowance_seconds": 10.0, "job_start_block": NEXT_BLOCK}
    return allowance().reserve_allowance(**{**good, **fields})


def report(*, kind: Any = FAILED, hotkey: Any = "hot-1", job: Any = None, executor_class: Any = CLASS) -> None:
    routing().report_incident(kind, hotkey, job if job is not None else str(uuid4()), executor_class)


def pick(*, exclude: Any = (), **fields: Any) -> object:
    return routing().pick(job_request(**fields), exclude=exclude)


LIMITS = {"download_time_limit": 10, "execution_time_limit": 10, "upload_time_limit": 10}
NO_TIME = dt.datetime(2026, 1, 1, 12)  # noqa: DTZ001 (that is what is wrong with it)
BLOCK_NUMBER_TAKERS: dict[str, Taker] = {
    "block": lambda value: record_block(number=value),
    "manifests": lambda value: record_manifests(block=value),
    "find": lambda value: find(job_start_block=value),
    "reservation": lambda value: reserve(job_start_block=value),
}
TAKERS: dict[str, dict[str, Taker]] = {
    "hotkey": {
        "block": lambda value: record_block(hotkeys=["hot-1", value]),
        "manifests": lambda value: record_manifests(name=value),
        "collateral": lambda value: record_collateral(hotkey=value),
        "incident": lambda value: report(hotkey=value),
        "reservation": lambda value: reserve(miner=value),
    },
    "uuid": {
        "pick": lambda value: pick(uuid=value),
        "reservation": lambda value: reserve(job_uuid=value),
        "incident": lambda value: report(job=value),
    },
    "Seconds": {
        "find": lambda value: find(allowance_seconds=value),
        "reservation": lambda value: reserve(allowance_seconds=value),
    },
    "block number": BLOCK_NUMBER_TAKERS,
    "stake share": {"block": lambda value: record_block(stake_share=value)},
    "timestamp": {"block": lambda value: record_block(timestamp=value)},
    "manifest of hot-1": {"manifests": lambda value: record_manifests(executors={CLASS: value})},
    "executor class": {
        "manifests": lambda value: record_manifests(executors={value: 1}),
        "incident": lambda value: report(executor_class=value),
    },
    "incident type": {"incident": lambda value: report(kind=value)},
    "time limit": {part: lambda value, part=part: pick(**{**LIMITS, part: value}) for part in LIMITS},
}
"""Whoever takes something, by what an error calls it."""

WRONG: dict[str, list[Any]] = {
    "hotkey": ["", "  ", "h" * 49, "hot\0key", "hot\nkey", "\ud800", 5],
    "uuid": ["", "job", "6a7dbfd5-5b0c-4bd4-8d0c-0b4b0d2c8a4", "\0job", 5],
    "Seconds": [math.nan, math.inf, -math.inf, 0, 0.0, -1, -0.001, True, "10", None],
    "block number": [-1, 2**32, 2**70, "5", 5.0, True, None],
    "stake share": [-0.1, 1.1, math.nan, math.inf, -math.inf, "0.5", True, None],
    "timestamp": [NO_TIME, NOW.date(), NOW.isoformat(), NOW.timestamp(), None, NOW.replace(year=1969)],
    "manifest of hot-1": [-1, True, 2.0, "2", None, MAX_EXECUTORS + 1, 2**70],
    "executor class": [UNKNOWN_CLASS, "", "\0"],
    "incident type": ["MINER_LATE", "", "miner_job_failed", None, 5],
    "time limit": [-1, -20, math.nan, -math.inf, "10", None],
}


@pytest.mark.parametrize(
    ("name", "taker", "value"),
    [(name, taker, value) for name in WRONG for taker in TAKERS[name] for value in WRONG[name]],
    ids=repr,
)
def test_what_is_wrong_is_refused_by_whoever_takes_it(name: str, taker: str, value: object) -> None:
    assert_refused(lambda: TAKERS[name][taker](value), name, repr(value)[:80])


@pytest.mark.parametrize("taker", [find, reserve])
@pytest.mark.parametrize("seconds", [3600.001, 3601, 1e300, 10**400], ids=["just", "a second", "1e300", "10**400"])
def test_more_than_an_hour_is_too_long(taker: Taker, seconds: float) -> None:
    assert_refused(lambda: taker(allowance_seconds=seconds), "3600 s", error=JobTooLong)


@pytest.mark.parametrize(
    "value", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), np.float32("nan"), np.bool_(True), 1j], ids=repr
)
def test_what_is_no_number_or_none_that_compares_is_refused_everywhere(value: Any) -> None:
    assert_refused(lambda: record_block(stake_share=value), "stake share", repr(value))
    assert_refused(lambda: find(allowance_seconds=value), "Seconds", repr(value))
    assert_refused(lambda: pick(download_time_limit=value), "time limit", repr(value))
    assert_refused(lambda: record_block(number=value), "integer", repr(value))
    assert_refused(lambda: allowance().spend_allowance(value), "integer", repr(value))


@pytest.mark.parametrize("value", [Decimal(5), np.float64(5), Fraction(5)], ids=repr)
def test_a_whole_number_of_another_type_than_an_integer_s_is_refused_with_a_true_sentence(value: Any) -> None:
    for taker in BLOCK_NUMBER_TAKERS.values():
        assert_refused(partial(taker, value), "must be an integer (int or NumPy integer)", repr(value))
    assert_refused(lambda: record_collateral(wei=value), "must be an integer", repr(value))


@pytest.mark.parametrize(
    ("number", "timestamp"),
    [(NEXT_BLOCK, NOW - 2 * BLOCK_TIME), (NEXT_BLOCK + 100, NOW - 2 * BLOCK_TIME), (FIRST_BLOCK - 1, NOW), (0, NOW)],
    ids=["older than the one before", "older than one far before", "newer than the next", "newer than one far behind"],
)
def test_a_block_out_of_step_with_its_neighbours_is_refused(number: int, timestamp: dt.datetime) -> None:
    assert_refused(lambda: record_block(number=number, timestamp=timestamp), number, timestamp.isoformat())


UNFIT: dict[str, list[object]] = {
    "port": [70000, -1, "9000"],
    "ip_version": [5, "4", True, 4.0, 2, None],
    "address": [
        *("", None, "a" * 256, "10.0.0.256", "[::1]", "10.0.0.1:9000", "http://miner.example"),
        *("miner..example", "-miner.example", "miner example", "10.0.0.\0"),
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in UNFIT for value in UNFIT[field]], ids=repr)
def test_an_axon_that_can_t_be_called_is_refused(field: str, value: object) -> None:
    assert_refused(lambda: record_manifests(axon={**AXON, field: value}), "hot-1", repr(value)[:60])


@pytest.mark.parametrize("name", ["address", "port"])
def test_an_axon_that_lacks_a_part_is_refused(name: str) -> None:
    assert_refused(lambda: record_manifests(axon={k: v for k, v in AXON.items() if k != name}), name, "hot-1", "None")


@pytest.mark.parametrize("value", [None, "10.0.0.1", ["10.0.0.1", 9000]], ids=repr)
def test_what_is_no_mapping_is_neither_an_axon_nor_a_manifest(value: object) -> None:
    assert_refused(lambda: record_manifests(axon=value), "hot-1", repr(value))
    assert_refused(
        lambda: allowance().record_manifests(block=NEXT_BLOCK, axons={"hot-1": AXON}, executors={"hot-1": value}),  # type: ignore[dict-item]
        *("hot-1", repr(value)),
    )


def test_the_manifest_of_a_miner_without_an_axon_is_refused() -> None:
    executors = {"hot-1": {CLASS: 3}, "hot-9": {CLASS: 1}}
    assert_refused(
        lambda: allowance().record_manifests(block=NEXT_BLOCK, axons={"hot-1": AXON}, executors=executors), "hot-9"
    )


def test_manifests_older_than_the_newest_are_refused() -> None:
    assert_refused(lambda: record_manifests(block=FIRST_BLOCK - 1), FIRST_BLOCK - 1, FIRST_BLOCK)


@pytest.mark.parametrize(
    "value",
    [-1, MAX_WEI + 1, 1.5, True, None, "abc", "²", "٣", "-1", "1.5", "1_000", " 1", "", str(MAX_WEI + 1)],
    ids=repr,
)
def test_what_is_no_amount_of_wei_is_refused(value: object) -> None:
    assert_refused(lambda: record_collateral(wei=value), "Wei", repr(value).strip("'")[:80])


def test_a_job_of_no_seconds_or_of_endless_ones_is_refused() -> None:
    assert_refused(lambda: pick(seconds=0), "not 0")
    assert_refused(lambda: pick(seconds=math.inf), "not inf")


@pytest.mark.parametrize("part", ["download_time_limit", "execution_time_limit", "upload_time_limit"])
def test_a_job_of_more_than_an_hour_is_too_long(part: str) -> None:
    limits = {"download_time_limit": 1, "execution_time_limit": 1, "upload_time_limit": 1, part: 3599}
    assert_refused(lambda: pick(**limits), "3601", error=AllowanceException)


def test_several_hotkeys_are_not_one_text() -> None:
    assert_refused(lambda: pick(exclude="hot-1"), "exclude", "'hot-1'")
    assert_refused(lambda: record_block(hotkeys="hot-1"), "hotkeys", "'hot-1'")


def test_a_wire_message_of_an_unknown_class_is_refused() -> None:
    message = {**job_request().model_dump(mode="json"), "executor_class": UNKNOWN_CLASS}
    assert_refused(lambda: V2JobRequest.model_validate(message), UNKNOWN_CLASS, error=ValidationError)


@pytest.mark.parametrize("value", [UNKNOWN_CLASS, "", "\0", "c" * 1000], ids=["unknown", "empty", "NUL", "long"])
@pytest.mark.parametrize("taker", [find, pick])
def test_nobody_has_anything_of_an_unknown_class(taker: Taker, value: str) -> None:
    with pytest.raises(NotEnoughAllowanceException) as refusal:
        taker(executor_class=value)
    error = refusal.value
    assert (error.highest_available_allowance, error.highest_unspent_allowance) == (0.0, 0.0)
    assert (error.highest_available_allowance_ss58, error.highest_unspent_allowance_ss58) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [{"executor_class": UNKNOWN_CLASS}, {"miner": "hot-9"}, {"executor_class": "\0"}],
    ids=["unknown class", "unknown miner", "NUL"],
)
def test_nothing_can_be_reserved_of_what_does_not_exist(fields: dict[str, str]) -> None:
    assert_refused(lambda: reserve(**fields), *fields.values(), error=CannotReserveAllowanceException)


@pytest.mark.parametrize("value", [0, -1, 1, 2**31, 2**63, 2**70, -(2**70)], ids=repr)
@pytest.mark.parametrize("end", ["spend_allowance", "undo_allowance_reservation"])
def test_a_reservation_that_does_not_exist_can_t_end(end: str, value: int) -> None:
    assert not Reservation.objects.exists()
    assert_refused(lambda: getattr(allowance(), end)(value), value, error=ReservationNotFound)
