"""Picking one of an app's endpoints, within one process.

A `Pool` is made by the reader for one ENDPOINTS row and replaced when that row changes. It shares nothing with
other workers: none of the rules needs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Sequence
from itertools import cycle
from typing import Final, NoReturn, Protocol, TypeAlias
from zlib import crc32

import msgspec

from shmroute.errors import NoEndpoints
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState

__all__ = ["Busy", "Endpoint", "Lease", "Pool"]

Busy: TypeAlias = dict[str, deque[None]]
"""Calls under way by address, one entry each: appending and popping need no lock that a fork could catch held."""

Member: TypeAlias = "tuple[str, Endpoint]"
"""`(address, endpoint)`; the address is `host:port`."""

_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Multipliers of splitmix64's finalizer (Steele, Lea, Flood 2014): a CRC alone is linear and would favour endpoints."""

_WORD: Final = 0xFFFFFFFFFFFFFFFF


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


class Lease:
    """One endpoint, counted as busy until the lease ends. Ending it twice does nothing more."""

    __slots__ = ("_busy", "_connections", "address", "endpoint")

    def __init__(self, endpoint: Endpoint, address: str, busy: Busy) -> None:
        self.endpoint = endpoint
        self.address = address
        """`host:port` of the endpoint."""
        self._busy = busy
        connections = busy.get(address)
        if connections is None:
            connections = busy.setdefault(address, deque())
        connections.append(None)
        self._connections: deque[None] | None = connections

    def end(self) -> None:
        """Count the endpoint as one call less busy."""
        connections, self._connections = self._connections, None
        if connections is None:
            return
        try:  # `suppress` would take as long as all the rest
            connections.pop()
        except IndexError:  # emptied after a fork, which leaves the parent's leases behind
            return
        # A thread that has just found this deque and has not added its entry yet is not counted: it only weighs less.
        if not connections and self._busy.get(self.address) is connections:
            self._busy.pop(self.address, None)

    def __enter__(self) -> Endpoint:
        return self.endpoint

    def __exit__(self, *_: object) -> None:
        self.end()


class Follower(Protocol):
    """What a pool needs of a `shmroute.worker.position.Position`: `word[()] == seen` while no generation has come."""

    word: memoryview[float]
    seen: float


class Pool:
    """The endpoints of one app, and the ways to pick one.

    Args:
        app: for the error's text.
        row: the row, or None where there is none: not known.
        zone: this process's zone, "" if it is not known.
        busy: shared by all pools of a reader, so that counts outlive the row.
        position: the reader's. Routes ask it by themselves whether this pool can be out of date.
    """

    __slots__ = (
        "__weakref__",
        "_app",
        "_busy",
        "_dice",
        "_near",
        "_row",
        "_scores",
        "by_address",
        "endpoints",
        "next",
        "position",
        "stale",
    )

    def __init__(self, app: str, row: EndpointsRow | None, zone: str, busy: Busy, position: Follower) -> None:
        self._app = app
        self.position = position
        self._row = row or EndpointsRow("", EndpointsState.UNKNOWN)
        self._busy = busy
        self.stale = False
        usable = _usable(self._row.endpoints)
        self.endpoints: tuple[Endpoint, ...] = tuple(map(_endpoint, usable))
        self.by_address: dict[str, Endpoint] = {str(endpoint): endpoint for endpoint in self.endpoints}
        """Endpoint by its address (`host:port`), in the row's order."""
        self._near = self._members(_near(usable, zone))
        self._scores: dict[str, int] = {}
        self.next: Callable[[], Endpoint] = self._fail
        """The next endpoint, round-robin; raises `NoEndpoints`."""
        if self._near:
            from random import random  # here: a worker that picks nothing does without

            self._dice = random
            start = int(random() * len(self._near))  # noqa: S311 - spreading load, no secret
            near = [endpoint for _, endpoint in self._near]
            self.next = cycle(near[start:] + near[:start]).__next__

    def pick(self, key: str | bytes | None = None, leave_out: Container[str] = ()) -> Endpoint:
        """The next endpoint of the round, or the one for `key`, whose address is not in `leave_out`.

        Raises:
            NoEndpoints: there is none.
        """
        if key is not None:
            return self._for_key(self._allowed(leave_out), key)[1]
        if not leave_out:
            return self.next()
        allowed = dict(self._allowed(leave_out))
        for _ in self._near:
            endpoint = self.next()
            if str(endpoint) in allowed:
                return endpoint
        return next(iter(allowed.values()))  # an endpoint of another zone: they take no part in the round

    def lease(
        self,
        key: str | bytes | None = None,
        leave_out: Container[str] = (),
        dice: Callable[[], float] | None = None,
    ) -> Lease:
        """An endpoint that counts as busy until the lease ends: the less busy of two random ones (Mitzenmacher 2001).

        Args:
            key: the endpoint for this key instead.
            leave_out: addresses (`host:port`) that must not be chosen.
            dice: a function like `random.random`, which is the default.

        Raises:
            NoEndpoints: there is none.
        """
        allowed = self._allowed(leave_out)
        dice = dice or self._dice
        if key is not None:
            address, endpoint = self._for_key(allowed, key)
        else:
            address, endpoint = self._less_busy_of_two(allowed, dice)
        return Lease(endpoint, address, self._busy)

    def lease_of(self, address: str) -> Lease | None:
        """A lease of that address; None if it is not there."""
        endpoint = self.by_address.get(address)
        return None if endpoint is None else Lease(endpoint, address, self._busy)

    def _allowed(self, leave_out: Container[str]) -> Sequence[Member]:
        """Members that may be chosen: of the zone's own those not left out, else of all those not left out."""
        members: Sequence[Member] = self._near
        if leave_out and members:
            members = [member for member in members if member[0] not in leave_out] or [
                member for member in self.by_address.items() if member[0] not in leave_out
            ]
            if not members:
                raise NoEndpoints(self._app, self._row.service, "all left out", f"{len(self.endpoints)} endpoints")
        if not members:
            self._fail()
        return members

    def _fail(self) -> NoReturn:
        raise NoEndpoints(self._app, self._row.service, self._row.state.word, self._row.detail)

    def _members(self, rows: tuple[EndpointRow, ...]) -> tuple[Member, ...]:
        addresses = [str(_endpoint(row)) for row in rows]
        return tuple((address, self.by_address[address]) for address in addresses)

    def _for_key(self, members: Sequence[Member], key: str | bytes) -> Member:
        """The endpoint for `key`: highest random weight (Thaler and Ravishankar 1998)."""
        scores = self._scores
        if not scores:
            scores = self._scores = {address: _hash(address.encode()) for address in self.by_address}
        hashed = _mix(_hash(key.encode() if isinstance(key, str) else key))
        return max(members, key=lambda member: _mix(hashed ^ scores[member[0]]))

    def _less_busy_of_two(self, members: Sequence[Member], dice: Callable[[], float]) -> Member:
        count = len(members)
        if count == 1:
            return members[0]
        first = int(dice() * count)
        second = int(dice() * (count - 1))
        one, other = members[first], members[second + (second >= first)]
        busy = self._busy
        return one if len(busy.get(one[0], ())) <= len(busy.get(other[0], ())) else other


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
