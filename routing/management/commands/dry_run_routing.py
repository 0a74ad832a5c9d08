from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from allowance.interface import ExecutorClass, JobTooLong, clock, parse_wei, validation
from allowance.plumbing.connections import renew_connection
from allowance.plumbing.programs import AnsweringCommand
from routing.decision import in_force
from routing.decision.book import DryBook
from routing.decision.model import Decision, Policy, Remedies
from routing.decision.pipeline import decide
from routing.log import report
from routing.management.options import moment, named
from routing.requests import V2JobRequest, plain_request


class Command(AnsweringCommand):
    help = (
        "Show which miner would get each job, and the verdict on every miner. Nothing is written. "
        "Exit code: 0 all jobs routed, 1 some jobs refused, 2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        job = parser.add_argument_group("the job")
        job.add_argument("--executor-class", metavar="CLASS", help=f"one of {', '.join(ExecutorClass)}")
        job.add_argument("--seconds", type=int, metavar="N", help="how long the job may take in total")
        job.add_argument("--job", metavar="FILE", help="a file with a V2JobRequest in JSON")
        job.add_argument(
            "--jobs",
            metavar="FILE",
            help="a file with V2JobRequests, one per line; a job sees the reservations of earlier jobs",
        )
        what_if = parser.add_argument_group("what if")
        what_if.add_argument(
            "--min-collateral", metavar="AMOUNT", help="assume this minimum collateral: 0.01tao, 1e16, 10_000"
        )
        what_if.add_argument("--window", type=float, metavar="HOURS", help="assume a reliability window of this length")
        what_if.add_argument(
            "--unused-blocks", type=int, metavar="N", help="assume that the oldest N blocks of allowance stay unused"
        )
        what_if.add_argument(
            "--exclude", action="append", default=[], metavar="HOTKEY", help="exclude this miner (repeatable)"
        )
        what_if.add_argument("--at", metavar="TIME", help="assume this time (ISO 8601, with a zone)")
        parser.add_argument("--top", type=int, metavar="N", help="show only the first N candidates")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            policy, remedies = what_if(options)
            now = clock.now() if options["at"] is None else moment("--at", options["at"])
            requests = list(read_requests(options))
            if options["top"] is not None and options["top"] < 1:
                raise ValueError(f"--top must be 1 or more, not {options['top']}.")
        except (ValueError, ImproperlyConfigured) as error:
            raise CommandError(str(error), returncode=2) from error
        book, refused, bad = DryBook(), 0, []
        for where, request in requests:
            renew_connection()
            try:
                decision = decide(request, book, now=now, policy=policy, exclude=options["exclude"], remedies=remedies)
            except (ValueError, JobTooLong, ImproperlyConfigured) as error:
                bad.append(f"{where}: {error}")
                if options["format"] == "json":
                    self.write_json(report.refused_as_json(request, error))
                continue
            refused += decision.route is None
            self.tell(decision, options)
        if len(requests) > 1 and options["format"] == "text":
            self.console.print(f"{len(requests) - refused - len(bad)} of {len(requests)} jobs routed.", style="bold")
        if bad:
            raise CommandError("\n".join(bad), returncode=2)
        if refused:
            raise SystemExit(1)

    def tell(self, decision: Decision, options: dict[str, Any]) -> None:
        if options["format"] == "json":
            self.write_json(report.as_json(decision))
        else:
            report.show(decision, self.console, most=options["top"])
            self.console.print()


def what_if(options: dict[str, Any]) -> tuple[Policy, Remedies]:
    """Return the policy that the options ask for, and the remedies that advice may name.

    Raises ValueError, which names the option. The excluded hotkeys are checked here too, because the error of a
    decision could not name the option.
    """
    policy, remedies, amount = (
        in_force.policy(),
        Remedies(excluded="exclude fewer miners with --exclude"),
        options["min_collateral"],
    )
    if amount is not None:
        remedies = remedies._replace(collateral="lower --min-collateral")
        with named("--min-collateral"):
            policy = in_force.what_if(policy, parse_wei(amount), None)
    with named("--window"):
        policy = in_force.what_if(policy, None, options["window"])
    with named("--unused-blocks"):
        policy = in_force.what_if(policy, None, None, options["unused_blocks"])
    with named("--exclude"):
        validation.hotkeys(options["exclude"], "It")
    return policy, remedies


def read_requests(options: dict[str, Any]) -> Iterator[tuple[str, V2JobRequest]]:
    """Yield the jobs that the options name, each with its place for error messages. Raises ValueError."""
    by_hand = options["executor_class"] is not None or options["seconds"] is not None
    if by_hand + (options["job"] is not None) + (options["jobs"] is not None) != 1:
        raise ValueError("Give a job, with --executor-class and --seconds, or with --job FILE, or with --jobs FILE.")
    if by_hand:
        if options["executor_class"] is None or options["seconds"] is None:
            raise ValueError("Give both --executor-class and --seconds.")
        with named("--executor-class"):
            request = plain_request(options["executor_class"], options["seconds"])
        yield "--seconds", request  # the class is checked already
        return
    name: str = options["job"] or options["jobs"]
    try:
        content = Path(name).read_bytes().removeprefix(BOM_UTF8)
    except OSError as error:
        raise ValueError(f"Can't read {name}: {error.strerror}.") from error
    if options["job"] is not None:
        yield name, parse_request(name, content)
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, parse_request(where, line)


def parse_request(where: str, content: bytes) -> V2JobRequest:
    """Return the request in `content`. Raises ValueError, in one sentence, if it is invalid."""
    with named(where):
        return V2JobRequest.model_validate_json(content)
