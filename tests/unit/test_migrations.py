"""A migration that a site may have applied is never edited: another one follows it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from project.settings import BASE_DIR

PINNED: dict[str, str] = {
    "allowance/migrations/0001_initial.py": "ca95ebb2e907a58cc2a592ad94ac9075f9288175f3410fbcd940c98cc0970e97",
    "allowance/migrations/0002_follower.py": "393cd528a7c0176911d1d47edd1278f2f87e6aaf9093fb1b66e8dd015b96486a",
    "receipts/migrations/0001_initial.py": "a2c10ab31ef2113684f766c2a2e5c793af43eb75bcaba85f301667c46aa67a24",
    "routing/migrations/0001_initial.py": "d74dd3adc6d24b4a76f95eb4383fec38d3988c70cfcf0d5bbc261af66082db43",
    "routing/migrations/0002_decision_unused_blocks.py": (
        "f1a8d38af0d98310c6a71687279c5e1b22e563f692abd3afa597eda7a7512439"
    ),
}
"""The SHA-256 of each migration, by path. Add the new one here, and change none."""


def test_migrations_are_as_they_were_published() -> None:
    found = {
        str(path.relative_to(BASE_DIR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for app in ("allowance", "receipts", "routing")
        for path in Path(BASE_DIR, app, "migrations").glob("0*.py")
    }
    assert found == PINNED
