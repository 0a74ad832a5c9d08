"""System checks as functions that yield a sentence on each mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.core.checks import CheckMessage, Error, register

Find = Callable[..., Iterable[str]]
"""A function that yields a sentence on each mistake."""


def check(identity: str, hint: str, *tags: str) -> Callable[[Find], Find]:
    """Return a decorator that registers a function as a system check. Each sentence that it yields is an error."""

    def add(find: Find) -> Find:
        def run(**options: Any) -> list[CheckMessage]:
            return [Error(sentence, hint=hint, id=identity) for sentence in find(**options)]

        register(run, *tags)
        return find

    return add
