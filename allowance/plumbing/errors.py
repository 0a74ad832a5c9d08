"""The base class of the refusals of all three apps."""

from __future__ import annotations


class RefusedError(Exception):
    """A request was refused. Nothing is held or stored. The text says why, and what to do."""
