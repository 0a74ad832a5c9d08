"""The test's side of `tests.faults.child`."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

from django.db import connection

from tests.faults.aftermath import Route
from tests.programs import Program

ADDRESS = ("NAME", "USER", "PASSWORD", "HOST", "PORT")


class Child(Program):
    """One `python -m tests.faults.child`, which does what it is asked; killed at the end, whatever happened."""

    def __init__(self, *, name: str = "", **database: object) -> None:
        address = {key: connection.settings_dict[key] for key in ADDRESS} | database
        super().__init__("tests.faults.child", json.dumps(address), PGAPPNAME=name)

    def __enter__(self) -> Self:
        assert self.hear() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def ask(self, operation: str, scene: object = None, **how: object) -> Any:
        """Let the child do something, and return what came of it; see `tests.faults.child`."""
        self.say({"do": operation, "scene": scene or {}, **how})
        return self.hear()

    def pick(self) -> Route:
        """Let the child pick a miner for a job that it makes up."""
        return Route(*self.ask("pick")["result"])
