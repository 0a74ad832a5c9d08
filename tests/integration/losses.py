"""The steps that the tests of silences share with those of other causes of lost allowance."""

from __future__ import annotations

import logging

import pytest

from routing.watch.findings import Finding
from routing.watch.status import status
from tests.clock import NOW
from tests.rows import declare

NAMES = ["anna", "bert", "cleo", "dora"]
MORE = ["eric", "fred", "gina"]


def sync(block: int, *answering: str, asked: list[str] = NAMES) -> None:
    declare(dict.fromkeys(answering, 2), block, asked=asked)


def find(name: str) -> Finding:
    return next(finding for finding in status(NOW).findings if finding.name == name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
