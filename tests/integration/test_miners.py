"""Miners are asked for their executors: those that are honest answer, and the others cost a slot for seconds."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from bittensor_core import Keypair

from allowance.follow.miners import TOO_MUCH, Miners
from allowance.follow.sources import ChainBlock, Neuron
from tests.live.miners import LIES, Behaviour, ScriptedMiners

VALIDATOR = Keypair.create_from_uri("//Validator")
COUNT = 64
PATIENT: dict[str, Any] = {"connect": 60.0, "whole": 60.0}
"""Deadlines that no honest answer misses, however slow the machine is."""

HASTY: dict[str, Any] = {"connect": 60.0, "whole": 0.3}
HANGING = [Behaviour.HANGS, Behaviour.HANGS_AT_FIRST, Behaviour.DRIPS, Behaviour.DRIPS_AT_FIRST]
MANIFEST = {"always_on.gpu-24gb": 1}


@pytest.fixture(scope="module")
def listening() -> Iterator[ScriptedMiners]:
    with ScriptedMiners(VALIDATOR.ss58_address, COUNT) as miners:
        yield miners


@pytest.fixture
def scripted(listening: ScriptedMiners) -> ScriptedMiners:
    """Miners that all answer, and have not been asked yet."""
    for miner in listening:
        miner.manifest, miner.behaviour, miner.is_dark = MANIFEST, Behaviour.ANSWERS, False
        miner.asked = miner.accepted = 0
        miner.refusals = []
    return listening


def asker(signer: Any = VALIDATOR, **how: Any) -> Miners:
    return Miners(signer, **{"allow_private": True, **PATIENT, **how})


def block(neurons: list[Neuron]) -> ChainBlock:
    return ChainBlock(1000, "0x01", "0x00", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), tuple(neurons))


async def ask(miners: Miners, neurons: list[Neuron]) -> dict[str, Any]:
    return dict(await miners.manifests(block(neurons), neurons))


async def ask_one(scripted: ScriptedMiners, behaviour: Behaviour, **how: Any) -> tuple[object, str]:
    """Return the answer of a miner that does so, and why it is silent."""
    scripted[0].behaviour = behaviour
    miners = asker(**how)
    answers = await ask(miners, [scripted[0].neuron()])
    return answers.get(scripted[0].hotkey), miners.silences.get(scripted[0].hotkey, "")


async def test_all_honest_miners_answer(scripted: ScriptedMiners) -> None:
    for number, miner in enumerate(scripted):
        miner.manifest = {"always_on.gpu-24gb": number, "always_on.test": 1}
    miners = asker()
    assert await ask(miners, scripted.neurons()) == {miner.hotkey: miner.manifest for miner in scripted}
    assert miners.silences == {}
    assert all((miner.asked, miner.accepted, miner.refusals) == (1, 1, []) for miner in scripted)


async def test_an_empty_manifest_is_an_answer(scripted: ScriptedMiners) -> None:
    scripted[0].manifest = {}
    assert await ask_one(scripted, Behaviour.ANSWERS) == ({}, "")


async def test_no_miners_give_no_answers() -> None:
    assert await ask(asker(), []) == {}


async def test_other_messages_are_skipped(scripted: ScriptedMiners) -> None:
    assert await ask_one(scripted, Behaviour.TALKS) == (MANIFEST, "")


@pytest.mark.parametrize("lie", LIES)
async def test_a_manifest_is_returned_as_it_is_given(scripted: ScriptedMiners, lie: str) -> None:
    scripted[0].manifest = LIES[lie]
    answer, _ = await ask_one(scripted, Behaviour.ANSWERS)
    assert json.dumps(answer) == json.dumps(LIES[lie])


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour.REFUSES, "It refuses to answer: 'Validator is blocked.'."),
        (Behaviour.DOES_NOT_KNOW_US, "It refuses to answer: 'unknown_validator'."),
        (Behaviour.CLOSES, "It has closed the connection."),
        (Behaviour.SENDS_NO_JSON, "Its message is not JSON."),
        (Behaviour.SENDS_DEEP_JSON, "Its message is not JSON."),
        (Behaviour.SENDS_BYTES, "Its message is not JSON."),
        (Behaviour.SENDS_A_LIST, "Its message is not a JSON object."),
        (Behaviour.SENDS_NO_MAPPING, "Its manifest is not a JSON object."),
        (Behaviour.SENDS_NO_MANIFEST, TOO_MUCH),
        (Behaviour.SENDS_TOO_MUCH, TOO_MUCH),
        (Behaviour.SENDS_NOTHING_FOR_EVER, TOO_MUCH),
        (Behaviour.PINGS, TOO_MUCH),
    ],
)
async def test_a_bad_miner_does_not_answer(scripted: ScriptedMiners, behaviour: Behaviour, reason: str) -> None:
    assert await ask_one(scripted, behaviour) == (None, reason)


async def test_a_miner_that_drops_the_connection_does_not_answer(scripted: ScriptedMiners) -> None:
    answer, reason = await ask_one(scripted, Behaviour.CLOSES_AT_FIRST)
    assert answer is None
    assert reason.startswith(("There is no connection: ", "It does not speak WebSocket: "))


@pytest.mark.parametrize("behaviour", HANGING)
async def test_a_miner_that_hangs_is_given_up(scripted: ScriptedMiners, behaviour: Behaviour) -> None:
    assert await ask_one(scripted, behaviour, **HASTY) == (None, "It has not answered within 0.3 s.")


@pytest.mark.parametrize("behaviour", [Behaviour.HANGS_AT_FIRST, Behaviour.DRIPS_AT_FIRST])
async def test_connecting_has_a_deadline_of_its_own(scripted: ScriptedMiners, behaviour: Behaviour) -> None:
    assert await ask_one(scripted, behaviour, connect=0.3) == (None, "There is no connection within 0.3 s.")


async def test_an_answer_counts_if_the_miner_never_closes_the_connection(scripted: ScriptedMiners) -> None:
    assert await ask_one(scripted, Behaviour.NEVER_CLOSES) == (MANIFEST, "")


async def test_a_redirect_is_not_followed(scripted: ScriptedMiners) -> None:
    for target in (scripted[1], scripted[0]):  # another address, and another path of the same address
        scripted[0].redirect = f"http://127.0.0.1:{target.port}/v0.1/validator_interface/{VALIDATOR.ss58_address}"
        answer, reason = await ask_one(scripted, Behaviour.REDIRECTS)
        assert (answer, reason) == (None, "It answers with HTTP status 302, not with a WebSocket.")
    assert (scripted[0].asked, scripted[1].asked) == (2, 0)


async def test_private_addresses_are_not_asked_unless_allowed(scripted: ScriptedMiners) -> None:
    _, reason = await ask_one(scripted, Behaviour.ANSWERS, allow_private=False)
    assert reason == f"No connection to '127.0.0.1' port {scripted[0].port}: it is loopback."
    assert scripted[0].asked == 0


@pytest.mark.parametrize(("address", "port"), [("0.0.0.0", 8000), ("8.8.8.8", 0), ("::", 8000)])  # noqa: S104
async def test_a_miner_without_an_address_is_not_asked(address: str, port: int) -> None:
    miners = asker(allow_private=False)
    assert await ask(miners, [Neuron(0, "5Miner", address, 4, port, permit=False, stake=0)]) == {}
    assert miners.silences == {"5Miner": "It has no address."}


async def test_a_miner_that_does_not_listen_is_silent(scripted: ScriptedMiners) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        neuron = dataclasses.replace(scripted[0].neuron(), port=unused.getsockname()[1])
        miners = asker()
        assert await ask(miners, [neuron]) == {}
    assert miners.silences[neuron.hotkey].startswith("There is no connection: ")


async def test_one_hotkey_can_not_answer_for_another(scripted: ScriptedMiners) -> None:
    """An honest miner refuses a request that names another miner: the chain has the wrong address for that one."""
    neuron = dataclasses.replace(scripted[0].neuron(), port=scripted[1].port)
    miners = asker()
    assert await ask(miners, [neuron]) == {}
    assert miners.silences == {neuron.hotkey: "It refuses to answer: 'Miner hotkey mismatch.'."}


async def test_a_clock_that_is_slow_is_told_by_the_miners(scripted: ScriptedMiners) -> None:
    _, reason = await ask_one(scripted, Behaviour.ANSWERS, now=lambda: time.time() - 60)
    assert reason == "It refuses to answer: 'The message is too old.'."


class Forger:
    """A signer that claims the validator's address."""

    ss58_address: str = VALIDATOR.ss58_address

    def sign(self, data: bytes) -> bytes:
        signature: bytes = Keypair.create_from_uri("//Forger").sign(data)
        return signature


