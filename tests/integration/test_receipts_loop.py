"""The loop that reads the pages of all miners: when it asks which miner for what, and what it does with liars."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from uuid import UUID

import pytest
from django.db import OperationalError
from time_machine import TimeMachineFixture

from allowance.plumbing.targets import ForbiddenTarget
from allowance.plumbing.threads import in_database_thread
from receipts.models import JobStartedReceipt
from receipts.transfer import loop as transfer
from receipts.transfer.intake import Intake, ValidatorsUnknown
from receipts.transfer.loop import AT_ONCE, CATCH_UP, MOST_LINES, OLDER_PER_STEP, ReceiptsLoop, Shelf
from receipts.transfer.pages import BadPage, MinerAddress, NoAnswer
from tests.clock import MINUTE, NOW, noon
from tests.receipts import MINER, OTHER, VALIDATOR, started

pytestmark = [pytest.mark.django_db(transaction=True), noon]

PAGE = int(NOW.timestamp()) // 300
ANNA, OTTO = (MinerAddress(keypair.ss58_address, "192.0.2.1", 8000) for keypair in (MINER, OTHER))
QUICK = 0.001
"""The seconds between two steps where a miner hangs."""


class Written:
    """A source of pages that a test writes. `asked` are the requests; `fails` maps miners to errors."""

    name = "written"

    def __init__(self) -> None:
        self.texts: dict[tuple[str, int], list[bytes]] = {}
        self.asked: list[tuple[str, int, int]] = []
        self.fails: dict[str, Exception] = {}
        self.hangs: set[str] = set()
        self.now = self.most = 0
        self.is_closed = False

    def write(self, miner: MinerAddress, page: int, *lines: bytes) -> None:
        self.texts.setdefault((miner.hotkey, page), []).extend(lines)

    async def pages(self, miner: MinerAddress, page: int, offset: int) -> tuple[Sequence[bytes], int]:
        """Return the lines after the first `offset` lines: here an offset counts lines."""
        self.asked.append((miner.hotkey, page, offset))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if miner.hotkey in self.hangs:
                await asyncio.Event().wait()
            if error := self.fails.get(miner.hotkey):
                raise error
        finally:
            self.now -= 1
        lines = self.texts.get((miner.hotkey, page), [])
        if len(lines) < offset:
            return [], 0
        found = lines[offset : offset + 20_000]
        return found, offset + len(found)

    async def close(self) -> None:
        self.is_closed = True

    def asked_pages(self, miner: MinerAddress = ANNA) -> list[int]:
        """Return the pages of a miner that were asked for since this was called last."""
        pages = [page for hotkey, page, _ in self.asked if hotkey == miner.hotkey]
        self.asked.clear()
        return pages


@pytest.fixture
def source() -> Written:
    return Written()


@pytest.fixture
def miners() -> list[MinerAddress]:
    return [ANNA]


@pytest.fixture
async def loop(source: Written, miners: list[MinerAddress]) -> AsyncIterator[ReceiptsLoop]:
    def routed(jobs: Collection[UUID]) -> Collection[UUID]:
        return ()

    intake = Intake(own="5Own", validators=lambda: {VALIDATOR.ss58_address}, routed=routed)
    loop = ReceiptsLoop(source, intake, lambda: miners)
    yield loop
    await loop.close()
    assert source.is_closed


async def whole_step(loop: ReceiptsLoop, *, steps: int = 1) -> None:
    """Make steps, and wait for the visits that they began."""
    for _ in range(steps):
        for shelf in loop._shelves.values():
            shelf.due = 0.0
        await loop.step()


def line(at: dt.datetime = NOW) -> bytes:
    return json.dumps(started(at)).encode()


async def stored() -> int:
    return await in_database_thread(JobStartedReceipt.objects.count)()


async def test_the_two_newest_pages_are_read_and_then_what_is_new(loop: ReceiptsLoop, source: Written) -> None:
    source.write(ANNA, PAGE, line(), line())
    source.write(ANNA, PAGE - 1, line())
    await whole_step(loop)
    assert source.asked == [(ANNA.hotkey, PAGE, 0), (ANNA.hotkey, PAGE - 1, 0)]
    assert await stored() == loop.detail["taken"] == 3
    source.write(ANNA, PAGE, line())
    source.asked.clear()
    await whole_step(loop)
    newest = [(page, offset) for _, page, offset in source.asked if page >= PAGE - 1]
    assert newest == [(PAGE, 2), (PAGE - 1, 1)]
    assert await stored() == 4


async def test_the_first_step_waits_for_all_miners(
    loop: ReceiptsLoop, source: Written, miners: list[MinerAddress]
) -> None:
    miners.extend(MinerAddress(f"5Miner{number}", "192.0.2.1", 1) for number in range(200))
    await whole_step(loop)
    assert len(source.asked) == 2 * 201
    assert source.most <= AT_ONCE


async def test_older_pages_are_read_once_the_newest_first(loop: ReceiptsLoop, source: Written) -> None:
    source.write(ANNA, PAGE - 2, line(), line())
    source.write(ANNA, PAGE - 40, line())
    await whole_step(loop)
    source.asked.clear()
    older: list[int] = []
    for _ in range(CATCH_UP):
        await whole_step(loop)
        asked = [page for page in source.asked_pages() if page < PAGE - 1]
        assert len(asked) <= OLDER_PER_STEP
        older.extend(asked)
    assert Counter(older) == Counter([*range(PAGE - CATCH_UP + 1, PAGE - 1), PAGE - 2, PAGE - 40])
    assert older == sorted(older, reverse=True)
    assert await stored() == 3
    assert set(loop._shelves[ANNA.hotkey].begun) == {PAGE, PAGE - 1}


async def test_a_page_that_no_longer_grows_is_read_to_its_end(
    loop: ReceiptsLoop, source: Written, time_machine: TimeMachineFixture
) -> None:
    await whole_step(loop, steps=20)
    source.asked.clear()
    source.write(ANNA, PAGE - 1, line())
    time_machine.move_to(NOW + 5 * MINUTE, tick=False)
    await whole_step(loop, steps=2)
    assert Counter(source.asked_pages()) == Counter({PAGE + 1: 2, PAGE: 2, PAGE - 1: 2})
    assert await stored() == 1


async def test_after_an_outage_the_pages_that_were_missed_are_read(
    loop: ReceiptsLoop, source: Written, time_machine: TimeMachineFixture
) -> None:
    await whole_step(loop, steps=20)
    source.fails[ANNA.hotkey] = NoAnswer(ANNA, PAGE, "timeout")
    for late in range(5, 30, 5):
        time_machine.move_to(NOW + late * MINUTE, tick=False)
        await whole_step(loop)
    source.fails.clear()
    source.asked.clear()
    await whole_step(loop, steps=5)
    assert set(source.asked_pages()) == {PAGE + number for number in range(-1, 6)}


async def test_a_page_that_became_shorter_is_read_again(loop: ReceiptsLoop, source: Written) -> None:
    source.write(ANNA, PAGE, line(), line(), line())
    await whole_step(loop)
    source.texts[ANNA.hotkey, PAGE] = [line()]
    await whole_step(loop, steps=2)
    assert await stored() == loop.detail["taken"] == 4


FAILURES: dict[str, Callable[[], Exception]] = {
    "no answer": lambda: NoAnswer(ANNA, PAGE, "timeout"),
    "a bad answer": lambda: BadPage(ANNA, PAGE, "status 302"),
    "a forbidden address": lambda: ForbiddenTarget("127.0.0.1", 80, "it is loopback"),
    "a name that can't be resolved": lambda: OSError("no such name"),
    "an error of the library": lambda: AssertionError("unforeseen"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_a_miner_that_fails_is_asked_less_often_and_stops_no_other(
    loop: ReceiptsLoop, source: Written, miners: list[MinerAddress], failure: Callable[[], Exception]
) -> None:
    miners.append(OTTO)
    source.write(OTTO, PAGE, json.dumps(started(NOW, miner=OTHER)).encode())
    source.fails[ANNA.hotkey] = failure()
    await whole_step(loop)
    anna, otto = (loop._shelves[miner.hotkey] for miner in (ANNA, OTTO))
    assert loop.detail["miners"] == {
        ANNA.hotkey: {"taken": 0, "refused": 0, "good_at": None, "silent_since": NOW.isoformat()},
        OTTO.hotkey: {"taken": 1, "refused": 0, "good_at": NOW.isoformat(), "silent_since": None},
    }
    assert anna.due > otto.due
    waits = []
    for _ in range(20):
        await whole_step(loop)
        waits.append(anna.wait)
    assert waits == sorted(waits)
    assert waits[-1] == transfer.SELDOM
    assert loop.calls.counted["pages"][1] == 21
    source.fails.clear()
    await whole_step(loop)
    assert anna.wait == 5.0
    assert loop.detail["miners"][ANNA.hotkey]["silent_since"] is None


async def test_a_miner_is_not_asked_before_its_turn(loop: ReceiptsLoop, source: Written) -> None:
    source.fails[ANNA.hotkey] = NoAnswer(ANNA, PAGE, "timeout")
    await loop.step()
    await loop.step()
    await loop.step()
    assert source.asked_pages() == [PAGE]


async def test_a_miner_that_hangs_keeps_no_other_waiting(
    loop: ReceiptsLoop, source: Written, miners: list[MinerAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OFTEN", "FIRST_STEP"):
        monkeypatch.setattr(transfer, name, QUICK)
    miners.append(OTTO)
    source.hangs.add(ANNA.hotkey)
    for _ in range(50):
        await loop.step()
        loop._shelves[OTTO.hotkey].due = 0.0
        await asyncio.sleep(QUICK)
    pages = Counter(hotkey for hotkey, _, _ in source.asked)
    assert pages[ANNA.hotkey] == 1
    assert pages[OTTO.hotkey] > 10


async def test_lines_beyond_the_bounds_of_a_page_are_left_out(
    loop: ReceiptsLoop, source: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_FORGED", 10**9)
    source.write(ANNA, PAGE, *[b"x"] * (MOST_LINES + 1))
    await whole_step(loop)
    assert loop.detail["refused"] == {"not_json": MOST_LINES}
    await whole_step(loop)
    assert loop.detail["refused"] == {"not_json": MOST_LINES, "too_many": 1}
    source.write(ANNA, PAGE, line())
    source.asked.clear()
    await whole_step(loop)
    assert PAGE not in source.asked_pages()


async def test_a_page_of_nonsense_is_given_up(loop: ReceiptsLoop, source: Written) -> None:
    source.write(ANNA, PAGE, *[b"x"] * 5_000)
    source.write(ANNA, PAGE - 1, line())
    await whole_step(loop, steps=2)
    assert loop.detail["refused"] == {"not_json": 1500, "too_many": 3500}
    assert await stored() == 1
    assert Counter(source.asked_pages())[PAGE] == 1


async def test_lines_of_validators_without_a_permit_are_not_held_against_a_page(
    loop: ReceiptsLoop, source: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_FORGED", 3)
    stranger = json.dumps(started(NOW, validator=OTHER)).encode()
    source.write(ANNA, PAGE, *[stranger] * 10)
    await whole_step(loop)
    source.write(ANNA, PAGE, line())
    await whole_step(loop)
    assert loop.detail["refused"] == {"no_validator": 10}
    assert await stored() == 1


async def test_an_error_of_the_database_is_raised_and_the_lines_are_read_again(
    loop: ReceiptsLoop, source: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(*_: object) -> object:
        raise OperationalError("away")

    source.write(ANNA, PAGE, line())
    with monkeypatch.context() as patch:
        patch.setattr(loop._intake, "take", take)
        with pytest.raises(OperationalError):
            await whole_step(loop)
    await whole_step(loop)
    assert await stored() == 1
    assert loop.detail["taken"] == 1


async def test_nothing_is_read_before_the_validators_are_known(loop: ReceiptsLoop, source: Written) -> None:
    """What is read is not read again, so it would be refused for good."""
    source.write(ANNA, PAGE, line())
    known = loop._intake._validators
    loop._intake._validators = set
    with pytest.raises(ValidatorsUnknown):
        await whole_step(loop)
    assert source.asked == []
    loop._intake._validators = known
    await whole_step(loop)
    assert await stored() == 1


async def test_a_miner_that_moves_is_read_anew_and_one_that_leaves_is_forgotten(
    loop: ReceiptsLoop, source: Written, miners: list[MinerAddress]
) -> None:
    source.write(ANNA, PAGE, line())
    await whole_step(loop)
    miners[:] = [ANNA._replace(address="192.0.2.2")]
    source.asked.clear()
    await whole_step(loop)
    assert (ANNA.hotkey, PAGE, 0) in source.asked
    assert await stored() == 1
    miners.clear()
    await whole_step(loop)
    assert loop.detail["miners"] == {}


async def test_the_end_cancels_what_is_going_on(
    loop: ReceiptsLoop, source: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FIRST_STEP", QUICK)
    source.hangs.add(ANNA.hotkey)
    await loop.step()
    (visit,) = loop._visits.values()
    await loop.close()
    assert visit.cancelled()


def test_an_outage_of_days_leaves_no_more_pages_than_are_read_after_a_start() -> None:
    shelf = Shelf(ANNA)
    for page in (PAGE, PAGE + 1, PAGE + 1000, PAGE + 1000):
        shelf.turn_to(page)
    assert shelf.older == list(range(PAGE + 1000 - CATCH_UP + 1, PAGE + 999))
    shelf.turn_to(PAGE)  # the clock was set back
    assert shelf.live == (PAGE, PAGE - 1)
