"""How programs end: exit codes that are answers, and output that neither a closed pipe nor an encoding breaks."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

from django import db
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper, SystemCheckError

from allowance.plumbing.connections import renew_connection
from allowance.plumbing.errors import RefusedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NO_ANSWER = 70
"""The exit code of a program that found no answer because of an error; 0 to 3 are answers, or bad arguments."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

EXPLAINED = (db.Error, ImproperlyConfigured, RefusedError, OSError)
"""Errors of the surroundings: their text says what is wrong, so that a traceback adds nothing."""


class SteadyFile(io.FileIO):
    """A file to write to that drops everything once its reader has closed the pipe."""

    broken = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, or drop what can't be written. Raises OSError once, for anything but a closed pipe."""
        if not self.broken:
            try:
                return super().write(data)
            except OSError as error:
                self.broken = True
                if not isinstance(error, BrokenPipeError):
                    raise
        return memoryview(data).nbytes


def steady(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that no closed pipe and no encoding can break."""
    if stream is None:  # the process was started without it
        return open(os.devnull, "w")
    try:
        number = stream.fileno()
    except (AttributeError, OSError):  # no file, such as what a test captures
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(SteadyFile(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty() or stream is sys.stderr,
    )


def reader_is_gone() -> bool:
    """Return whether what is printed from now on is dropped, because the pipe's reader has closed it."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, SteadyFile) and raw.broken


@contextmanager
def answering(no_answer: int = NO_ANSWER, *, trace: bool = False) -> Iterator[None]:
    """Let the program's exit code be its answer: neither a closed pipe nor an encoding changes it.

    An error ends the program with the code `no_answer`, and Ctrl-C with INTERRUPTED. A traceback is printed for errors
    that do not explain themselves, and with `trace` for all.
    """
    with redirect_stdout(steady(sys.stdout)), redirect_stderr(steady(sys.stderr)):
        try:
            try:
                yield
            finally:
                sys.stdout.flush()  # here a full disk is still an error of the program
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            if trace or not isinstance(error, (*EXPLAINED, CommandError)):
                traceback.print_exc()
            else:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
            raise SystemExit(error.returncode if isinstance(error, CommandError) else no_answer) from None
        finally:
            with suppress(OSError):
                sys.stderr.flush()


class AnsweringCommand(BaseCommand):
    """A management command whose exit code is its answer; see `answering`."""

    no_answer = NO_ANSWER

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Say in the help of every command what it ends with if there is no answer."""
        epilog = f"Exit code {self.no_answer}: no answer, because of an error."
        return super().create_parser(prog_name, subcommand, epilog=epilog, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run, also when a process that goes on calls several commands, and its connection has broken since."""
        renew_connection()
        return super().execute(*args, **options)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a program. `call_command` raises instead whatever `handle` does."""
        with answering(self.no_answer, trace="--traceback" in argv):
            style = self.stderr.style_func
            self.stdout, self.stderr = OutputWrapper(sys.stdout), OutputWrapper(sys.stderr)
            self.stderr.style_func = style
            super().run_from_argv(argv)

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Run the system checks; one that fails is no answer of this command."""
        try:
            super().check(*args, **kwargs)
        except SystemCheckError as error:
            error.returncode = self.no_answer
            raise
