"""A program that ends with whoever started it, be that killed: `python -m tests.servers.leashed MODULE ARGUMENTS`."""

from __future__ import annotations

import os
import runpy
import sys
from threading import Thread


def main() -> None:
    """Run the module as if it had been started itself. The leash is standard input, which is never written to."""
    Thread(target=end_with_the_other_end, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def end_with_the_other_end() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
