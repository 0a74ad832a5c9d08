"""The real Pylon service that came with the client 1.4.0, in an environment of its own in the cache.

No later source distribution has the service in it. Its libraries exclude ours: they need websockets 14, httpx 0.26.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live.fixtures import CACHE, FixtureMissing, Sdist, fetch
from tests.live.lane import missing
from tests.programs import ROOT, Program

SDIST = Sdist(
    "bittensor_pylon_client",
    "1.4.0",
    "b37b40803d46b1e6a29921881a10fa5292369c85a1cd8fe4c7f01324751fca24",
    "pylon_client/service/main.py",
)
REQUIREMENTS = ROOT / "requirements" / "pylon-service.txt"


@contextmanager
def pylon_service(node: str) -> Iterator[str]:
    """Run the service on a node, and return its address. Skip the test, or fail it, if it can't be installed."""
    home = installed()
    settings = {
        "PYTHONPATH": home / "source" / SDIST.folder,
        "PYLON_BITTENSOR_NETWORK": node,
        "PYLON_BITTENSOR_ARCHIVE_NETWORK": node,
        "PYLON_IDENTITIES": "[]",
        "PYLON_SENTRY_DSN": "",
    }
    command = "-m", "uvicorn", "--host", "127.0.0.1", "--port", "0", "pylon_client.service.main:app"
    with Program(home / "bin" / "python", *command, environment=settings, cwd=home) as program:
        yield program.await_log(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")[1]


def installed() -> Path:
    """Return the folder of the environment, made now if it is not in the cache."""
    made_of = REQUIREMENTS.read_bytes() + SDIST.sha256.encode() + sys.version.encode()
    home = CACHE / f"pylon-{hashlib.sha256(made_of).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "pylon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes may need it at the same time
        if not (home / "made").exists():
            try:
                _install(home)
            except (FixtureMissing, OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or error
                missing(f"the environment of the Pylon service, which could not be made ({said})")
    return home


def _install(home: Path) -> None:
    fetch([SDIST])
    shutil.rmtree(home, ignore_errors=True)
    pip = "-m", "pip", "install", "--quiet", "--disable-pip-version-check"
    for command in (
        (sys.executable, "-m", "venv", str(home)),
        (str(home / "bin" / "python"), *pip, "--only-binary", ":all:", "--require-hashes", "-r", str(REQUIREMENTS)),
        (sys.executable, "-m", "tarfile", "-e", str(SDIST.path), str(home / "source")),
    ):
        subprocess.run(command, capture_output=True, text=True, check=True)
    (home / "made").touch()
