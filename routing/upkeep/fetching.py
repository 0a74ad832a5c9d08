"""The reading of a file, or of a URL, that an operator names. Its address is not restricted as those of miners are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

DEADLINE = 10.0
"""The maximum time (s) of a reading."""

TIMEOUT = 5.0
"""The maximum time (s) that a server may take to send something."""

LARGEST = 1 << 20
"""The maximum size (bytes) of a document."""

CHUNK = 1 << 16


def check_location(location: str) -> None:
    """Raise ValueError unless the location is a path, or a URL of http or https with a host."""
    if is_url(location):
        parts = urlsplit(location)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{shown(location)!r} is neither a path nor a URL of http or https.")
        if parts.username is not None:
            raise ValueError(f"{shown(location)!r} has a user name or a password, which is not supported.")


def is_url(location: str) -> bool:
    """Return whether a location is a URL, not a path."""
    return "://" in location


def shown(location: str) -> str:
    """Return a location without the parts of a URL that may be secret: the user, the password and the query."""
    if not is_url(location):
        return location[-255:]
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:255]


class SameHost(HTTPRedirectHandler):
    """A handler that follows redirects on the same host only."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: PLR0917 (the base's)
        """Return the request that follows a redirect. Raises URLError if it leads to another host or scheme."""
        if urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            fp.close()
            raise URLError(f"it redirects to {shown(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(location: str) -> bytes:
    """Return the content of a file, or of a URL that `check_location` accepts.

    Raises OSError, HTTPException, or ValueError if it is too large.
    """
    until = time.monotonic() + DEADLINE
    if not is_url(location):
        with Path(location).open("rb") as file:
            return _read(file, until)
    request = Request(location, headers={"User-Agent": "miner-router"})  # noqa: S310 (see `check_location`)
    try:
        with build_opener(SameHost).open(request, timeout=TIMEOUT) as answer:
            return _read(answer, until)
    except HTTPError as error:
        error.close()  # it is an open answer too
        raise


def _read(source: Any, until: float) -> bytes:
    content = bytearray()
    while chunk := source.read1(CHUNK):
        content += chunk
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        if time.monotonic() > until:
            raise TimeoutError("it takes too long to read")
    return bytes(content)
