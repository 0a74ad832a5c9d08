"""A process that measures, on the database of its DATABASE_URL: `python -m tests.benchmarks.worker`.

It reads lines of JSON. `{"do": OPERATION, "how": {…}}` is answered with `{"answer": …}`; before that, what takes long
says how far it has come: `{"done": …, "of": …}`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import django

django.setup()

from tests.benchmarks.operations import OPERATIONS  # noqa: E402
from tests.benchmarks.sockets import clients, serve  # noqa: E402
from tests.programs import say  # noqa: E402

ALL: dict[str, Callable[..., Any]] = {**OPERATIONS, "serve": serve, "clients": clients}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it, too
    with open(os.devnull, "w") as nobody:
        # What a router logs is formatted and written, as in production, but not among the figures.
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(nobody)
        for line in iter(sys.stdin.readline, ""):
            request = json.loads(line)
            answer = ALL[request["do"]](**request["how"])
            if isinstance(answer, Iterator):
                for done, of in answer:
                    say({"done": done, "of": of})
                answer = None
            say({"answer": answer})


if __name__ == "__main__":
    main()
