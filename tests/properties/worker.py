"""What one process of a soak does: run the seeds that come in, a line each, and say what came of each."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from django.db import connection

from routing.upkeep.pruning import KEEP
from tests.programs import say
from tests.properties.coverage import Tally
from tests.properties.history import generate, load, size
from tests.properties.simulation import Found, run_history
from tests.properties.world import fleet

settings.ROUTING_DECISIONS_SAMPLE = 1
for name in KEEP:
    setattr(settings, name, 0)


def do(_: str, database: str, journal: str) -> None:
    """Run seeds, until no more come in, on a database that is made for it. Given a file, run the history in it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of `finally`
    before = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = database
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    lines: Iterable[str] = [journal] if journal else iter(sys.stdin.readline, "")
    try:
        with fleet() as routers:
            for line in lines:
                tally, failure = Tally(), None
                seed = None if journal else int(line)
                steps = generate(seed) if seed is not None else load(Path(line).read_text().splitlines())
                try:
                    run_history(steps, routers, tally, seed=seed)
                except Found as found:
                    failure = {"text": str(found), "journal": found.journal}
                counts = [[section, name, n] for (section, name), n in tally.items()]
                about = {"vendor": connection.vendor, "seed": seed, "ops": size(steps)}
                say({**about, "tally": counts, "failure": failure})
    finally:
        connection.creation.destroy_test_db(before, verbosity=0)
