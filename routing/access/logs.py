"""Logs without secrets: a token that a client put into an address is not written down."""

from __future__ import annotations

import logging
import re
from typing import TextIO

TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""A JSON Web Token, as all of ours are."""

QUERY = re.compile(r"(?<=[^\s?])\?[^\s\"\\]+")
"""The query of an address, in what a server says of a request: it may have a token in any disguise."""

SERVERS = ("uvicorn", "daphne", "django.channels", "websockets")


class TokenlessHandler(logging.StreamHandler[TextIO]):
    """A handler that writes neither tokens nor, of what a server says, the queries of addresses."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.name.startswith(SERVERS):
            text = QUERY.sub("?[query]", text)
        return TOKEN.sub("[token]", text)
