"""Exit codes that are answers, and output that survives a closed pipe and a limited encoding."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

from django import db
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper, SystemCheckError
from rich.console import Console

from allowance.plumbing.connections import renew_connection
from allowance.plumbing.console import wide_console
from allowance.plumbing.errors import RefusedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NO_ANSWER = 70
"""The exit code of a program that found no answer because of an error. 0 to 3 mean answers or bad arguments."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, the same as in shells."""

EXPLAINED = (db.Error, ImproperlyConfigured, RefusedError, OSError)
"""Errors whose text says what is wrong, so that a traceback adds nothing."""


class SteadyFile(io.FileIO):
    """A file to write to that drops all data after a failed write, for example when the reader closed the pipe."""

    broken = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the data, or drop it after a failure. Raises the first OSError, unless the pipe is closed."""
        if not self.broken:
            try:
                return super().write(data)
            except OSError as error:
                self.broken = True
                if not isinstance(error, BrokenPipeError):
                    raise
        return memoryview(data).nbytes


def steady(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that no closed pipe and no unencodable character can break."""
    if stream is None:  # the process started without this stream
        return open(os.devnull, "w")
    try:
        number = stream.fileno()
    except (AttributeError, OSError):  # not a file, for example the capture of a test
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(SteadyFile(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty() or stream is sys.stderr,
    )


def reader_is_gone() -> bool:
    """Return whether further output is dropped, because the reader has closed the pipe or a write has failed."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, SteadyFile) and raw.broken


@contextmanager
def answering(no_answer: int = NO_ANSWER, *, trace: bool = False) -> Iterator[None]:
    """Make the program's exit code its answer: neither a closed pipe nor an encoding changes the code.

    A CommandError ends the program with its own code, any other error with `no_answer`, and Ctrl-C with INTERRUPTED. A
    traceback is printed for errors that are neither EXPLAINED nor a CommandError, and with `trace` for all errors.
    """
    with redirect_stdout(steady(sys.stdout)), redirect_stderr(steady(sys.stderr)):
        try:
            try:
                yield
            finally:
                sys.stdout.flush()  # a full disk is still an error here
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

    has_formats = True
    """Whether the command has the option --format, and answers programs with JSON."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Add the option --format, and the exit code `no_answer` to the help text of the command."""
        epilog = f"Exit code {self.no_answer}: no answer, because of an error."
        parser = super().create_parser(prog_name, subcommand, epilog=epilog, **kwargs)
        if self.has_formats:
            parser.add_argument("--format", choices=["text", "json"], default="text")
        return parser

    @property
    def console(self) -> Console:
        """The standard output, for tables and colours."""
        return wide_console(self.stdout._out)

    def write_json(self, answer: object) -> None:
        """Write an answer for programs, as one line of JSON."""
        self.stdout.write(json.dumps(answer))

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run with a working connection: it may have broken since the same process ran another command."""
        renew_connection()
        return super().execute(*args, **options)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a program, see `answering`. With `call_command` the caller gets the exceptions of `handle` instead."""
        with answering(self.no_answer, trace="--traceback" in argv):
            style = self.stderr.style_func
            self.stdout, self.stderr = OutputWrapper(sys.stdout), OutputWrapper(sys.stderr)
            self.stderr.style_func = style
            super().run_from_argv(argv)

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Run the system checks. If one fails, the exit code is `no_answer`."""
        try:
            super().check(*args, **kwargs)
        except SystemCheckError as error:
            error.returncode = self.no_answer
            raise
