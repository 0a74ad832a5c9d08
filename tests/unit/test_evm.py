"""Which contract and which node the collateral is read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from allowance.follow.evm import contract_in, from_settings, http_address

ADDRESS = "0x" + "aB" * 20


@pytest.mark.parametrize(
    ("commitment", "address"),
    [
        (f'{{"contract": {{"address": "{ADDRESS}"}}}}', ADDRESS.lower()),
        (f'{{"v": 2, "contract": {{"address": "{ADDRESS}", "x": null}}}}', ADDRESS.lower()),
        (f'{{"contract": {{"address": "{ADDRESS}0"}}}}', ""),
        (f'{{"contract": {{"address": "{ADDRESS[2:]}"}}}}', ""),
        (f'{{"contract": "{ADDRESS}"}}', ""),
        ('{"contract": {"address": 7}}', ""),
        ('{"contract": null}', ""),
        ("[]", ""),
        ("", ""),
        ("<M:A3>", ""),
        ("{", ""),
    ],
)
def test_a_commitment_names_a_contract_as_json(commitment: str, address: str) -> None:
    assert contract_in(commitment.encode()) == address


def test_a_commitment_of_other_bytes_names_none() -> None:
    assert contract_in(bytes(range(128, 256))) == ""


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://127.0.0.1:9944", "http://127.0.0.1:9944"),
        ("wss://node.example:443", "https://node.example:443"),
        ("https://ws.example/ws", "https://ws.example/ws"),
    ],
)
def test_a_node_serves_http_where_it_serves_websockets(url: str, address: str) -> None:
    assert http_address(url) == address


class Chain:
    """A chain on which the hotkey anna has a commitment."""

    async def commitments(self, number: int) -> Mapping[str, bytes]:
        published = f'{{"contract": {{"address": "{ADDRESS}"}}}}'.encode()
        return {"anna": published if number == 7 else b""}


@pytest.mark.parametrize(
    ("named", "hotkey", "block", "contract"),
    [
        ("", "anna", 7, ADDRESS.lower()),
        ("", "anna", 8, ""),
        ("", "bert", 7, ""),
        ("0x" + "CD" * 20, "anna", 7, "0x" + "cd" * 20),
    ],
)
async def test_the_contract_is_that_of_the_setting_or_of_the_commitment(
    named: str, hotkey: str, block: int, contract: str, settings: Settings
) -> None:
    settings.COLLATERAL_CONTRACT, settings.VALIDATOR_HOTKEY = named, hotkey
    chain: Any = Chain()
    assert await from_settings(chain)._contract_at(block) == contract


@pytest.mark.parametrize(
    ("evm_url", "node"), [("", "https://node.example:443"), ("http://evm.example/key", "http://evm.example")]
)
def test_the_node_is_that_of_the_setting_or_of_the_chain(evm_url: str, node: str, settings: Settings) -> None:
    settings.EVM_URL, settings.SUBTENSOR_URL = evm_url, ["wss://node.example:443"]
    chain: Any = Chain()
    assert from_settings(chain).node == node
