"""What the rows are measured with: seeded databases, workers on them, and turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.past import PAST
from tests.benchmarks.progress import Stages
from tests.benchmarks.server import Server
from tests.benchmarks.sizes import Scale, Subnet
from tests.benchmarks.team import Team, Turn, percentile, take_turns, workers_on
from tests.programs import Worker

CHUNK = 50_000
"""So many rows of the past are inserted at once, so that one sees how it goes on."""


@dataclass(frozen=True)
class Times:
    """How long something took, in milliseconds."""

    row: str
    what: str
    p50: float
    p95: float
    count: int


class Bench:
    """One run of the benchmark. `row` is the one at hand."""

    def __init__(self, server: Server, seeder: Worker, scale: Scale, stages: Stages) -> None:
        self.server = server
        self._seeder = seeder
        self.scale = scale
        self.stages = stages
        self.row = ""
        self.times: list[Times] = []
        self.statements_per_pick: int | None = None
        self._templates: dict[Subnet, str] = {}

    @contextmanager
    def team(
        self,
        subnet: Subnet | None,
        *,
        size: int = 1,
        past: Mapping[str, int] | None = None,
        environment: Mapping[str, object] | None = None,
    ) -> Iterator[Team]:
        """Give workers on a database as it was seeded, with so many more rows of the `past` of each kind.

        Without a subnet the database has empty tables. `environment` is that of the workers, beside the usual one.
        """
        name = self.server.new_name()
        with workers_on(self.server.url(name), size, environment) as workers:  # they start while it is made
            self.server.create(name, self.template(subnet) if subnet else self._migrated)
            for kind, number in (past or {}).items():
                self._add_past(name, kind, number)
            self.server.settle(name)
            yield Team(workers, self.scale.stretch, self.scale.seconds)
        self.server.drop(name)

    @contextmanager
    def team_on_sqlite(self, subnet: Subnet) -> Iterator[Team]:
        """Give a worker on a seeded SQLite file."""
        with TemporaryDirectory() as folder:
            path = str(Path(folder, "bench.sqlite3"))
            with workers_on(f"sqlite:///{path}", 1) as workers:
                workers[0].ask("migrate", database=path)
                self._seed(workers[0], path, subnet)
                yield Team(workers, self.scale.stretch, self.scale.seconds)

    def template(self, subnet: Subnet) -> str:
        """Return a database to copy, seeded the first time that it is wanted."""
        if subnet not in self._templates:
            name = self.server.new_name()
            self.server.create(name, self._migrated)
            self._seed(self._seeder, name, subnet)
            self._templates[subnet] = name
        return self._templates[subnet]

    def size(self, subnet: Subnet) -> int:
        """Return the bytes of a seeded database's tables and indexes."""
        return self.server.size(self.template(subnet))

    def time(self, turns: Mapping[str, Turn], rounds: int | None = None) -> list[Times]:
        """Return how long the acts of each turn took, and note it down for the report."""
        with self.stages.stage("measuring") as advance:
            measured = take_turns(turns, rounds or self.scale.rounds, advance)
        found = [
            Times(self.row, what, statistics.median(ms), percentile(ms, 95), len(ms)) for what, ms in measured.items()
        ]
        self.times += found
        return found

    def rates(self, turns: Mapping[str, Turn]) -> list[float]:
        """Return how often in a second each turn had it done, the median of all rounds."""
        with self.stages.stage("measuring") as advance:
            measured = take_turns(turns, self.scale.slices, advance)
        return [statistics.median(rates) for rates in measured.values()]

    def _add_past(self, name: str, kind: str, number: int) -> None:
        with self.stages.stage(f"adding {number:,} past {kind}") as advance:
            for first in range(0, number, CHUNK):
                last = min(first + CHUNK, number) - 1
                self.server.run(PAST[kind], name, {"first": first, "last": last})
                advance(last + 1, number)

    def _seed(self, worker: Worker, name: str, subnet: Subnet) -> None:
        with self.stages.stage(f"seeding {subnet}") as advance:
            worker.tell("seed", database=name, **asdict(subnet))
            worker.answer(lambda word: advance(word["done"], word["of"]))

    @cached_property
    def _migrated(self) -> str:
        name = self.server.new_name()
        self.server.create(name)
        self._seeder.ask("migrate", database=name)
        return name
