"""What the ledger comes to: reservations by what became of them, and the allowance of every miner."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

import pytest

from allowance import ledger, reservations
from allowance.models import Account, Reservation, ReservationState, expired_at
from allowance.oversight import totals
from allowance.oversight.fates import Fate
from allowance.oversight.totals import DAY, LISTED, SOON, Amounts
from allowance.reading import read, window
from allowance.types import RESERVATION_MARGIN, ExecutorClass
from tests import rows
from tests.clock import HOUR, SECOND, TICK
from tests.factories import OTHER_CLASS
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.queries import postgresql, queries, scans
from tests.rows import declare, mint

NOW = dt.datetime(2026, 1, 1, 12, 30, tzinfo=dt.UTC)
pytestmark = [pytest.mark.time_machine(NOW, tick=False), pytest.mark.miners("anna", "bert")]
HELD, SPENT, RELEASED, EXPIRED = ReservationState


def reserve(now: dt.datetime = NOW, *, miner: str = "anna", seconds: float = 30) -> int:
    return rows.reserve(miner, seconds, job=UUID(int=7), now=now)


def remember(end: ReservationState, ended_at: dt.datetime, *, held_for: dt.timedelta = HOUR) -> int:
    """Store a reservation of anna's that ended, of a block that nobody remembers."""
    account = Account.objects.get(miner="anna", executor_class=CLASS)
    times = {"created_at": ended_at - held_for, "expires_at": ended_at if end is EXPIRED else ended_at + SECOND}
    return Reservation.objects.create(account=account, blocks=[1], **times, state=end, ended_at=ended_at).pk


def seconds(amounts: Amounts) -> dict[str, float]:
    parts = {fate.value: amounts[fate] for fate in (Fate.FREE, Fate.HELD, Fate.SPENT, Fate.VOIDED)}
    return {name: ledger.to_seconds(ns) for name, ns in (parts | {"earned": amounts.total()}).items()}


def test_an_empty_ledger_comes_to_nothing() -> None:
    Account.objects.all().delete()
    found = totals.totals(NOW)
    assert (found.holds, found.expired, found.newest_expired, found.miners) == ([], 0, [], [])
    assert not any(found.ended.values())


def test_what_became_of_a_miner_s_allowance() -> None:
    reserve(seconds=30)
    reservations.spend(reserve(seconds=60), now=NOW)
    anna, bert = totals.totals(NOW).miners
    assert seconds(anna.amounts) == {"free": 144, "held": 36, "spent": 60, "voided": 0, "earned": 240}
    assert seconds(bert.amounts) == {"free": 240, "held": 0, "spent": 0, "voided": 0, "earned": 240}
    declare({"anna": 1}, FIRST_BLOCK + 6)
    anna, _ = totals.totals(NOW).miners
    assert seconds(anna.amounts) == {"free": 72, "held": 0, "spent": 12, "voided": 72, "earned": 156}


@pytest.mark.parametrize("at", [3, 10, 19])
@pytest.mark.parametrize("executors", [0, 1])
def test_amounts_are_those_of_the_rows_and_of_the_survey(at: int, executors: int) -> None:
    """Held, spent, expired unclaimed, tidied and voided, some of each before and after the drop."""
    reserve(NOW - HOUR, seconds=20)
    reserve(NOW - HOUR, miner="bert", seconds=20)
    reservations.spend(reserve(seconds=40), now=NOW)
    reserve(seconds=70)
    declare({"anna": executors}, FIRST_BLOCK + at)
    reading = read(CLASS, NOW)
    for hotkey, balance in reading.balances.items():
        account = Account.objects.get(miner=hotkey)
        stored = account.balance
        for gone in account.reservation_set.filter(expired_at(NOW)):
            stored = ledger.free_again(stored, gone.blocks)
        amounts = totals.amounts(balance, reading.window)
        assert amounts == totals.amounts(stored, window(None))
        (standing,) = ledger.survey(reading.window, [balance])
        assert (amounts[Fate.FREE], amounts[Fate.SPENT]) == (standing.free, standing.spent)
        assert amounts[Fate.HELD] == standing.unspent - standing.free
        assert amounts[Fate.AGED_OUT] == amounts[Fate.NONE] == 0
        assert amounts.total() == ledger.earned_by_block(reading.window, balance).sum() > 0


