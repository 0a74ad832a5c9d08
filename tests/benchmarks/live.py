"""The rows of the chain follower. They need the extras: a scripted subnet runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from importlib.util import find_spec
from tempfile import TemporaryDirectory

from tests.benchmarks.bench import Bench
from tests.benchmarks.report import Line, at_most
from tests.benchmarks.sizes import FIRST_BLOCK, Subnet
from tests.live.lane import MODULES
from tests.programs import DEADLINE, Worker

NEEDS = "needs the extras: make test-live's environment"

WINDOW = 722
"""The number of blocks that count, which a follower must catch up with after a long absence."""

Row = Callable[[Bench], Iterator[Line]]


class ChainWorker(Worker):
    """A worker that plays a subnet. It ends by itself, because it has to end its EVM node."""

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(DEADLINE)
        super().end()


def with_extras(row: Row) -> Row:
    """Let a row only say what it needs, if a library of the extras is missing."""

    @wraps(row)
    def measured(bench: Bench) -> Iterator[Line]:
        if all(map(find_spec, MODULES)):
            yield from row(bench)
        else:
            yield Line(row.__name__.replace("_", " "), None, "", None, note=NEEDS)

    return measured


@with_extras
def live_block(bench: Bench) -> Iterator[Line]:
    subnet, number = _followed(bench), bench.scale.live_blocks
    bench.template(subnet)  # it must be older than the chain
    with (
        _chain(bench, first=_next_block(subnet), block_seconds=0.5) as (chain, environment),
        bench.team(subnet, environment=environment) as team,
    ):
        chain.ask("mine")
        (found,) = team.do("live_blocks", number=number)
    name = f"CPU of the follower for a live block, {subnet.miners} miners × {subnet.classes} classes"
    note = f"mean of {number}, with {found['manifests']} manifest syncs, {found['collateral']} readings of collateral"
    yield Line(name, found["seconds"], "s", at_most(0.5), note=note)


@with_extras
def sync(bench: Bench) -> Iterator[Line]:
    miners = bench.scale.usual.miners
    half = -(-miners // 20)
    with (
        _chain(bench, refusing=half, hanging=half) as (_, environment),
        bench.team(None, environment=environment) as team,
    ):
        (seconds,) = team.do("sync")
    yield Line(f"sync of {miners} manifests, {half} miners refuse and {half} hang", seconds, "s", at_most(10))


@with_extras
def catch_up(bench: Bench) -> Iterator[Line]:
    number = bench.scale.missed_blocks
    with _chain(bench, blocks=number) as (_, environment), bench.team(None, environment=environment) as team:
        (seconds,) = team.do("catch_up")
    yield Line(f"catching up {WINDOW} blocks", WINDOW * seconds, "s", at_most(240), note=f"projected from {number}")


@with_extras
def beside(bench: Bench) -> Iterator[Line]:
    subnet, seconds = _followed(bench), 5 * bench.scale.seconds  # so long as all receipts are asked for once
    bench.template(subnet)
    with (
        _chain(bench, first=_next_block(subnet), block_seconds=1) as (chain, environment),
        bench.team(subnet, size=2, environment=environment) as team,
    ):
        router, follower = team.part(0), team.part(1)
        pick = router.stretch("pick", seconds)
        recorded: dict[str, int] = {}

        def pick_beside() -> list[float]:
            follower.do("follow")
            chain.ask("mine")
            times = pick()
            chain.ask("rest")
            recorded.update(*follower.do("stop_following"))
            return times

        without, with_it = bench.time(
            {"pick, no follower": pick, "pick beside the follower": pick_beside}, rounds=min(bench.scale.rounds, 6)
        )
    note = "{block} blocks, {manifests} manifest syncs, {collateral} readings of collateral, {receipts} receipts"
    name, note = "pick p50 beside the follower", note.format(**recorded)
    yield Line(name, with_it.p50, "ms", at_most(1.2), "no follower", without.p50, note)


def _followed(bench: Bench) -> Subnet:
    """Return the subnet whose history is in the database before it is followed."""
    return replace(bench.scale.usual.history, classes=5, changing=0, scripted=True)


def _next_block(subnet: Subnet) -> int:
    return FIRST_BLOCK + subnet.blocks + 1


@contextmanager
def _chain(
    bench: Bench,
    *,
    first: int = FIRST_BLOCK,
    blocks: int = 0,
    block_seconds: float = 1.0,
    refusing: int = 0,
    hanging: int = 0,
) -> Iterator[tuple[Worker, dict[str, str]]]:
    """Give a worker that plays a subnet, and the settings of its follower."""
    usual = bench.scale.usual
    with TemporaryDirectory() as folder, ChainWorker("tests.benchmarks.worker", DATABASE_URL="sqlite://") as chain:
        environment = chain.ask(
            "open_subnet",
            folder=folder,
            miners=usual.miners,
            executors=usual.executors,
            first=first,
            blocks=blocks,
            block_seconds=block_seconds,
            refusing=refusing,
            hanging=hanging,
        )
        yield chain, environment
