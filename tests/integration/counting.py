"""A router's process of several: it counts what it is told, and says when it has."""

from __future__ import annotations

import os
import sys

import django

from tests.programs import say

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()

    from routing.metrics import SECONDS_OF
    from routing.sockets import metrics

    for line in sys.stdin:
        number = int(line)
        metrics.MESSAGES.labels("job.new").inc(number)
        SECONDS_OF["gather"].observe(number)
        metrics.SOCKETS.set(number)
        say(number)
