#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

from allowance.programs import answering

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    with answering():  # our own commands care for themselves; this is for settings that can't be read, and for Django's
        execute_from_command_line(sys.argv)
