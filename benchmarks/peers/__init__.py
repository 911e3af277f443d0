"""One module for each competitor: `open_peer(table) -> Peer`. All hold the same rows and give the same records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from shmroute.worker.routes import Route

decode = msgspec.msgpack.Decoder(Route).decode
"""Decoder of the rows of all competitors."""

Table = dict[str, bytes]
"""Model name -> encoded route."""


class Peer(Protocol):
    """One competitor, filled with a table."""

    name: str
    shared: bool
    """Whether worker processes share one copy."""

    @property
    def look_up(self) -> Callable[[str], Route]:
        """The function that a worker calls for one model."""

    def close(self) -> None: ...
