"""UltraDict: a pickled dict in shared memory, and a local copy that follows it."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route

BYTES_A_ROW = 256


class UltraDictPeer:
    name = "UltraDict"
    shared = False

    def __init__(self, table: Table) -> None:
        from UltraDict import UltraDict

        shared: Any = UltraDict(
            table, name=f"bench{os.getpid()}", full_dump_size=max(2**20, len(table) * BYTES_A_ROW), shared_lock=False
        )
        self._shared = shared

        def look_up(model: str) -> Route:
            return decode(shared[model])

        self.look_up = look_up

    def close(self) -> None:
        self._shared.unlink()
        self._shared.close()


def open_peer(table: Table) -> UltraDictPeer:
    return UltraDictPeer(table)
