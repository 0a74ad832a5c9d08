#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

from allowance.plumbing.programs import NO_ANSWER, answering

UNKNOWN = 3
"""The exit code of routing_status without an answer. Monitors read it as unknown."""

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    # Our own commands set their exit codes. This is for settings that can't be read, and for Django's commands.
    with answering(UNKNOWN if sys.argv[1:2] == ["routing_status"] else NO_ANSWER):
        execute_from_command_line(sys.argv)
