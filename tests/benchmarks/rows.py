"""What is measured, row by row, and what it should come to. Goals are told, not asserted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tests.benchmarks.bench import Bench
from tests.benchmarks.live import beside, catch_up, live_block, sync
from tests.benchmarks.report import Goal, Line, at_least, at_most
from tests.benchmarks.sizes import Subnet
from tests.benchmarks.team import percentile


@dataclass(frozen=True)
class Side:
    """One of two databases on which picks are compared."""

    name: str
    subnet: Subnet
    past: dict[str, int] = field(default_factory=dict)


def pick(bench: Bench) -> Iterator[Line]:
    with bench.team(bench.scale.usual) as team:
        (bench.statements_per_pick,) = team.do("statements")
        floor, short, long = bench.time(
            {
                "floor": team.time("floor"),
                "pick, 30 s job": team.time("pick", seconds=30),
                "pick, 300 s job": team.time("pick", seconds=300),
            }
        )
    miners = bench.scale.usual.miners
    yield Line(f"pick p50, 30 s job, {miners} miners", short.p50, "ms", at_most(1.5), "floor", floor.p50)
    yield Line("pick p50, 300 s job", long.p50, "ms", at_most(1.1), "30 s job", short.p50)
    yield Line("pick p95", short.p95, "ms", at_most(2), "its p50", short.p50)


def processes(bench: Bench) -> Iterator[Line]:
    number = bench.scale.processes
    with bench.team(bench.scale.usual, size=number) as team:
        floors, picks = bench.rates({"floor": team.rate(act="floor"), "pick": team.rate(act="pick")})
    yield Line(f"picks with {number} processes", picks, "/s", at_least(0.55), f"floors with {number} processes", floors)


def coroutines(bench: Bench) -> Iterator[Line]:
    number = bench.scale.tasks
    with bench.team(bench.scale.usual) as team:
        plain, awaited = bench.rates(
            {"threads": team.rate("threads", number=number), "coroutines": team.rate("coroutines", number=number)}
        )
    yield Line(f"picks from {number} coroutines", awaited, "/s", at_least(0.9), f"{number} threads", plain)
    lags = [lag * 1000 for turn in team.lags[1:] for lag in turn]
    yield Line("event loop's lag meanwhile, p99", percentile(lags, 99), "ms", at_most(20))


def history(bench: Bench) -> Iterator[Line]:
    usual = bench.scale.usual
    short = replace(usual, blocks=bench.scale.short_history)
    yield _compare(bench, at_most(1.1), *(Side(f"{subnet.blocks} blocks", subnet) for subnet in (usual, short)))


def miners(bench: Bench) -> Iterator[Line]:
    numbers = bench.scale.many_miners, bench.scale.few_miners
    yield _compare(bench, at_most(1.5), *(Side(f"{n:,} miners", replace(bench.scale.usual, miners=n)) for n in numbers))


def reservations(bench: Bench) -> Iterator[Line]:
    usual, number = bench.scale.usual, bench.scale.past_reservations
    past = Side(f"{number:,} past reservations more", usual, {"reservations": number})
    yield _compare(bench, at_most(1.1), past, Side("none more", usual))


def receipts(bench: Bench) -> Iterator[Line]:
    usual, number = bench.scale.usual, bench.scale.past_receipts
    past = Side(f"{number:,} past receipts", usual, {"receipts": number - usual.receipts})
    yield _compare(bench, at_most(1.1), past, Side(f"{usual.receipts:,} receipts", usual))


def incidents(bench: Bench) -> Iterator[Line]:
    usual, number = bench.scale.usual, bench.scale.past_incidents
    past = Side(f"{number:,} past incidents", usual, {"incidents": number})
    yield _compare(bench, at_most(1.1), past, Side(f"only {usual.incidents:,} in the window", usual))


def block(bench: Bench) -> Iterator[Line]:
    subnet = replace(bench.scale.usual.history, classes=5)
    with bench.team(subnet) as team:
        floor, taken = bench.time({"floor": team.time("floor"), "block": team.time("block")})
    yield Line(
        f"taking in a block, {subnet.miners} miners × 5 classes", taken.p50, "ms", at_most(4), "floor", floor.p50
    )


def transfer(bench: Bench) -> Iterator[Line]:
    number = bench.scale.served_receipts
    with bench.team(bench.scale.usual) as team:
        (seconds,) = team.do("take_in", number=number)
    yield Line(f"{number:,} receipts of a miner verified and stored", seconds, "s", at_most(15))


def first_picks(bench: Bench) -> Iterator[Line]:
    number = bench.scale.processes
    with bench.team(bench.scale.usual, size=number) as team:
        first = [team.part(i).time("pick", 1)()[0] for i in range(number)]
        usual, after = bench.time(
            {"pick": team.part(0).time("pick"), "pick after a block": team.part(0).time("pick", 1, before="block")}
        )
    yield Line("first pick of a process", statistics.median(first), "ms", at_most(15), "pick p50", usual.p50)
    yield Line("first pick after a block, p50", after.p50, "ms", at_most(3), "pick p50", usual.p50)


def flowing(bench: Bench) -> Iterator[Line]:
    with bench.team(bench.scale.usual) as team:
        without, beside = bench.time(
            {"pick": team.time("pick"), "3 receipts before each": team.time("pick", before="run_last")}
        )
    yield Line("pick p50, 3 receipts a job", beside.p50, "ms", at_most(1.15), "no receipts", without.p50)


def memory(bench: Bench) -> Iterator[Line]:
    usual, many = replace(bench.scale.usual, classes=5), bench.scale.very_many
    for subnet, goal in ((usual, at_most(110)), (many, None)):
        with bench.team(subnet) as team:
            (megabytes,) = team.do("resident")
        yield Line(f"memory of a process, {subnet.miners:,} miners × 5 classes", megabytes, "MB", goal)


def sqlite(bench: Bench) -> Iterator[Line]:
    with bench.team_on_sqlite(bench.scale.usual) as team:
        (pick,) = bench.time({"pick, SQLite": team.time("pick")})
    yield Line("pick p50, SQLite", pick.p50, "ms", at_most(4))


def size(bench: Bench) -> Iterator[Line]:
    subnet = bench.scale.usual.history
    megabytes = bench.size(subnet) / 10**6
    yield Line(f"tables and indexes after {subnet.blocks} blocks and VACUUM FULL", megabytes, "MB", at_most(5))


def contention(bench: Bench) -> Iterator[Line]:
    number, subnet = bench.scale.crowd, bench.scale.crowded
    with bench.team(subnet, size=number) as team:
        floors, jobs = bench.rates({"floor": team.rate(act="floor"), "job": team.rate(act="short_job")})
    what = f"picks and spends, {number} processes, {subnet.miners} miners of {subnet.executors} executors"
    yield Line(what, jobs, "/s", at_least(0.4), f"floors with {number} processes", floors)
    refused = {name: count for name, count in team.outcomes.items() if name != "done"}
    note = ", ".join(f"{count} {name}" for name, count in sorted(refused.items()))
    yield Line("false AllMinersBusy among them", refused.get("AllMinersBusy", 0), "", at_most(0), note=note)
    with bench.team(subnet, size=number) as team:
        team.part(0).do("report_half")
        team.do("keep_all_candidates")
        bench.rates({"job": team.rate(act="short_job")})
        (steps,) = team.part(0).do("steps_down")
    yield Line("steps to a lower score within half the patience", steps, "", at_most(0))


def dry_run(bench: Bench) -> Iterator[Line]:
    jobs, rounds = bench.scale.dry_jobs, min(bench.scale.rounds, 20)
    with bench.team(bench.scale.usual) as team:
        live, dry = bench.time(
            {"pick": team.time("pick"), "dry run": team.time("dry_run", jobs // rounds)}, rounds=rounds
        )
    yield Line(f"dry run over {jobs:,} jobs, p50", dry.p50, "ms", at_most(1), "live pick", live.p50)


def sockets(bench: Bench) -> Iterator[Line]:
    number = bench.scale.connections
    for servers in (1, 2):
        with bench.team(bench.scale.usual, size=servers + 1) as team:
            serving, asking = team.part(*range(servers)), team.part(servers)
            ports = serving.do("serve")
            plain, routed = bench.rates(
                {
                    "no socket": serving.rate("coroutines", number=number // servers),
                    "sockets": asking.rate("clients", number=number, ports=ports),
                }
            )
        name = f"{servers} worker{'s' if servers > 1 else ''}, {number} connections"
        without = f"{number} coroutines without a socket"
        yield Line(f"routes through the socket, {name}", routed, "/s", at_least(0.85), without, plain)
        latencies = [latency for turn in asking.latencies[1:] for latency in turn]
        yield Line("answer p99", percentile(latencies, 99), "ms", None, "p50", percentile(latencies, 50))


def logging(bench: Bench) -> Iterator[Line]:
    yield _cost_of(bench, "logging")


def metrics(bench: Bench) -> Iterator[Line]:
    yield _cost_of(bench, "metrics")


def decisions(bench: Bench) -> Iterator[Line]:
    yield _cost_of(bench, "a record")


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    row.__name__: row
    for row in (
        *(pick, first_picks, processes, coroutines, history, miners, reservations, receipts, incidents, flowing),
        *(
            block,
            transfer,
            live_block,
            sync,
            catch_up,
            beside,
            size,
            memory,
            contention,
            sockets,
            sqlite,
            dry_run,
            logging,
            metrics,
            decisions,
        ),
    )
}


def _compare(bench: Bench, goal: Goal, ours: Side, other: Side) -> Line:
    """Compare picks on two databases, each with a worker of its own."""
    with bench.team(ours.subnet, past=ours.past) as a, bench.team(other.subnet, past=other.past) as b:
        first, second = bench.time({ours.name: a.time("pick"), other.name: b.time("pick")})
    return Line(f"pick p50, {ours.name}", first.p50, "ms", goal, other.name, second.p50)


def _cost_of(bench: Bench, what: str, goal: Goal | None = None) -> Line:
    """Compare picks with and without what a worker can do without."""
    with bench.team(bench.scale.usual) as team:
        usual, bare = bench.time(
            {f"pick with {what}": team.time("pick"), f"pick without {what}": team.time("pick", without=what)}
        )
    return Line(f"pick p50 with {what}", usual.p50, "ms", goal, "without", bare.p50)
