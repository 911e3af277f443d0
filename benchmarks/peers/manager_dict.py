"""`multiprocessing.Manager().dict()`: a proxy, a socket and a pickle for each look-up."""

from __future__ import annotations

import multiprocessing

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route


class ManagerDictPeer:
    name = "multiprocessing.Manager().dict()"
    shared = True

    def __init__(self, table: Table) -> None:
        self._manager = multiprocessing.get_context("spawn").Manager()
        shared = self._manager.dict(table)

        def look_up(model: str) -> Route:
            return decode(shared[model])

        self.look_up = look_up

    def close(self) -> None:
        self._manager.shutdown()


def open_peer(table: Table) -> ManagerDictPeer:
    return ManagerDictPeer(table)
