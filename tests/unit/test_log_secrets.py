"""What is left out of the log."""

from __future__ import annotations

import io
import logging
import logging.config

import pytest
from django.conf import settings

from routing.access.logs import TokenlessHandler

TOKEN = "eyJhbGciOi.eyJqdGkiOi-_.SflKxwRJSMeKKF2"


def written(name: str, message: str, *arguments: object, error: Exception | None = None) -> str:
    stream = io.StringIO()
    raised = None if error is None else (type(error), error, None)
    record = logging.LogRecord(name, logging.INFO, "", 1, message, arguments, raised)
    TokenlessHandler(stream).handle(record)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ('1.2.3.4:5 - "WebSocket /ws/jobs/?token=secret" [accepted]', '"WebSocket /ws/jobs/?[query]" [accepted]'),
        ('1.2.3.4:5 - "GET /metrics?a=1&b=%65yJ HTTP/1.1" 401', '"GET /metrics?[query] HTTP/1.1" 401'),
    ],
)
def test_a_server_writes_no_queries(message: str, left: str) -> None:
    assert written("uvicorn.access", message) == f"1.2.3.4:5 - {left}\n"


def test_tokens_are_left_out_wherever_they_are() -> None:
    assert written("routing.sockets.base", "Is %s one?", TOKEN) == "Is [token] one?\n"
    assert TOKEN not in written("routing", "no", error=ValueError(TOKEN))
    assert written("routing", "Is it? Yes?no") == "Is it? Yes?no\n"


def test_the_project_logs_by_that_handler() -> None:
    assert "'class': 'routing.access.logs.TokenlessHandler'" in str(settings.LOGGING)