def test_classes_are_added_up_unless_one_is_asked_for() -> None:
    declare({"anna": {CLASS: 2, OTHER_CLASS: 1}}, FIRST_BLOCK + 10)
    reserve()
    remember(EXPIRED, NOW - HOUR)
    by_class = {
        c: totals.totals(NOW, executor_class=c) for c in (None, ExecutorClass(CLASS), ExecutorClass(OTHER_CLASS))
    }
    earned = {c: [(m.hotkey, ledger.to_seconds(m.amounts.total())) for m in t.miners] for c, t in by_class.items()}
    assert earned == {
        None: [("anna", 300), ("bert", 240)],
        CLASS: [("anna", 240), ("bert", 240)],
        OTHER_CLASS: [("anna", 60)],
    }
    assert [(t.miners[0].live, t.miners[0].expired) for t in by_class.values()] == [(1, 1), (1, 1), (0, 0)]
    assert {len(t.holds) for t in by_class.values()} == {1}
    assert {t.ended_as(EXPIRED) for t in by_class.values()} == {1}


def test_holds_are_live_until_their_instant_and_the_next_to_lapse_comes_first() -> None:
    late, early = reserve(NOW, seconds=30), reserve(NOW - 10 * SECOND, seconds=30, miner="bert")
    expires = NOW + RESERVATION_MARGIN + 20 * SECOND
    found = totals.totals(expires - TICK)
    assert [hold.pk for hold in found.holds] == [early, late]
    first = found.holds[0]
    assert (first.hotkey, first.executor_class, first.job, first.blocks) == ("bert", CLASS, UUID(int=7), 3)
    assert (ledger.to_seconds(first.ns), first.expires_at) == (36, expires)
    assert [(m.live, m.expired, m.amounts[Fate.HELD]) for m in found.miners] == [(1, 0, 36 * ledger.NS)] * 2
    found = totals.totals(expires)
    assert [hold.pk for hold in found.holds] == [late]
    assert [(m.live, m.expired, m.amounts[Fate.HELD]) for m in found.miners] == [(1, 0, 36 * ledger.NS), (0, 1, 0)]


def test_a_hold_is_about_to_lapse_up_to_the_edge() -> None:
    reserve(seconds=30)
    edge = NOW + RESERVATION_MARGIN + 30 * SECOND - SOON
    assert totals.totals(edge - TICK).about_to_expire == []
    assert len(totals.totals(edge).about_to_expire) == 1


def test_each_hold_is_worth_its_own_blocks() -> None:
    reservations.spend(reserve(seconds=48), now=NOW)
    reserve(seconds=12)
    reserve(seconds=60)
    assert [ledger.to_seconds(hold.ns) for hold in totals.totals(NOW).holds] == [12, 60]


def test_a_hold_is_worth_what_its_blocks_still_give() -> None:
    reserve(seconds=60)
    declare({"anna": 1}, FIRST_BLOCK + 2)
    (hold,) = totals.totals(NOW).holds
    assert (hold.blocks, ledger.to_seconds(hold.ns)) == (5, 18)  # from then on with one executor


@pytest.mark.parametrize("tidied", [False, True])
def test_what_lapsed_has_lapsed_whether_or_not_its_row_says_so(tidied: bool) -> None:
    pk = reserve(NOW - HOUR, seconds=20)
    lapsed_at_instant = NOW - HOUR + RESERVATION_MARGIN + 20 * SECOND
    if tidied:
        reserve(miner="anna")
    assert (Reservation.objects.get(pk=pk).state == EXPIRED) is tidied
    found = totals.totals(NOW)
    assert (found.expired, [row.pk for row in found.newest_expired], found.miners[0].expired) == (1, [pk], 1)
    hour = lapsed_at_instant.replace(minute=0, second=0)
    assert {at: dict(ends) for at, ends in found.ended.items() if ends} == {hour: {"expired": 1}}
    assert found.miners[0].amounts[Fate.HELD] == (36 * ledger.NS if tidied else 0)


