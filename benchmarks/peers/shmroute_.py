"""shmroute itself: an area, a publisher, and a reader as a worker has one."""

from __future__ import annotations

import itertools
import os

from benchmarks.peers import Table
from shmroute import Reader
from shmroute.rows import Kind
from shmroute.shm.writing.publisher import Publisher

_numbers = itertools.count()


class ShmroutePeer:
    name = "shmroute"
    shared = True

    def __init__(self, table: Table) -> None:
        self.area = f"bench-{os.getpid()}-{next(_numbers)}"
        self.publisher = Publisher(self.area)
        self.publisher.replace({(Kind.MODEL, model): value for model, value in table.items()})
        self.reader = Reader(self.area)
        self.look_up = self.reader.resolve

    def forget(self) -> None:
        """Forget all decoded rows and keep the mapping, as after a generation that changes every row."""
        self.reader._drop_all()

    def close(self) -> None:
        self.reader.close()
        self.publisher.close(remove=True)


def open_peer(table: Table) -> ShmroutePeer:
    return ShmroutePeer(table)
