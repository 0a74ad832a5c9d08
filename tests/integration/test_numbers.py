"""Numbers of other libraries: NumPy's, Decimal and Fraction are taken where they are exact."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from allowance import allowance
from allowance.models import Block, Miner
from allowance.types import JobTooLong, NotEnoughAllowanceException
from receipts.schemas import JobStarted
from routing import routing
from tests.clock import NOW, noon
from tests.factories import job_request
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.rows import AXON, receipt

pytestmark = [pytest.mark.django_db, noon, pytest.mark.miners("hot-1")]


@pytest.mark.parametrize("value", [np.int64(5), np.uint64(5), np.uint8(5), np.int8(5)], ids=repr)
def test_integers_of_numpy_are_integers(value: Any) -> None:
    start: Any = np.int64(NEWEST)
    what = {"executor_class": CLASS, "allowance_seconds": value, "job_start_block": start}
    assert allowance().find_miners_with_allowance(**what)
    held, _ = allowance().reserve_allowance(miner="hot-1", **what)
    allowance().undo_allowance_reservation(np.int64(held))  # type: ignore[arg-type]
    allowance().record_block(number=start + 1, timestamp=NOW, stake_share=0.5)
    axon = {**AXON, "port": np.uint16(9000)}
    allowance().record_manifests(block=start, axons={"hot-1": axon}, executors={"hot-1": {CLASS: value}})
    allowance().record_collateral(hotkey="hot-1", wei=value)
    assert allowance().get_current_block() == NEWEST + 1
    assert allowance().get_manifests()["hot-1"] == {CLASS: 5}
    assert Miner.objects.get().wei == 5
    assert type(receipt(JobStarted, ttl=value).ttl) is int


def test_a_span_of_numpy_is_no_number() -> None:
    """It is registered as an integer, and has no index."""
    with pytest.raises(ValueError, match="number"):
        allowance().record_block(number=np.timedelta64(1030), timestamp=NOW, stake_share=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share"):
        allowance().record_block(number=1030, timestamp=NOW, stake_share=np.timedelta64(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), Decimal("0.5"), Fraction(1, 2)], ids=repr)
def test_numbers_of_other_kinds_are_numbers(value: Any) -> None:
    what = {"executor_class": CLASS, "allowance_seconds": value, "job_start_block": NEWEST}
    assert allowance().find_miners_with_allowance(**what)
    route = routing().pick(
        job_request(download_time_limit=value, execution_time_limit=Decimal(5), upload_time_limit=np.int8(1))
    )
    assert route.allowance_blocks == [FIRST_BLOCK]
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=value)
    assert Block.objects.get(number=NEWEST + 1).stake_share == 0.5


@pytest.mark.parametrize("value", [np.uint8(200), np.int16(20_000)], ids=repr)
def test_time_limits_do_not_overflow(value: Any) -> None:
    limits = {"download_time_limit": value, "execution_time_limit": value, "upload_time_limit": value}
    with pytest.raises(NotEnoughAllowanceException if value == 200 else JobTooLong, match=f"{3 * int(value)} s"):
        routing().pick(job_request(**limits))
