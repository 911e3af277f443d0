"""Picks one of an app's endpoints, within one process.

The reader makes a `Pool` for one ENDPOINTS row and replaces it when that row changes. A pool shares nothing with other
workers: none of its rules needs that.
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

decode_row = msgspec.msgpack.Decoder(EndpointsRow).decode
"""Decodes an ENDPOINTS row. Raises `msgspec.DecodeError`."""

Busy: TypeAlias = dict[str, deque[None]]
"""Address -> one entry for each call under way. Appending and popping need no lock, which a fork could copy locked."""

Member: TypeAlias = "tuple[str, Endpoint]"
"""`(address, endpoint)`; the address is `host:port`."""

_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Multipliers of splitmix64's finalizer (Steele, Lea, Flood 2014). A CRC alone is linear and would favour endpoints."""

_WORD: Final = 0xFFFFFFFFFFFFFFFF


class Endpoint(msgspec.Struct, frozen=True):
    """One pod address of an app. `str(endpoint)` is `host:port`, an IPv6 host in brackets."""

    host: str
    """IP address, IPv6 without brackets."""
    port: int
    zone: str = ""
    """Zone of the node; "" if the cluster names none."""
    node: str = ""
    """Name of the node; "" if unknown."""
    pod: str = ""
    """Name of the pod; "" if unknown."""
    ready: bool = True
    """False for a pod that terminates and still serves: used only if no pod is ready."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Lease:
    """One endpoint, counted as busy until the lease ends. Ending a lease twice is harmless."""

    __slots__ = ("_busy", "_connections", "address", "endpoint")

    def __init__(self, endpoint: Endpoint, address: str, busy: Busy) -> None:
        self.endpoint = endpoint
        self.address = address
        """Address of the endpoint, as ``host:port``."""
        self._busy = busy
        connections = busy.get(address)
        if connections is None:
            connections = busy.setdefault(address, deque())
        connections.append(None)
        self._connections: deque[None] | None = connections

    def end(self) -> None:
        """Stop counting this call for the endpoint."""
        connections, self._connections = self._connections, None
        if connections is None:
            return
        try:  # `contextlib.suppress` would double the time of this method
            connections.pop()
        except IndexError:  # emptied in a forked child, which must not count the parent's leases
            return
        # A thread that has this deque but not yet added its entry is not counted: the endpoint only looks less busy.
        if not connections and self._busy.get(self.address) is connections:
            self._busy.pop(self.address, None)

    def __enter__(self) -> Endpoint:
        return self.endpoint

    def __exit__(self, *_: object) -> None:
        self.end()


class Follower(Protocol):
    """The part of `shmroute.worker.position.Position` that a pool uses: `word[()] == seen` until a new generation."""

    word: memoryview[float]
    seen: float


pick_failures: Final[dict[str, int]] = {}
"""Number of picks in this process that found no endpoint, by reason. For `shmroute.contrib.prometheus`."""


class Pool:
    """The endpoints of one app, and the ways to pick one.

    Args:
        app: the app's name, for error messages.
        row: the row; None if there is none, so that the endpoints are unknown.
        zone: this process's zone; "" if unknown.
        busy: shared by all pools of a reader, so that counts outlive the row.
        position: the reader's position, by which routes check themselves whether this pool may be stale.
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
        """Address (`host:port`) -> endpoint, in the row's order."""
        self._near = self._members(_near(usable, zone))
        self._scores: dict[str, int] = {}
        self.next: Callable[[], Endpoint] = self._fail
        """Returns the next endpoint, round-robin; raises `NoEndpoints` if there is none."""
        if self._near:
            from random import random  # imported here, since some workers never pick

            self._dice = random
            start = int(random() * len(self._near))  # noqa: S311 - spreading load, no secret
            near = [endpoint for _, endpoint in self._near]
            self.next = cycle(near[start:] + near[:start]).__next__

    def pick(self, key: str | bytes | None = None, leave_out: Container[str] = ()) -> Endpoint:
        """Return the next endpoint, or the one for `key`, among those whose address is not in `leave_out`.

        Raises:
            NoEndpoints: there is no such endpoint.
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
        return next(iter(allowed.values()))  # an endpoint of another zone, which the round-robin does not contain

    def lease(
        self,
        key: str | bytes | None = None,
        leave_out: Container[str] = (),
        dice: Callable[[], float] | None = None,
    ) -> Lease:
        """Lease the less busy of two random endpoints (Mitzenmacher 2001). It counts as busy until the lease ends.

        Args:
            key: lease the endpoint for this key instead.
            leave_out: addresses (`host:port`) that must not be chosen.
            dice: a function like `random.random`, which is the default.

        Raises:
            NoEndpoints: there is no such endpoint.
        """
        allowed = self._allowed(leave_out)
        dice = dice or self._dice
        if key is not None:
            address, endpoint = self._for_key(allowed, key)
        else:
            address, endpoint = self._less_busy_of_two(allowed, dice)
        return Lease(endpoint, address, self._busy)

    def lease_of(self, address: str) -> Lease | None:
        """Lease the endpoint of this address; None if the pool does not have it."""
        endpoint = self.by_address.get(address)
        return None if endpoint is None else Lease(endpoint, address, self._busy)

    def _allowed(self, leave_out: Container[str]) -> Sequence[Member]:
        """Return the members not left out: those of this zone or, if there are none, those of all zones."""
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
        reason = self._row.state.word
        pick_failures[reason] = pick_failures.get(reason, 0) + 1
        raise NoEndpoints(self._app, self._row.service, self._row.state.word, self._row.detail)

    def _members(self, rows: tuple[EndpointRow, ...]) -> tuple[Member, ...]:
        addresses = [str(_endpoint(row)) for row in rows]
        return tuple((address, self.by_address[address]) for address in addresses)

    def _for_key(self, members: Sequence[Member], key: str | bytes) -> Member:
        """Return the endpoint for `key`: highest random weight (Thaler and Ravishankar 1998)."""
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


def usable_endpoints(row: EndpointsRow) -> tuple[Endpoint, ...]:
    """Return the addresses that requests may be sent to, as `Route.endpoints` has them."""
    return tuple(map(_endpoint, _usable(row.endpoints)))


def _usable(rows: tuple[EndpointRow, ...]) -> tuple[EndpointRow, ...]:
    """Return the ready endpoints; if none is ready, the terminating ones that still serve, as kube-proxy (KEP-1669)."""
    ready = tuple(row for row in rows if row.ready)
    return ready or tuple(row for row in rows if row.serving and row.terminating)


def _near(rows: tuple[EndpointRow, ...], zone: str) -> tuple[EndpointRow, ...]:
    """Return the endpoints for `zone` if all endpoints carry hints and at least one names it (KEP-2433); else all."""
    if not zone or not all(row.hints for row in rows):
        return rows
    return tuple(row for row in rows if zone in row.hints) or rows


def _endpoint(row: EndpointRow) -> Endpoint:
    return Endpoint(row.host, row.port, row.zone, row.node, row.pod, row.ready)


def _hash(data: bytes) -> int:
    """Return 64 bits made of two CRCs. Two addresses do not share both."""
    return crc32(data) << 32 | crc32(data[::-1])


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * _MIX[0] & _WORD
    value = (value ^ value >> 27) * _MIX[1] & _WORD
    return value ^ value >> 31
