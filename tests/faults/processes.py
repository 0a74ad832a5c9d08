"""The test's side of `tests.faults.child`."""

from __future__ import annotations

from tests.faults.aftermath import Route
from tests.programs import Worker


class Child(Worker):
    """A router that faults happen to."""

    def __init__(self, **environment: object) -> None:
        super().__init__("tests.faults.child", **environment)

    def pick(self) -> Route:
        """Let it pick a miner for a job that it makes up."""
        return Route(*self.ask("pick")["result"])
