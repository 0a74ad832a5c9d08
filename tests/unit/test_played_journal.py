"""A played journal: a chain that depends only on the clock, and says what the journal says."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
from collections.abc import Coroutine
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allowance.follow.journal import (
    ANOTHER_VALIDATOR,
    INVENTED_WEI,
    BlockNotMinted,
    Journal,
    JournalUnplayable,
    read,
)
from allowance.follow.sources import ChainBlock
from allowance.types import MAX_BLOCK_NUMBER
from tests.programs import ROOT

Answer = TypeVar("Answer")

SUBNET = ROOT / "tests/conformance/cases/mockchain-100/journal.jsonl.gz"
FIRST = 1000
BEGIN = dt.datetime(2024, 1, 1, 12, 0, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 11, 28, 1, 2, 3, 456789, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
OURS = "our-validator"
RECORDING = read(SUBNET)

AXON = {"address": "192.0.2.1", "ip_version": 4, "port": 8000}
OTHER_AXON = {"address": "2001:db8::1", "ip_version": 6, "port": 8001}
CLASS = "always_on.gpu-24gb"

speeds = st.sampled_from([0.1, 0.7, 1.0, 3.0, 7.3, 100.0, 599.9, 600.0])
moments = st.datetimes(dt.datetime(2026, 1, 2), dt.datetime(2028, 8, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
shares = st.floats(0, 1) | st.sampled_from([0.0, 5e-324, 1.0])


def block(number: int, share: float = 0.25, hotkeys: list[str] | None = None) -> dict[str, Any]:
    when = (BEGIN + (number - FIRST) * 12 * SECOND).isoformat()
    return {"event": "block", "number": number, "timestamp": when, "stake_share": share, "hotkeys": hotkeys}


def sync(number: int, axons: dict[str, Any], executors: dict[str, Any]) -> dict[str, Any]:
    return {"event": "manifests", "block": number, "axons": axons, "executors": executors}


def played(path: Path, *events: object, now: dt.datetime = NOW, **options: Any) -> Journal:
    """Return a journal that consists of `events`, played at the time `now`."""
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return Journal(path, hotkey=OURS, now=lambda: now, **options)


def at(moment: dt.datetime, speed: float) -> Journal:
    """Return the recorded subnet played at a moment."""
    journal = Journal(SUBNET, hotkey=OURS, speed=speed, now=lambda: moment)
    journal.recording = RECORDING
    return journal


def ask(call: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(call)


def newest(journal: Journal) -> ChainBlock:
    return ask(journal.block(ask(journal.latest()).number))


def share_of(found: ChainBlock) -> float:
    stakes = {neuron.hotkey: neuron.stake for neuron in found.neurons if neuron.permit}
    return stakes[OURS] / sum(stakes.values())


def miners(found: ChainBlock) -> list[str]:
    return [neuron.hotkey for neuron in found.neurons if not neuron.permit]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@given(moments, speeds, st.integers(0, 2000), st.timedeltas(dt.timedelta(0), dt.timedelta(days=30)))
def test_any_two_processes_see_the_same_chain(
    moment: dt.datetime, speed: float, back: int, later: dt.timedelta
) -> None:
    one, other = at(moment, speed), at(moment + later, speed)
    number = one.newest() - back
    assert ask(one.genesis()) == ask(other.genesis())
    assert ask(one.block(number)) == ask(other.block(number))


@given(moments, speeds)
def test_the_newest_block_is_the_last_that_is_not_ahead_of_the_clock(moment: dt.datetime, speed: float) -> None:
    journal = at(moment, speed)
    number = journal.newest()
    assert number <= MAX_BLOCK_NUMBER
    assert journal.timestamp(number) <= moment < journal.timestamp(number + 1)
    assert at(journal.timestamp(number), speed).newest() == number
    apart = journal.timestamp(number) - journal.timestamp(number - 1)
    assert abs(apart.total_seconds() - 12 / speed) < 2e-6


@given(moments, speeds, st.integers(0, 300))
def test_each_block_names_its_parent(moment: dt.datetime, speed: float, back: int) -> None:
    journal = at(moment, speed)
    head = ask(journal.latest())
    assert ask(journal.block(head.number)).hash == head.hash
    child, parent = ask(journal.block(head.number - back)), ask(journal.block(head.number - back - 1))
    assert child.parent == parent.hash != child.hash
    assert len(child.hash) == len(ask(journal.genesis())) == 66
    assert parent.timestamp < child.timestamp


@given(st.lists(shares, min_size=1, max_size=5), speeds)
def test_the_stakes_give_exactly_the_share(
    tmp_path_factory: pytest.TempPathFactory, found: list[float], speed: float
) -> None:
    file = tmp_path_factory.mktemp("shares") / "journal.jsonl"
    journal = played(file, *(block(FIRST + i, share) for i, share in enumerate(found)), speed=speed)
    number = journal.newest()
    for n in range(number - len(found), number):
        expected = found[(n - FIRST) % len(found)]
        assert share_of(ask(journal.block(n))) == min(1.0, expected * max(1.0, speed))


@given(st.lists(st.none() | st.just(["anna"]) | st.just(["anna", "ben"]), min_size=1, max_size=6), st.integers(0, 20))
def test_a_block_without_a_list_has_the_miners_of_the_block_before_across_the_wrap_too(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[str] | None], back: int
) -> None:
    file = tmp_path_factory.mktemp("lists") / "journal.jsonl"
    journal = played(file, *(block(FIRST + i, hotkeys=names) for i, names in enumerate(lists)))
    number = journal.newest() - back
    before = [lists[(n - FIRST) % len(lists)] for n in range(number, number - len(lists), -1)]
    expected = next((names for names in before if names is not None), [])
    assert miners(ask(journal.block(number))) == expected


def test_a_cycle_of_the_recorded_subnet_is_what_the_journal_says() -> None:
    journal = at(NOW, 1)
    events = [json.loads(line) for line in gzip.decompress(SUBNET.read_bytes()).splitlines()]
    number = journal.newest() - 300
    number += -(number - FIRST) % 101
    hotkeys: list[str] = []
    told: dict[str, Any] = {}
    for event in events:
        if event["event"] == "manifests":
            told = event
            continue
        hotkeys = event.get("hotkeys") or hotkeys
        found = ask(journal.block(number + event["number"] - FIRST))
        assert share_of(found) == event["stake_share"]
        assert miners(found) == sorted(hotkeys)
        if told and told["block"] == event["number"]:
            answers = ask(journal.manifests(found, found.neurons))
            assert answers == told["executors"]
            for neuron in found.neurons:
                axon = told["axons"].get(neuron.hotkey, {"address": "0.0.0.0", "ip_version": 4, "port": 0})  # noqa: S104
                assert {key: getattr(neuron, key) for key in axon} == axon


def test_numbers_continue_the_journals_own_line_at_the_speed_of_a_real_chain() -> None:
    journal = at(NOW, 1)
    assert journal.newest() == FIRST + (NOW - BEGIN - dt.timedelta(microseconds=10_000)) // (12 * SECOND)


def test_a_journal_that_was_recorded_later_begins_at_its_first_block(file: Path) -> None:
    late = block(FIRST) | {"timestamp": "2026-11-27T00:00:00+00:00"}
    journal = played(file, late, speed=600)
    assert journal.newest() == FIRST + (NOW - dt.datetime(2026, 11, 27, tzinfo=dt.UTC)) // (SECOND / 50)
    assert journal.timestamp(FIRST) == dt.datetime(2026, 11, 27, tzinfo=dt.UTC)


@pytest.mark.parametrize("moment", [dt.datetime(1990, 1, 1, tzinfo=dt.UTC), dt.datetime(2029, 1, 1, tzinfo=dt.UTC)])
def test_a_chain_whose_numbers_would_leave_their_range_is_refused(moment: dt.datetime) -> None:
    with pytest.raises(JournalUnplayable, match="its newest block now has the number"):
        ask(at(moment, 600).latest())


def test_a_block_that_is_not_minted_is_refused() -> None:
    journal = at(NOW, 1)
    for number in (-1, journal.newest() + 1):
        with pytest.raises(BlockNotMinted, match="not minted yet") as refused:
            ask(journal.block(number))
        assert (refused.value.number, refused.value.newest) == (number, journal.newest())


def test_the_genesis_is_that_of_the_content_and_the_speed(tmp_path: Path) -> None:
    unpacked = tmp_path / "journal.jsonl"
    unpacked.write_bytes(gzip.decompress(SUBNET.read_bytes()))
    genesis = ask(at(NOW, 1).genesis())
    assert ask(Journal(unpacked, hotkey="other").genesis()) == genesis
    assert ask(at(NOW, 2).genesis()) != genesis
    unpacked.write_bytes(unpacked.read_bytes() + json.dumps(block(2000)).encode())
    assert ask(Journal(unpacked, hotkey=OURS).genesis()) != genesis


def test_manifests_are_those_of_the_newest_sync_across_the_wrap_too(file: Path) -> None:
    journal = played(
        file,
        block(FIRST, hotkeys=["anna", "ben"]),
        block(FIRST + 1),
        sync(FIRST + 1, {"anna": AXON}, {"anna": {CLASS: 1}}),
        block(FIRST + 2),
        block(FIRST + 3),
        sync(FIRST + 3, {"anna": OTHER_AXON, "ben": AXON}, {"anna": {CLASS: 2}, "ben": {CLASS: 3}}),
    )
    number = journal.newest()
    number -= (number - FIRST) % 4
    for offset, expected in ((-4, (2, 3)), (-3, (1, None)), (-2, (1, None)), (-1, (2, 3))):
        found = ask(journal.block(number + offset))
        anna, ben = found.neurons[2:]
        answers = ask(journal.manifests(found, found.neurons))
        assert tuple(answers.get(name, {}).get(CLASS) for name in ("anna", "ben")) == expected
        assert ask(journal.manifests(found, [ben])).keys() == answers.keys() & {"ben"}
        assert (anna.address, anna.ip_version, anna.port) == tuple((OTHER_AXON if ben.port else AXON).values())


def test_the_validators_have_no_address_and_are_no_miners(file: Path) -> None:
    journal = played(file, block(FIRST, hotkeys=["anna", OURS]), sync(FIRST, {"anna": AXON, OURS: AXON}, {}))
    ours, other, anna = newest(journal).neurons
    assert (ours.uid, ours.hotkey, ours.permit, ours.address, ours.port) == (0, OURS, True, "0.0.0.0", 0)  # noqa: S104
    assert (other.uid, other.hotkey, other.permit, other.port) == (1, ANOTHER_VALIDATOR, True, 0)
    assert (anna.hotkey, anna.permit, anna.stake, anna.port) == ("anna", False, 0, 8000)
    assert ask(journal.commitments(1)) == {}


def test_without_lists_of_hotkeys_the_miners_of_the_sync_are_registered(file: Path) -> None:
    journal = played(file, block(FIRST), sync(FIRST, {"ben": AXON, "anna": AXON}, {}))
    assert miners(newest(journal)) == ["anna", "ben"]


def test_hotkeys_keep_their_uids_and_their_evm_addresses(file: Path) -> None:
    journal = played(file, block(FIRST, hotkeys=["anna", "ben", "carl"]), block(FIRST + 1, hotkeys=["carl"]))
    number = journal.newest()
    uids = {}
    for n in (number, number - 1):
        found = ask(journal.block(n))
        assert [neuron.uid for neuron in found.neurons] == sorted(neuron.uid for neuron in found.neurons)
        uids[len(found.neurons)] = {neuron.hotkey: neuron.uid for neuron in found.neurons}
        addresses = ask(journal.evm_addresses(n))
        assert addresses.keys() == {neuron.uid for neuron in found.neurons if not neuron.permit}
        assert all(len(address) == 42 and int(address, 16) for address in addresses.values())
    assert uids[5].items() > uids[3].items()


def collateral(journal: Journal) -> list[int]:
    """Return the Wei of all miners of the newest block."""
    number = journal.newest()
    addresses = list(ask(journal.evm_addresses(number)).values())
    found = ask(journal.collateral(number, [*addresses, "0x" + "0" * 40]))
    assert list(found) == addresses
    return list(found.values())


def test_collateral_is_the_last_that_the_journal_says(file: Path) -> None:
    entries = [{"event": "collateral", "hotkey": "anna", "wei": wei} for wei in ("5", "7")]
    assert collateral(played(file, block(FIRST, hotkeys=["anna", "ben"]), *entries)) == [7, 0]


def test_collateral_is_invented_if_the_journal_has_none(file: Path) -> None:
    invented = played(file, block(FIRST, hotkeys=["anna", "ben", "carla"]), collateral=len)
    assert collateral(invented) == [4, 3, 5]
    assert set(collateral(at(NOW, 1))) == set(INVENTED_WEI)


def test_the_first_word_on_a_block_counts_and_other_events_are_ignored(file: Path) -> None:
    journal = played(file, {"event": "incident", "odd": 1}, block(FIRST, 0.5), block(FIRST, 0.25))
    assert share_of(newest(journal)) == 0.5
    assert journal.timestamp(journal.newest()) - journal.timestamp(journal.newest() - 1) == 12 * SECOND


def test_the_file_is_read_once(file: Path) -> None:
    journal = played(file, block(FIRST))
    number = ask(journal.latest()).number
    file.unlink()
    ask(journal.renew())
    ask(journal.close())
    assert ask(journal.block(number)).number == number


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it has no block"),
        (b"\n \n", "it has no block"),
        (b"\x1f\x8bno", "the compressed file is damaged"),
        (gzip.compress(b"x" * 9999, mtime=0)[:-9], "the compressed file is damaged"),
        (b"[]\n", "line 1 is no entry"),
        (b"\n{}\n", "line 2 is no entry"),
        (b"{", "line 1 is no entry"),
        (json.dumps(block(-1)).encode(), "line 1 is no entry"),
        (json.dumps(block(1) | {"timestamp": "2024-01-01T00:00:00"}).encode(), "line 1 is no entry"),
        (json.dumps(block(1) | {"stake_share": 2}).encode(), "line 1 is no entry"),
        (json.dumps(block(1) | {"hotkeys": "anna"}).encode(), "line 1 is no entry"),
        (json.dumps(sync(1, {"anna": {}}, {})).encode(), "line 1 is no entry"),
        (json.dumps(sync(1, {}, {"anna": {"odd": 1}})).encode(), "line 1 is no entry"),
        (b'{"event": "collateral", "hotkey": "anna", "wei": "-1"}', "line 1 is no entry"),
    ],
)
def test_what_is_no_journal_is_refused(content: bytes, problem: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(JournalUnplayable, match=problem):
        ask(Journal(file, hotkey=OURS).latest())


def test_a_missing_file_is_an_error_of_the_system(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(Journal(file, hotkey=OURS).genesis())


@given(speeds)
def test_miners_earn_as_much_in_an_hour_at_any_speed_that_the_share_allows(speed: float) -> None:
    """The blocks of a fast chain are shorter; the share makes up for it, until it is 1."""
    journal = at(NOW, speed)
    number = journal.newest()
    share = journal.content(number).stake_share
    if speed >= 1 and share * speed <= 1:
        earned = Fraction(share_of(ask(journal.block(number)))) * 12 / Fraction(str(speed))
        assert abs(earned - Fraction(share) * 12) < Fraction(1, 10**9)
