"""The collateral of many miners at once: what is written, and when routers read the chain again."""

from __future__ import annotations

import pytest

from allowance.chain import record_collateral, record_collaterals
from allowance.models import ChainLock, Miner
from allowance.types import MAX_WEI
from tests.queries import queries

pytestmark = [pytest.mark.django_db, pytest.mark.miners("anna", "bert", "carl")]


def version() -> int:
    return ChainLock.objects.get().version


def recorded() -> dict[str, int]:
    return dict(Miner.objects.values_list("hotkey", "wei"))


def test_all_amounts_are_stored_with_one_new_version() -> None:
    before = version()
    record_collaterals({"anna": 5, "bert": str(MAX_WEI), "dora": 0})
    assert recorded() == {"anna": 5, "bert": MAX_WEI, "carl": 0, "dora": 0}
    assert version() != before


def test_nothing_is_written_if_nothing_differs() -> None:
    record_collaterals({"anna": 5, "bert": 7})
    before = version()
    record_collaterals({"anna": "5", "bert": 7, "carl": 0})
    record_collaterals({})
    record_collateral(hotkey="anna", wei=5)
    assert version() == before
    record_collateral(hotkey="anna", wei=6)
    assert version() != before
    assert recorded() == {"anna": 6, "bert": 7, "carl": 0}


@pytest.mark.parametrize("bad", [{"bert": -1}, {"bert": MAX_WEI + 1}, {"bert": True}, {"a b": 1}], ids=repr)
def test_one_bad_amount_refuses_all(bad: dict[str, int]) -> None:
    before = version()
    with pytest.raises(ValueError, match=r"Wei|hotkey"):
        record_collaterals({"anna": 5, **bad})
    assert (recorded(), version()) == ({"anna": 0, "bert": 0, "carl": 0}, before)


def test_the_number_of_statements_does_not_depend_on_the_number_of_miners() -> None:
    few, many = ({f"miner-{n}": wei for n in range(count)} for count, wei in ((2, 1), (256, 2)))
    assert len(queries(lambda: record_collaterals(few))) == len(queries(lambda: record_collaterals(many)))
