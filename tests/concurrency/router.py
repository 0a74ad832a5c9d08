"""One router in a process of its own: wait for the word, pick, and print what came of it, a line of JSON each."""

from __future__ import annotations

import json
import sys
import time

import django
from django.conf import settings

TASK = json.loads(sys.argv[1])
settings.DATABASES["default"]["NAME"] = TASK["database"]
django.setup()

from allowance.models import Account  # noqa: E402
from allowance.types import AllowanceException  # noqa: E402
from routing import book, routing  # noqa: E402
from routing.types import JobRoutingException  # noqa: E402
from tests.factories import job_request  # noqa: E402

admit = book.admit


def main() -> None:
    vars(book)["admit"] = admit_slowly
    if not TASK["locking"]:
        vars(book)["lock_account"] = read_account
    say("ready")
    sys.stdin.readline()
    for _ in range(TASK["picks"]):
        try:
            route = routing().pick(job_request(TASK["seconds"], executor_class=TASK["executor_class"]))
        except (AllowanceException, JobRoutingException) as error:
            say(json.dumps({"miner": None, "blocks": [], "refusal": type(error).__name__}))
        else:
            say(json.dumps({"miner": route.miner.hotkey_ss58, "blocks": route.allowance_blocks, "refusal": None}))


def admit_slowly(*arguments: object) -> object:
    """Take time between what was read and what will be written, so that races show."""
    outcome = admit(*arguments)  # type: ignore[arg-type]
    time.sleep(TASK["pause"])
    return outcome


def read_account(*, wait: bool = True, **which: object) -> Account | None:
    """Stand in for lock_account, without the lock."""
    return Account.objects.select_related("miner").filter(**which).first()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
