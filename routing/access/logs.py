"""Logs without secrets: a token that a client puts into an address is not logged."""

from __future__ import annotations

import logging
import re
from typing import TextIO

TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""A JSON Web Token. All tokens of the router have this form."""

QUERY = re.compile(r"(?<=[^\s?])\?[^\s\"\\]+")
"""The query of an address in the log message of a server. It may contain a token in any encoding."""

SERVERS = ("uvicorn", "daphne", "django.channels", "websockets")


class TokenlessHandler(logging.StreamHandler[TextIO]):
    """A handler that replaces tokens, and in messages of servers also the queries of addresses."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.name.startswith(SERVERS):
            text = QUERY.sub("?[query]", text)
        return TOKEN.sub("[token]", text)
