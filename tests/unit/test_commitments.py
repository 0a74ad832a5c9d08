"""The executors that miners publish on the chain are parsed strictly, and any bytes may be there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from allowance.follow.commitments import CLASSES, Commitments, manifest_in
from allowance.follow.sources import ChainBlock, Neuron, SourceError
from allowance.types import ExecutorClass

A, S = "always_on.gpu-24gb", "spin_up-4min.gpu-24gb"


@pytest.mark.parametrize(
    ("commitment", "manifest"),
    [
        (b"<M:A3;S2>", {A: 3, S: 2}),
        (b"<M:S0>", {S: 0}),
        (b"<M:A007>", {A: 7}),
        (b"before \xff\x00 <M:A1> after", {A: 1}),
        (b"<M:A1><M:A2>", {A: 1}),
        (b"<M:><M:A2>", {}),
        (b"<M:>", {}),
        (b"<M: A1 ; S2 ;>", {A: 1, S: 2}),
        (b"<M:A1;A2>", {A: 2}),
        (b"<M:A1;<M:S2>", {A: 1}),
    ],
)
def test_an_envelope_is_read(commitment: bytes, manifest: dict[str, int]) -> None:
    assert manifest_in(commitment) == manifest


@pytest.mark.parametrize(
    "commitment", [b"", b"A3", b"<M:A3", b"M:A3>", b"<m:A3>", b"<N:A3>", b"< M:A3>", b"x" * 1024 + b"<M:A3>"]
)
def test_what_has_no_envelope_is_no_answer(commitment: bytes) -> None:
    assert manifest_in(commitment) is None


NO_NUMBERS = ["A", "3", "A-3", "A+3", "A1_0", "A3.0", "A1e3", "A0x1", "A٣", "A³", "A1000000000"]
NO_ENTRIES = ["AA3", "a3", "Z3", "A=3", "A 3", "A3 3", "A3\n", "A3\0"]


@pytest.mark.parametrize("entry", [*NO_NUMBERS, *NO_ENTRIES])
def test_an_entry_that_is_not_strict_is_left_out(entry: str) -> None:
    assert manifest_in(f"<M:S1;{entry}>".encode()) == {S: 1}


def test_every_class_has_a_letter() -> None:
    assert set(CLASSES.values()) == set(ExecutorClass)


@given(st.binary(max_size=300) | st.text(alphabet="<M:>;ASLTC0123456789-+_ ").map(str.encode))
@example(b"<M:A3;S2>")
def test_any_bytes_give_small_counts_of_known_classes_or_nothing(commitment: bytes) -> None:
    for name, count in (manifest_in(commitment) or {}).items():
        assert name in set(ExecutorClass)
        assert type(count) is int
        assert 0 <= count < 10**9


@given(
    st.dictionaries(st.sampled_from(sorted(CLASSES)), st.integers(0, 10**9 - 1)),
    st.binary().filter(lambda b: b"<" not in b),
)
def test_what_is_published_is_read(counts: dict[bytes, int], around: bytes) -> None:
    entries = b";".join(letter + str(count).encode() for letter, count in counts.items())
    manifest = manifest_in(around[:500] + b"<M:" + entries + b">" + around)
    assert manifest == {CLASSES[letter]: count for letter, count in counts.items()}


class Chain:
    """A chain with these commitments only."""

    def __init__(self, published: Mapping[str, bytes] | SourceError) -> None:
        self.published, self.asked = published, list[int]()

    async def commitments(self, number: int) -> Mapping[str, bytes]:
        self.asked.append(number)
        if isinstance(self.published, SourceError):
            raise self.published
        return self.published


def source(published: Mapping[str, bytes] | SourceError) -> tuple[Commitments, Chain]:
    chain: Any = Chain(published)
    return Commitments(chain), chain


def neurons(*hotkeys: str) -> tuple[Neuron, ...]:
    return tuple(Neuron(uid, hotkey, "", 4, 0, permit=False, stake=0) for uid, hotkey in enumerate(hotkeys))


def block(*hotkeys: str) -> ChainBlock:
    return ChainBlock(7, "0x07", "0x06", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), neurons(*hotkeys))


async def test_miners_answer_by_what_they_have_published_at_the_block() -> None:
    commitments, chain = source({"one": b"<M:A3>", "paused": b"<M:>", "other": b"x", "stranger": b"<M:A1>"})
    miners = neurons("one", "paused", "other", "none")
    assert await commitments.manifests(block("one", "paused", "other", "none"), miners) == {"one": {A: 3}, "paused": {}}
    assert commitments.silences.keys() == {"other", "none"}
    assert chain.asked == [7]


async def test_silences_last_until_a_miner_answers_or_leaves() -> None:
    commitments, chain = source({})
    await commitments.manifests(block("one", "two", "three"), neurons("one", "two", "three"))
    chain.published = {"one": b"<M:A3>"}
    await commitments.manifests(block("one", "two"), neurons("one"))
    assert commitments.silences.keys() == {"two"}


async def test_an_error_of_the_chain_is_no_silence_of_miners() -> None:
    commitments, _ = source(SourceError("No node answers."))
    with pytest.raises(SourceError, match="No node answers"):
        await commitments.manifests(block("one"), neurons("one"))
