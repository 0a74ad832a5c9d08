from __future__ import annotations

from tests.live.lane import need_extras


def pytest_runtest_setup() -> None:
    """Run no test of this folder without the extras."""
    need_extras()
