"""shared-memory-dict: a pickled dict in shared memory, unpickled whole for each look-up."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route

BYTES_A_ROW = 512


class SharedMemoryDictPeer:
    name = "shared-memory-dict"
    shared = True

    def __init__(self, table: Table) -> None:
        from shared_memory_dict import SharedMemoryDict

        shared: Any = SharedMemoryDict(name=f"bench{os.getpid()}", size=max(2**20, len(table) * BYTES_A_ROW))
        shared.update(table)
        self._shared = shared

        def look_up(model: str) -> Route:
            return decode(shared[model])

        self.look_up = look_up

    def close(self) -> None:
        self._shared.shm.close()
        self._shared.shm.unlink()


def open_peer(table: Table) -> SharedMemoryDictPeer:
    return SharedMemoryDictPeer(table)
