"""LMDB in /dev/shm: a transaction, a get, and the same decoding, for each look-up."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import lmdb

from benchmarks.peers import Table, decode

BYTES_A_ROW = 1024


class LmdbPeer:
    name = "LMDB"
    shared = True

    def __init__(self, table: Table, decode: Callable[[bytes | memoryview], Any] = decode) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shmroute-bench-lmdb-", dir="/dev/shm")
        size = max(64 * 2**20, len(table) * BYTES_A_ROW)
        self._environment = environment = lmdb.open(self._folder.name, map_size=size, sync=False)
        with environment.begin(write=True) as transaction:
            for model, value in sorted(table.items()):
                transaction.put(model.encode(), value)

        def look_up(model: str) -> Any:
            with environment.begin(buffers=True) as transaction:
                return decode(transaction.get(model.encode()) or b"")

        self.look_up = look_up

    def close(self) -> None:
        self._environment.close()
        self._folder.cleanup()


def open_peer(table: Table, decode: Callable[[bytes | memoryview], Any] = decode) -> LmdbPeer:
    return LmdbPeer(table, decode)
