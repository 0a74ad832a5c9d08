"""What a worker of the benchmark does. What takes long says how far it has come: `{"done": …, "of": …}`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from tests.benchmarks.chain import mine, open_subnet, rest
from tests.benchmarks.following import catch_up, follow, live_blocks, stop_following, sync
from tests.benchmarks.operations import OPERATIONS
from tests.benchmarks.sockets import clients, serve
from tests.programs import say

ALL: dict[str, Callable[..., Any]] = {
    **OPERATIONS,
    **{
        operation.__name__: operation
        for operation in (
            *(serve, clients, open_subnet, mine, rest),
            *(follow, stop_following, live_blocks, sync, catch_up),
        )
    },
}


def do(operation: str, **how: object) -> Any:
    answer = ALL[operation](**how)
    if not isinstance(answer, Iterator):
        return answer
    for done, of in answer:
        say({"done": done, "of": of})
    return None


# What a router logs is formatted and written, as in production, but not among the figures.
for handler in logging.getLogger().handlers:
    if isinstance(handler, logging.StreamHandler):
        handler.setStream(open(os.devnull, "w"))  # noqa: SIM115 (it lives as long as the process)
