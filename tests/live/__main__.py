"""The one way to run these tests: `python -m tests.live [PYTEST ARGUMENTS]`, on PostgreSQL. What is missing fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

import psycopg

from tests.__main__ import NO_POSTGRES, console, no_postgres, postgres, run_pytest
from tests.live.fixtures import fetch
from tests.live.lane import COMPLETE


def main(arguments: list[str]) -> int:
    # The server of this process must end with it: leave by way of `finally` at a SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ[COMPLETE] = "1"
    fetch()
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres())
        except (OSError, subprocess.SubprocessError, psycopg.Error, ImportError) as error:
            console.print(no_postgres(error), soft_wrap=True, markup=False)
            return NO_POSTGRES
        return run_pytest("PostgreSQL", url, ["-m", "live", "tests/live", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
