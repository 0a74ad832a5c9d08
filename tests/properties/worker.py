"""One process of a soak: run the seeds that come in, a line each, on a database of its own, and print what came of it.

Given a file instead, run the history that it holds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

TASK = json.loads(sys.argv[1])

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
os.environ["LOG_LEVEL"] = "CRITICAL"
os.environ["ALLOWANCE_LOCK_TIMEOUT"] = "60"
os.environ.setdefault("PGOPTIONS", "-c synchronous_commit=off")  # nobody pulls the plug of this server

import django  # noqa: E402
from django.conf import settings  # noqa: E402

settings.DATABASES["default"]["TEST"] = {"NAME": TASK["database"]}
django.setup()

from django.db import connection  # noqa: E402

from routing.upkeep.pruning import KEEP  # noqa: E402
from tests.programs import say  # noqa: E402
from tests.properties.coverage import Tally  # noqa: E402
from tests.properties.history import generate, load, size  # noqa: E402
from tests.properties.simulation import Found, run_history  # noqa: E402
from tests.properties.world import fleet  # noqa: E402

settings.ROUTING_DECISIONS_SAMPLE = 1
for name in KEEP:
    setattr(settings, name, 0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever sends the seeds stops sending them
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of `finally`
    before = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        with fleet() as routers:
            say({"vendor": connection.vendor})
            for line in [TASK["journal"]] if TASK["journal"] else sys.stdin:
                tally, failure = Tally(), None
                seed = None if TASK["journal"] else int(line)
                steps = generate(seed) if seed is not None else load(Path(line).read_text().splitlines())
                try:
                    run_history(steps, routers, tally, seed=seed)
                except Found as found:
                    failure = {"text": str(found), "journal": found.journal}
                counts = [[section, name, n] for (section, name), n in tally.items()]
                say({"seed": seed, "ops": size(steps), "tally": counts, "failure": failure})
    finally:
        connection.creation.destroy_test_db(before, verbosity=0)


if __name__ == "__main__":
    main()
