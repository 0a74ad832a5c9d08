"""The chain follower beside the served demo: `python -m project.follower`. It ends with the process that started it."""

from __future__ import annotations

import os
import signal
import sys
import time
from threading import Thread

from django.core.management import execute_from_command_line

PATIENCE = 5.0
"""Seconds in which the follower ends by itself after SIGTERM."""


def main() -> None:
    """Run `manage.py follow_chain` until SIGTERM, or the end of standard input.

    Standard input is a pipe whose other end the server holds. It closes even if the server is killed.
    """
    Thread(target=_end_with_standard_input, daemon=True).start()
    execute_from_command_line(["manage.py", "follow_chain", *sys.argv[1:]])


def _end_with_standard_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    main()
