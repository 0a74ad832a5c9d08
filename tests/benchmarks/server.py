"""The databases of one benchmark, and the server they are on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.errors import InsufficientPrivilege

OUR_TABLES = "FROM pg_class WHERE relkind = 'r' AND relname ~ '^(allowance|receipts|routing)_'"


class Server:
    """Make databases whose names nobody else uses, and drop them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = count(1)
        self.names: list[str] = []

    def url(self, name: str) -> str:
        """Return the DATABASE_URL of a database."""
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def run(self, sql: str, database: str = "postgres", parameters: Mapping[str, object] | None = None) -> Any:
        """Run a statement outside a transaction, and return the first value of its first row, if it has rows."""
        with psycopg.connect(self._url, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def new_name(self) -> str:
        """Return a name that no database has, and take note to drop the one that will have it."""
        name = f"bench_{os.getpid()}_{next(self._numbers)}"
        self.names.append(name)
        return name

    def create(self, name: str, template: str = "template1") -> None:
        """Create a database like another, to which nobody may be connected."""
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")

    def drop(self, name: str) -> None:
        """Drop a database, if it is there, whoever is connected to it."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.names.remove(name)

    def settle(self, name: str) -> None:
        """Leave a database as autovacuum and the checkpointer would soon: what they owe must not fall to a pick."""
        self.run("VACUUM ANALYZE", name)
        with suppress(InsufficientPrivilege):
            self.run("CHECKPOINT")

    def size(self, name: str) -> int:
        """Return the bytes of our tables and their indexes, without slack."""
        tables = self.run(f"SELECT string_agg(relname, ', ') {OUR_TABLES}", name)
        self.run(f"VACUUM FULL {tables}", name)
        return int(self.run(f"SELECT sum(pg_total_relation_size(oid)) {OUR_TABLES}", name))

    def facts(self) -> dict[str, str]:
        """Return what must be known of the server to compare figures."""
        names = ("server_version", "fsync", "synchronous_commit", "autovacuum", "shared_buffers")
        return {name: self.run(f"SHOW {name}") for name in names}


@contextmanager
def databases_on(url: str) -> Iterator[Server]:
    """Give a server; at the end, however it comes, none of the databases made there is left."""
    server = Server(url)
    try:
        yield server
    finally:
        for name in list(server.names):
            server.drop(name)
