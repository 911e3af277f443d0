"""A dict in each worker that the worker's own informer thread keeps: a team's usual solution without shmroute.

The thread replaces a row from time to time, under the lock that readers take too, as the official client's cache does.
"""

from __future__ import annotations

import threading

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route

UPDATE_SECONDS = 0.01


class InformerDictPeer:
    name = "dict + informer thread"
    shared = False

    def __init__(self, table: Table) -> None:
        routes = {model: decode(value) for model, value in table.items()}
        lock = threading.Lock()
        self._stop = threading.Event()
        first = next(iter(table))

        def look_up(model: str) -> Route:
            with lock:
                return routes[model]

        def inform() -> None:
            while not self._stop.wait(UPDATE_SECONDS):
                with lock:
                    routes[first] = decode(table[first])

        self.look_up = look_up
        self._thread = threading.Thread(target=inform, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def open_peer(table: Table) -> InformerDictPeer:
    return InformerDictPeer(table)
