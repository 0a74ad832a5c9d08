"""Exit codes are answers: a closed pipe, an encoding or a database out of reach is never taken for another answer.

The commands are those that the three apps have, each run as a program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from django.core.management import get_commands, load_command_class

from allowance.models import Miner
from allowance.plumbing.programs import INTERRUPTED, NO_ANSWER, AnsweringCommand
from tests.factories import CLASS, fill_ledger
from tests.programs import DEADLINE
from tests.servers.server import ROOT, database_url

APPS = ("allowance", "receipts", "routing")
COMMANDS = {name: load_command_class(app, name) for name, app in get_commands().items() if app in APPS}

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "dry_run_routing": ("--executor-class", CLASS, "--seconds", "3600", "--top", "1"),
    "explain_job": (str(UUID(int=1)),),
    "issue_token": ("client", "--scope", "jobs"),
    "replay_journal": (str(ROOT / "tests/conformance/cases/route-005/journal.jsonl"),),
    "reservations": ("--spend", "1"),
    "forget_blocks": ("--from", "4000000000", "--dry-run"),
    "revoke_token": ("somebody",),
    "void_incidents": ("--miner", "somebody", "--dry-run"),
    "void_receipts": ("--miner", "somebody", "--by", "anna", "--reason", "a test", "--dry-run"),
}
"""What a command needs to be told; most need nothing."""

NO_DATABASE = {"message_schema": 0, "routing_status": 2}
"""What ends otherwise than with NO_ANSWER where there is no database: the first needs none, the second is to say so."""

DJANGO, OURS = ("-m", "django"), ("manage.py",)
"""How a site of others runs commands, whose manage.py knows nothing of our exit codes; and how this one does."""

every_command = pytest.mark.parametrize("name", sorted(COMMANDS))


def start(
    name: str,
    *arguments: str,
    program: Sequence[str] = DJANGO,
    into: int = subprocess.DEVNULL,
    out: int = subprocess.PIPE,
    err: int = subprocess.PIPE,
    **environment: str,
) -> subprocess.Popen[bytes]:
    arguments = arguments or ARGUMENTS.get(name, ())
    return subprocess.Popen(
        [sys.executable, *program, name, *arguments],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url(), **environment},
        stdin=into,
        stdout=out,
        stderr=err,
    )


def ended(program: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Return the exit code of a program and what it printed."""
    try:
        out, err = program.communicate(timeout=DEADLINE)
    finally:
        program.kill()
    return program.returncode, (out or b"").decode("latin-1"), (err or b"").decode("latin-1")


@pytest.fixture
def odd_hotkeys(transactional_db: None) -> None:
    fill_ledger("hot-é", "hot-–", "hot-𝄞")


@pytest.fixture
def closed() -> int:
    """The end to write to of a pipe that has no reader any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_all_commands_answer_by_the_one_mechanism() -> None:
    assert len(COMMANDS) >= 11
    assert [name for name, command in COMMANDS.items() if not isinstance(command, AnsweringCommand)] == []


@every_command
def test_neither_a_closed_pipe_nor_an_encoding_changes_the_code(name: str, odd_hotkeys: None, closed: int) -> None:
    code, out, err = ended(start(name))
    assert "Traceback" not in out + err
    assert "usage:" not in err, f"{name} needs ARGUMENTS here"
    programs = {
        "closed": start(name, out=closed),
        "both closed": start(name, out=closed, err=closed),
        "ascii": start(name, PYTHONIOENCODING="ascii"),
        "latin-1": start(name, PYTHONIOENCODING="latin-1"),
    }
    os.close(closed)
    for how, program in programs.items():
        assert ended(program)[0] == code, how


@every_command
def test_without_a_database_there_is_no_answer(name: str) -> None:
    nowhere = "postgres://nobody@127.0.0.1:1/nothing"
    code, out, err = ended(start(name, DATABASE_URL=nowhere))
    assert code == NO_DATABASE.get(name, NO_ANSWER), err
    assert "Traceback" not in out + err
    assert not code or "connection" in err


@every_command
def test_help_says_what_no_answer_ends_with(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, AnsweringCommand)
    assert command.no_answer == (3 if name == "routing_status" else NO_ANSWER)
    told = " ".join(command.create_parser("manage.py", name).format_help().split())
    assert f"Exit code {command.no_answer}: no answer" in told
    if name in NO_DATABASE:
        assert "database can't be reached" not in told


@pytest.mark.parametrize(("name", "no_answer"), [("check_ledger", NO_ANSWER), ("routing_status", 3)])
def test_settings_that_can_t_be_read_are_no_answer(name: str, no_answer: int) -> None:
    program = start(name, program=OURS, DJANGO_SETTINGS_MODULE="project.settings", SECRET_KEY="", DEBUG="0")
    code, out, err = ended(program)
    assert (code, out) == (no_answer, "")
    assert "Set SECRET_KEY" in err
    assert "Traceback" not in err


def test_a_system_check_that_fails_is_no_answer() -> None:
    code, _, err = ended(start("check_ledger", ALLOWANCE_THREADS="0"))
    assert code == NO_ANSWER
    assert "routing.E006" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_answer(odd_hotkeys: None) -> None:
    code, _, err = ended(start("check_ledger", out=os.open("/dev/full", os.O_WRONLY)))
    assert code == NO_ANSWER
    assert err.startswith("OSError: ")
    assert "Traceback" not in err


def test_a_defect_of_ours_is_no_answer_and_shows_where_it_is() -> None:
    code, _, err = ended(start("check_ledger", program=OURS, DJANGO_SETTINGS_MODULE="nowhere.settings"))
    assert code == NO_ANSWER
    assert "Traceback" in err


def test_a_journal_is_the_same_in_every_encoding(odd_hotkeys: None) -> None:
    written = [ended(start("export_journal", PYTHONIOENCODING=name)) for name in ("utf-8", "latin-1", "ascii")]
    assert [code for code, _, _ in written] == [0, 0, 0]
    assert len({out for _, out, _ in written}) == 1
    assert "hot-\\u00e9" in written[0][1]


def test_an_interrupt_has_its_code_and_no_traceback(odd_hotkeys: None) -> None:
    """A journal from standard input that never ends, and Ctrl-C."""
    program = start("replay_journal", "-", into=subprocess.PIPE)
    assert program.stdin is not None
    program.stdin.write(b'{"event": "collateral", "hotkey": "hot-1", "wei": "7"}\n')
    program.stdin.flush()
    deadline = time.monotonic() + DEADLINE
    while not Miner.objects.filter(hotkey="hot-1").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    program.send_signal(signal.SIGINT)
    code, _, err = ended(program)
    assert (code, err) == (INTERRUPTED, "")
