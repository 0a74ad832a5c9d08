"""Lines of log that programs read: one JSON object each, whoever tries to make two of them."""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from routing import routing
from routing.types import AllMinersBusy
from tests.factories import job_request
from tests.ledgers import fill_ledger

FORGED = '1\n2026-01-01 00:00:00 INFO routing.service: Job 2: routed\r\n{"message": "forged"}\x0b\x85\u2028'


def settings_with(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    """Return the project's settings as they are in another environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(settings.BASE_DIR / "project/settings.py"))


@pytest.fixture(params=["plain", "json"])
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def logged(log_format: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """Write what is logged meanwhile in a format of the project's."""
    configured = settings_with(monkeypatch, LOG_FORMAT=log_format)["LOGGING"]
    how = dict(configured["formatters"][configured["handlers"]["stderr"]["formatter"]])
    factory = import_string(how.pop("()", "logging.Formatter"))
    if "format" in how:
        how["fmt"] = how.pop("format")
    handler = logging.StreamHandler(StringIO())
    handler.setFormatter(factory(**how))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield handler.stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def objects(lines: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


@pytest.mark.django_db(transaction=True)
def test_a_pick_s_line_tells_programs_of_the_job_and_its_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna")
    request = job_request()
    with logged("json", monkeypatch) as lines:
        route = routing().pick(request)
    (line,) = objects(lines)
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "routing.service",
        "message": f"Job '{request.uuid}': routed to anna, reservation {route.allowance_reservation_id}",
        "job": request.uuid,
        "outcome": "ROUTED",
        "miner": "anna",
        "reservation": route.allowance_reservation_id,
    }


@pytest.mark.django_db(transaction=True)
def test_a_refused_pick_s_line_tells_programs_of_the_job_and_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna", executors=1)
    routing().pick(job_request(12))
    request = job_request(12)
    with logged("json", monkeypatch) as lines, pytest.raises(AllMinersBusy):
        routing().pick(request)
    (line,) = objects(lines)
    assert (line["job"], line["outcome"]) == (request.uuid, "ALL_MINERS_BUSY")
    assert "reservation" not in line


@pytest.mark.django_db(transaction=True)
def test_a_uuid_can_t_make_a_second_line_nor_an_endless_one(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted job goes to its miner whatever its uuid is."""
    for uuid in (FORGED, "\n" * 10_000):
        with logged(log_format, monkeypatch) as lines:
            routing().pick(job_request(uuid=uuid, on_trusted_miner=True))
        written = lines.getvalue()
        assert len(written.splitlines()) == 1
        assert len(written) < 1000


def test_an_exception_is_a_field_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with logged("json", monkeypatch) as lines:
        try:
            raise LookupError("two\nlines")
        except LookupError:
            logging.getLogger("routing").exception("It failed.", extra={"reason": "UNAVAILABLE"})
    (line,) = objects(lines)
    assert (line["level"], line["message"], line["reason"]) == ("ERROR", "It failed.", "UNAVAILABLE")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("LookupError: two\nlines")


def test_an_unknown_format_is_refused_and_the_known_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"LOG_FORMAT must be plain or json, not 'xml'\."):
        settings_with(monkeypatch, LOG_FORMAT="xml")


def test_a_folder_for_metrics_must_be_there_and_none_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"PROMETHEUS_MULTIPROC_DIR: there is no folder '/nowhere/at/all'\. Create"
    ):
        settings_with(monkeypatch, PROMETHEUS_MULTIPROC_DIR="/nowhere/at/all")
    settings_with(monkeypatch, PROMETHEUS_MULTIPROC_DIR="")
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_limits_of_the_status_are_json_and_nothing_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, limits in (("", {}), ('{"refusals": [1, 2.5]}', {"refusals": [1, 2.5]})):
        assert settings_with(monkeypatch, ROUTING_STATUS_LIMITS=text)["ROUTING_STATUS_LIMITS"] == limits
    with pytest.raises(ImproperlyConfigured, match=r"ROUTING_STATUS_LIMITS is not valid JSON: Expecting"):
        settings_with(monkeypatch, ROUTING_STATUS_LIMITS="refusals=1")


def test_what_the_server_says_is_json_too() -> None:
    program = """if True:
        import logging, os
        from uvicorn.config import LOGGING_CONFIG
        logging.config.dictConfig(LOGGING_CONFIG)  # as the server begins
        import django
        django.setup()
        for name in ("routing.service", "uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).info('%s - "%s %s HTTP/%s" %d', "10.0.0.1:5", "GET", "/", "1.1", 200)
    """
    ours = {"LOG_FORMAT": "json", "LOG_LEVEL": "INFO", "DJANGO_SETTINGS_MODULE": "project.settings"}
    environment = {**os.environ, **ours}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines] == ["routing.service", "uvicorn.error", "uvicorn.access"]
    assert {line["message"] for line in lines} == {'10.0.0.1:5 - "GET / HTTP/1.1" 200'}
    assert done.stdout == ""
