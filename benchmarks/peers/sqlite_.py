"""SQLite in /dev/shm: a prepared SELECT for each look-up."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route


class SqlitePeer:
    name = "SQLite"
    shared = True

    def __init__(self, table: Table) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shmroute-bench-sqlite-", dir="/dev/shm")
        self._connection = connection = sqlite3.connect(Path(self._folder.name) / "routes.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE routes (model TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO routes VALUES (?, ?)", table.items())
        connection.execute("COMMIT")
        select = "SELECT value FROM routes WHERE model = ?"

        def look_up(model: str) -> Route:
            return decode(connection.execute(select, (model,)).fetchone()[0])

        self.look_up = look_up

    def close(self) -> None:
        self._connection.close()
        self._folder.cleanup()


def open_peer(table: Table) -> SqlitePeer:
    return SqlitePeer(table)