@pytest.mark.parametrize("end", [SPENT, RELEASED, EXPIRED])
def test_a_day_ends_at_its_edge(end: ReservationState) -> None:
    remember(end, NOW - DAY + TICK)
    remember(end, NOW - DAY)
    found = totals.totals(NOW)
    assert found.ended_as(end) == 1
    assert found.expired == (2 if end is EXPIRED else 0)
    assert found.miners[0].expired == (1 if end is EXPIRED else 0)


def test_ends_are_counted_by_the_hour() -> None:
    for end, ago in ((SPENT, 0), (SPENT, 29), (RELEASED, 31), (SPENT, 90), (EXPIRED, 90), (SPENT, 23 * 60 + 59)):
        remember(end, NOW - dt.timedelta(minutes=ago))
    remember(RELEASED, NOW + HOUR)  # by a clock ahead of ours
    found = totals.totals(NOW)
    assert list(found.ended) == [NOW.replace(minute=0) - i * HOUR for i in range(24, -1, -1)]
    assert {at.isoformat()[:13]: dict(ends) for at, ends in found.ended.items() if ends} == {
        "2025-12-31T12": {"spent": 1},
        "2026-01-01T11": {"spent": 1, "expired": 1, "released": 1},
        "2026-01-01T12": {"spent": 2, "released": 1},
    }
    assert [found.ended_as(end) for end in ReservationState] == [0, 4, 2, 1]


def test_the_newest_that_lapsed_are_listed() -> None:
    pks = [remember(EXPIRED, NOW - i * SECOND) for i in range(LISTED + 3)]
    pks.insert(2, reserve(NOW - 2 * SECOND - RESERVATION_MARGIN - 20 * SECOND + TICK, seconds=20))
    found = totals.totals(NOW)
    assert [row.pk for row in found.newest_expired] == pks[:LISTED]
    assert found.expired == LISTED + 4


def test_a_miner_that_left_is_told_from_those_that_are_there() -> None:
    mint(NEWEST + 1, NOW, hotkeys=["bert"])
    assert [(m.hotkey, m.registered) for m in totals.totals(NOW).miners] == [("anna", False), ("bert", True)]


def test_it_takes_as_many_queries_for_many_reservations_as_for_none() -> None:
    totals.totals(NOW)  # the first reading also reads the blocks
    none = queries(lambda: totals.totals(NOW))
    for i in range(5):
        reserve(NOW - i * SECOND)
        remember(EXPIRED, NOW - i * SECOND)
    many = queries(lambda: totals.totals(NOW))
    assert len(none) == len(many) == 4 * len(ExecutorClass) + 7


@postgresql
@pytest.mark.django_db(transaction=True)
def test_ends_and_lapses_are_found_by_indexes() -> None:
    account = Account.objects.get(miner="anna")
    past = [NOW - dt.timedelta(minutes=i) for i in range(20_000, 0, -1)]
    Reservation.objects.bulk_create(
        Reservation(
            account=account,
            blocks=list(range(60)),
            created_at=at - SECOND,
            expires_at=at,
            state=SPENT if i % 50 else EXPIRED,
            ended_at=at,
        )
        for i, at in enumerate(past)
    )
    read = [sql for sql in queries(lambda: totals.totals(NOW)) if 'FROM "allowance_reservation"' in sql]
    asked = [sql for sql in read if "chainlock" not in sql]  # without the readings of the classes
    read_by = [scans(sql, None) for sql in asked]
    assert len(read_by) == 7
    assert not any("allowance_reservation" in read for read in read_by)
    known = {"reservation_ended", "reservation_expired", "reservation_held"}
    expiries = [{"reservation_expired"}, {"reservation_held"}]
    assert [read & known for read in read_by] == [{"reservation_ended", "reservation_held"}, *expiries * 3]