async def test_miners_verify_the_signature(scripted: ScriptedMiners) -> None:
    """The scripted miners do check: otherwise the tests above would prove nothing about what is signed."""
    _, reason = await ask_one(scripted, Behaviour.ANSWERS, signer=Forger())
    assert reason == "It refuses to answer: 'The signature is wrong.'."


async def test_the_text_of_a_refusal_is_short_and_printable(
    scripted: ScriptedMiners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted[0], "check", lambda *_: "\x1b[31m\n\ud800" + "x" * 10_000)
    _, reason = await ask_one(scripted, Behaviour.ANSWERS)
    assert reason.isprintable()
    assert len(reason) < 300


async def test_no_compression_is_offered(scripted: ScriptedMiners) -> None:
    """A small message could become a large one."""
    await ask_one(scripted, Behaviour.ANSWERS)
    assert "Sec-WebSocket-Extensions" not in scripted[0].headers


async def test_no_proxy_is_used(scripted: ScriptedMiners, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "socks_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert await ask_one(scripted, Behaviour.ANSWERS) == (MANIFEST, "")


async def test_hanging_miners_take_one_slot_each_and_no_more(scripted: ScriptedMiners) -> None:
    """63 miners hang, and are given up together. The last one waits for a slot, is asked next, and answers."""
    for number, miner in enumerate(scripted):
        miner.behaviour = HANGING[number % len(HANGING)]
    last = scripted[COUNT - 1]
    last.behaviour = Behaviour.ANSWERS
    miners = asker(**HASTY, at_once=COUNT - 1)
    asking = asyncio.create_task(ask(miners, scripted.neurons()))
    for _ in range(3):
        await asyncio.sleep(0)  # until all slots are taken
    miners.whole = PATIENT["whole"]
    assert await asking == {last.hotkey: MANIFEST}
    assert len(miners.silences) == COUNT - 1
    assert all("has not answered within" in reason for reason in miners.silences.values())


async def test_bad_miners_do_not_disturb_the_others(scripted: ScriptedMiners) -> None:
    """Half of the miners do each bad thing but hang, with few slots for all."""
    good = {Behaviour.ANSWERS, Behaviour.TALKS, Behaviour.NEVER_CLOSES}
    bad = [behaviour for behaviour in Behaviour if behaviour not in {*good, *HANGING}]
    for number, miner in enumerate(scripted):
        if number % 2:
            miner.behaviour = bad[number // 2 % len(bad)]
    honest = {miner.hotkey: MANIFEST for miner in scripted if miner.behaviour is Behaviour.ANSWERS}
    miners = asker(at_once=16)
    assert await ask(miners, scripted.neurons()) == honest
    assert miners.silences.keys() == {miner.hotkey for miner in scripted} - honest.keys()


async def test_miners_that_are_dark_answer_again_later(scripted: ScriptedMiners) -> None:
    miners = asker()
    scripted.dark = True
    assert await ask(miners, scripted.neurons()) == {}
    assert len(miners.silences) == COUNT
    scripted.dark = False
    assert len(await ask(miners, scripted.neurons())) == COUNT
    assert miners.silences == {}


async def test_silences_last_until_a_miner_answers_or_leaves(scripted: ScriptedMiners) -> None:
    scripted.dark = True
    miners, (first, second, third, *_) = asker(), scripted.neurons()
    await ask(miners, [first, second, third])
    scripted.dark = False
    await miners.manifests(block([first, second]), [second])
    assert miners.silences.keys() == {first.hotkey}


async def test_an_error_that_is_not_foreseen_stops_no_other_miner(
    scripted: ScriptedMiners, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    miners, (first, second, *_) = asker(), scripted.neurons()
    request = miners._request

    def fail_for_first(miner: Neuron) -> str:
        if miner == first:
            raise LookupError("a fault of ours")
        return request(miner)

    monkeypatch.setattr(miners, "_request", fail_for_first)
    with caplog.at_level(logging.ERROR):
        assert await ask(miners, [first, second]) == {second.hotkey: MANIFEST}
    assert miners.silences == {first.hotkey: "It can't be asked: LookupError."}
    assert "a fault of ours" in caplog.text
