"""The real metadata of two runtimes of the chain, from source distributions that pip fetches by their hashes.

`python -m tests.live.fixtures` fetches them into the cache. Nothing of them is part of this repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

CACHE = Path(__file__).parents[2] / ".cache" / "live"

OLD, NEW = SPECS = (318, 461)
"""The spec versions of the runtimes whose metadata is known."""


class Sdist(NamedTuple):
    """A source distribution: its project, version, SHA-256, and the JSON file with metadata in it."""

    project: str
    version: str
    sha256: str
    member: str

    @property
    def folder(self) -> str:
        """The name of the folder in the archive."""
        return f"{self.project}-{self.version}"

    @property
    def path(self) -> Path:
        """Where the archive is in the cache."""
        return CACHE / f"{self.folder}.tar.gz"


SDISTS = {
    OLD: Sdist(
        "turbobt",
        "1.2.0",
        "d4bd380ec419566d7faea8df37c2573e214d6924a48b3545a56b979aed5a0c8e",
        "tests/test_substrate/data/metadata_version_15.json",
    ),
    NEW: Sdist(
        "bittensor",
        "11.3.0",
        "8ce05029a712866048c6cf3e3d5df1592ac896175f5b4227f63044b7e7b7edb3",
        "tests/fixtures/golden.json",
    ),
}


class FixtureMissing(AssertionError):
    """A source distribution could not be fetched."""


@cache
def metadata(spec: int) -> bytes:
    """Return the V15 metadata of a runtime, as a node answers `Metadata_metadata_at_version`: Option<OpaqueMetadata>.

    Raises FixtureMissing if the source distribution can't be fetched.
    """
    sdist = SDISTS[spec]
    fetch()
    with tarfile.open(sdist.path) as archive:
        member = archive.extractfile(f"{sdist.folder}/{sdist.member}")
        assert member
        found = json.load(member)
    text: str = found if isinstance(found, str) else found["metadata"]["v15_hex"]
    return bytes.fromhex(text.removeprefix("0x"))


def fetch(sdists: Iterable[Sdist] = tuple(SDISTS.values())) -> None:
    """Fetch the source distributions that are not in the cache. Raises FixtureMissing if one can't be fetched."""
    missing = [sdist for sdist in sdists if not _is_good(sdist)]
    if not missing:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text("".join(f"{s.project}=={s.version} --hash=sha256:{s.sha256}\n" for s in missing))
        names = ",".join(sdist.project for sdist in missing)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        ended = subprocess.run(
            [*command, "--require-hashes", "--no-binary", names, "--dest", folder, "--requirement", str(wanted)],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise FixtureMissing(f"pip could not fetch {names}. {ended.stdout}{ended.stderr}")
        for sdist in missing:  # another process may do the same at the same time
            os.replace(Path(folder, sdist.path.name), sdist.path)


def _is_good(sdist: Sdist) -> bool:
    return sdist.path.exists() and hashlib.sha256(sdist.path.read_bytes()).hexdigest() == sdist.sha256


if __name__ == "__main__":
    fetch()
