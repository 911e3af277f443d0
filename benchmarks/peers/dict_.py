"""A plain dict of decoded routes in each worker, behind a one-line function: the floor for any look-up."""

from __future__ import annotations

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route


class DictPeer:
    name = "dict"
    shared = False

    def __init__(self, table: Table) -> None:
        routes = {model: decode(value) for model, value in table.items()}

        def look_up(model: str) -> Route:
            return routes.get(model)  # type: ignore[return-value]

        self.look_up = look_up

    def close(self) -> None: ...


def open_peer(table: Table) -> DictPeer:
    return DictPeer(table)
