"""shmroute by the plain twin of its look-up, whichever one is installed."""

from __future__ import annotations

from tests.twins import reader_type

from benchmarks.peers import Table
from benchmarks.peers.shmroute_ import ShmroutePeer


class PlainPeer(ShmroutePeer):
    name = "shmroute, plain"

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.reader = reader_type("plain")(self.area)
        self.look_up = self.reader.resolve


def open_peer(table: Table) -> PlainPeer:
    return PlainPeer(table)
