"""Picking one of an app's endpoints, within one process.

A `Pool` is made by the reader for one ENDPOINTS row and replaced when that row changes. It shares nothing with
other workers: none of the rules needs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Final, NoReturn, TypeAlias
from zlib import crc32

import msgspec

from shmroute.errors import NoEndpoints
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState

__all__ = ["Busy", "Endpoint", "Pool"]

Busy: TypeAlias = dict[str, deque[None]]
"""Connections in use by address, one entry each: appending and popping need no lock that a fork could catch held."""

_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Multipliers of splitmix64's finalizer (Steele, Lea, Flood 2014): a CRC alone is linear and would favour endpoints."""

_WORD: Final = 0xFFFFFFFFFFFFFFFF

_REASONS: Final = {
    EndpointsState.UNKNOWN: "not known",
    EndpointsState.KNOWN: "known empty",
    EndpointsState.AMBIGUOUS_PORT: "ambiguous port",
}


class Endpoint(msgspec.Struct, frozen=True):
    """One pod address of an app. `str(endpoint)` is `host:port`, an IPv6 host in brackets."""

    host: str
    """IP address, IPv6 without brackets."""
    port: int
    zone: str = ""
    """The node's zone; "" if the cluster names none."""
    node: str = ""
    """The node's name; "" if it is not known."""
    pod: str = ""
    """The pod's name; "" if it is not known."""
    ready: bool = True
    """False for a pod that terminates and still serves: given out only where no pod is ready."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Pool:
    """The endpoints of one app, and the ways to pick one.

    Args:
        app: for the error's text.
        row: the row, or None where there is none: not known.
        zone: this process's zone, "" if it is not known.
        busy: shared by all pools of a reader, so that counts outlive the row.
    """

    __slots__ = ("__weakref__", "_app", "_busy", "_candidates", "_row", "_scores", "endpoints", "next", "stale")

    def __init__(self, app: str, row: EndpointsRow | None, zone: str, busy: Busy) -> None:
        self._app = app
        self._row = row or EndpointsRow("", EndpointsState.UNKNOWN)
        self._busy = busy
        self.stale = False
        usable = _usable(self._row.endpoints)
        self.endpoints: tuple[Endpoint, ...] = tuple(_endpoint(row) for row in usable)
        self._candidates = tuple(_endpoint(row) for row in _near(usable, zone))
        self._scores: tuple[int, ...] | None = None
        self.next: Callable[[], Endpoint] = self._fail
        """The next endpoint, round-robin; raises `NoEndpoints`."""
        if self._candidates:
            import random  # here: a worker that picks nothing does without

            start = random.randrange(len(self._candidates))  # noqa: S311 - spreading load, no secret
            self.next = cycle(self._candidates[start:] + self._candidates[:start]).__next__

    def _fail(self) -> NoReturn:
        raise NoEndpoints(self._app, self._row.service, _REASONS[self._row.state], self._row.detail)

    def for_key(self, key: str | bytes) -> Endpoint:
        """The endpoint for `key`: highest random weight (Thaler and Ravishankar 1998)."""
        if not self._candidates:
            self._fail()
        if self._scores is None:
            self._scores = tuple(_hash(str(endpoint).encode()) for endpoint in self._candidates)
        hashed = _mix(_hash(key.encode() if isinstance(key, str) else key))
        best = max(range(len(self._scores)), key=lambda index: _mix(hashed ^ self._scores[index]))  # type: ignore[index]
        return self._candidates[best]

    @contextmanager
    def connection(self) -> Iterator[Endpoint]:
        """The less busy of two random endpoints (Mitzenmacher 2001), counted as busy until the block is left."""
        if not self._candidates:
            self._fail()
        endpoint = self._less_busy_of_two()
        busy = self._busy
        address = str(endpoint)
        connections = busy.get(address)
        if connections is None:
            connections = busy.setdefault(address, deque())
        connections.append(None)
        try:
            yield endpoint
        finally:
            connections.pop()
            # A thread that has just found this deque and not counted itself yet goes uncounted; it only weighs less.
            if not connections and busy.get(address) is connections:
                busy.pop(address, None)

    def _less_busy_of_two(self) -> Endpoint:
        candidates = self._candidates
        count = len(candidates)
        if count == 1:
            return candidates[0]
        import random

        first = random.randrange(count)  # noqa: S311
        second = random.randrange(count - 1)  # noqa: S311
        one, other = candidates[first], candidates[second + (second >= first)]
        return one if len(self._busy.get(str(one), ())) <= len(self._busy.get(str(other), ())) else other


def _usable(rows: tuple[EndpointRow, ...]) -> tuple[EndpointRow, ...]:
    """The ready ones; where none is ready, the serving-but-terminating ones, as kube-proxy does (KEP-1669)."""
    ready = tuple(row for row in rows if row.ready)
    return ready or tuple(row for row in rows if row.serving and row.terminating)


def _near(rows: tuple[EndpointRow, ...], zone: str) -> tuple[EndpointRow, ...]:
    """Those meant for `zone`, if every endpoint carries hints and one is meant for it (KEP-2433); else all."""
    if not zone or not all(row.hints for row in rows):
        return rows
    return tuple(row for row in rows if zone in row.hints) or rows


def _endpoint(row: EndpointRow) -> Endpoint:
    return Endpoint(row.host, row.port, row.zone, row.node, row.pod, row.ready)


def _hash(data: bytes) -> int:
    """64 bits of two CRCs, of which two addresses do not share both."""
    return crc32(data) << 32 | crc32(data[::-1])


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * _MIX[0] & _WORD
    value = (value ^ value >> 27) * _MIX[1] & _WORD
    return value ^ value >> 31
