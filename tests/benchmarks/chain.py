"""What a worker does that plays a whole subnet: its node, its EVM, and its miners with their receipts (tests.live)."""

from __future__ import annotations

import atexit
import datetime as dt
import os
from contextlib import ExitStack, suppress
from itertools import cycle, islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from django.utils import timezone

from tests.benchmarks.seed import CLASSES
from tests.live.miners import Behaviour

if TYPE_CHECKING:
    from tests.live.subnet import Subnet

RECEIPTS = 10
"""The number of miners that serve one more receipt after each block."""

nets: list[Subnet] = []
"""The subnet of this worker."""


def open_subnet(
    *,
    folder: str,
    miners: int,
    executors: int,
    first: int,
    blocks: int,
    block_seconds: float,
    refusing: int,
    hanging: int,
) -> dict[str, str]:
    """Run a subnet until this process ends, and return the settings of its follower. Nothing is mined at first.

    All miners declare so many `executors` of each class, but for those that refuse to answer, and those that do not
    even answer the opening of the WebSocket.
    """
    from tests.live.fixtures import NEW  # noqa: PLC0415 (an extra)
    from tests.live.subnet import subnet  # noqa: PLC0415 (an extra)

    os.nice(19)  # in reality all this runs on other machines
    stack = ExitStack()
    atexit.register(stack.close)
    block_time = dt.timedelta(seconds=block_seconds)
    net = stack.enter_context(subnet(miners, spec=NEW, first=first, blocks=blocks, block_time=block_time))
    stack.callback(_let_end, net)
    nets.append(net)
    rest()
    for number, miner in enumerate(net.miners):
        miner.manifest = {str(name): executors for name in CLASSES}
        if number < refusing + hanging:
            miner.behaviour = Behaviour.REFUSES if number < refusing else Behaviour.HANGS_AT_FIRST
    for number in range(miners):
        net.evm.deposit(net.contract, _address(number), 10**18)
    net.evm.mine()
    net.chain.evm.update({number: _address(number) for number in range(miners)})
    Thread(target=_serve_receipts, args=(net,), daemon=True).start()
    return {**{name: str(value) for name, value in net.environment(Path(folder)).items()}, "MANIFEST_LIMITS": "{}"}


def mine() -> None:
    """Mine on."""
    nets[0].mining.release()


def rest() -> None:
    """Mine no more for now."""
    nets[0].mining.acquire()


def _let_end(net: Subnet) -> None:
    """Let the thread that mines end, also while it rests."""
    net.over.set()
    with suppress(RuntimeError):  # it does not rest
        net.mining.release()


def _serve_receipts(net: Subnet) -> None:
    """After each block let the next miners serve a new receipt of another validator's job."""
    from tests.live.subnet import OTHER, serve_receipts  # noqa: PLC0415 (an extra)
    from tests.receipts import started  # noqa: PLC0415

    miners = cycle(net.miners)
    while not net.over.wait(net.chain.block_time.total_seconds()):
        with net.mining:
            now = timezone.now()
            for miner in islice(miners, RECEIPTS):
                serve_receipts(miner, started(now, miner=miner.keypair, validator=OTHER), at=now)


def _address(number: int) -> str:
    return f"0x{number + 1:040x}"
