"""Exit codes are answers: a closed pipe, an encoding or a database out of reach is never taken for another answer.

The commands are those that the three apps have, each run as a program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from django.core.management import get_commands, load_command_class

from allowance.models import Miner
from allowance.plumbing.programs import INTERRUPTED, NO_ANSWER, AnsweringCommand
from tests.ledgers import CLASS, fill_ledger
from tests.programs import ROOT, Program

APPS = ("allowance", "receipts", "routing")
COMMANDS = {name: load_command_class(app, name) for name, app in get_commands().items() if app in APPS}

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "dry_run_routing": ("--executor-class", CLASS, "--seconds", "3600", "--top", "1"),
    "explain_job": (str(UUID(int=1)),),
    "issue_token": ("client", "--scope", "jobs"),
    "replay_journal": (str(ROOT / "tests/conformance/cases/route-005/journal.jsonl"),),
    "reservations": ("--spend", "1"),
    "follow_chain": ("--dry-run",),
    "forget_blocks": ("--from", "4000000000", "--dry-run"),
    "revoke_token": ("somebody",),
    "void_incidents": ("--miner", "somebody", "--dry-run"),
    "void_receipts": ("--miner", "somebody", "--by", "anna", "--reason", "a test", "--dry-run"),
}
"""What a command needs to be told; most need nothing."""

PLAYED = {
    "CHAIN_SOURCE": "journal",
    "JOURNAL_FILE": str(ROOT / "tests/conformance/cases/route-005/journal.jsonl"),
    "VALIDATOR_HOTKEY": "validator",
}
"""A chain that needs nothing else."""

NO_DATABASE = {"message_schema": 0, "routing_status": 2}
"""What ends otherwise than with NO_ANSWER where there is no database: the first needs none, the second is to say so."""

DJANGO, OURS = ("-m", "django"), ("manage.py",)
"""How a site of others runs commands, whose manage.py knows nothing of our exit codes; and how this one does."""

every_command = pytest.mark.parametrize("name", sorted(COMMANDS))


def start(
    name: str,
    *arguments: str,
    program: Sequence[str] = DJANGO,
    out: int | None = None,
    err: int | None = None,
    **environment: str,
) -> Program:
    command = sys.executable, *program, name, *(arguments or ARGUMENTS.get(name, ()))
    return Program(*command, environment={**PLAYED, **environment}, out=out, err=err)


@pytest.fixture
def ledger(transactional_db: None) -> None:
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
def test_neither_a_closed_pipe_nor_an_encoding_changes_the_code(name: str, ledger: None, closed: int) -> None:
    code, out, err = start(name).finish()
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
        assert program.finish().code == code, how


@every_command
def test_without_a_database_there_is_no_answer(name: str) -> None:
    nowhere = "postgres://nobody@127.0.0.1:1/nothing"
    code, out, err = start(name, DATABASE_URL=nowhere).finish()
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
    code, out, err = program.finish()
    assert (code, out) == (no_answer, "")
    assert "Set SECRET_KEY" in err
    assert "Traceback" not in err


def test_a_system_check_that_fails_is_no_answer() -> None:
    code, _, err = start("check_ledger", ALLOWANCE_THREADS="0").finish()
    assert code == NO_ANSWER
    assert "routing.E006" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_answer(ledger: None) -> None:
    code, _, err = start("check_ledger", out=os.open("/dev/full", os.O_WRONLY)).finish()
    assert code == NO_ANSWER
    assert err.startswith("OSError: ")
    assert "Traceback" not in err


def test_a_defect_of_ours_is_no_answer_and_shows_where_it_is() -> None:
    code, _, err = start("check_ledger", program=OURS, DJANGO_SETTINGS_MODULE="nowhere.settings").finish()
    assert code == NO_ANSWER
    assert "Traceback" in err


def test_a_journal_is_the_same_in_every_encoding(ledger: None) -> None:
    written = [start("export_journal", PYTHONIOENCODING=name).finish() for name in ("utf-8", "latin-1", "ascii")]
    assert [code for code, _, _ in written] == [0, 0, 0]
    assert len({out for _, out, _ in written}) == 1
    assert "hot-\\u00e9" in written[0][1]


def test_an_interrupt_has_its_code_and_no_traceback(ledger: None) -> None:
    """A journal from standard input that never ends, and Ctrl-C."""
    with start("replay_journal", "-") as program:
        program.say({"event": "collateral", "hotkey": "hot-1", "wei": "7"})
        program.until(Miner.objects.filter(hotkey="hot-1").exists)
        assert program.stop(signal.SIGINT) == INTERRUPTED
        assert program.finish().err == ""
