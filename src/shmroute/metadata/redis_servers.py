"""Find the server of each key: one server, the master that Sentinel names, or the nodes of a Cluster.

Called by `redis_store`, from one thread, except for `close`.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, NoPermissionError, ResponseError

from shmroute.metadata.redis_connection import Exchange, RedisServer, explain
from shmroute.metadata.retry_delays import store_backoff
from shmroute.metadata.store import StoreUnavailable

Address: TypeAlias = tuple[str, int]

Connect: TypeAlias = Callable[[Address], RedisServer]
"""Makes a server; its first command connects."""

REFRESH_SECONDS: Final = 1.0
"""Minimum seconds between two requests for a Cluster's slots while some of its nodes are unavailable: a fail-over
takes several seconds, and each request is one command."""


class Share(NamedTuple):
    """Keys and their server; or, without a server, the reason why they cannot be read now."""

    server: RedisServer | None
    keys: list[str]
    problem: str = ""


class Servers(Protocol):
    """Finds the server of each key."""

    together: bool
    """Whether one command can read any keys of one server; in a Cluster only keys of one slot."""
    hint: str
    """Advice added to errors of a server of another kind than the URL says."""

    def shares(self, keys: Sequence[str], new_exchange: Callable[[], Exchange]) -> list[Share]:
        """Return the keys by server.

        Raises:
            StoreUnavailable: no server is known.
        """

    def failed(self, server: RedisServer) -> None:
        """Note that a server could not be read."""

    def answered(self, server: RedisServer) -> None:
        """Note that a server has been read."""

    def moved(self, error: AskError) -> RedisServer:
        """Return the server that a MOVED or ASK error names."""

    def close(self) -> None:
        """Close all connections. Any thread."""


class _OneAtATime:
    """The part of `Servers` that holds wherever one server has all keys."""

    together = True
    hint = "this server is a node of a Redis Cluster: write redis+cluster:// (or rediss+cluster://) in the URL"

    def answered(self, server: RedisServer) -> None:
        """Do nothing."""

    def moved(self, error: AskError) -> RedisServer:
        raise StoreUnavailable(f"{explain(error)}: {self.hint}") from error


class OneServer(_OneAtATime):
    """One server has all keys."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def shares(self, keys: Sequence[str], new_exchange: Callable[[], Exchange]) -> list[Share]:  # noqa: ARG002
        return [Share(self._server, list(keys))]

    def failed(self, server: RedisServer) -> None:
        """Do nothing: the next read connects again."""

    def close(self) -> None:
        self._server.close()


class SentinelMaster(_OneAtATime):
    """The master of `service`, which the Sentinels name; they are asked again whenever it cannot be read."""

    def __init__(self, sentinels: Iterable[RedisServer], service: str, connect: Connect) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._connect = connect
        self._master: RedisServer | None = None

    def shares(self, keys: Sequence[str], new_exchange: Callable[[], Exchange]) -> list[Share]:
        if self._master is None:
            self._master = self._find(new_exchange)
        return [Share(self._master, list(keys))]

    def failed(self, server: RedisServer) -> None:
        server.close()
        self._master = None

    def close(self) -> None:
        for server in (*self._sentinels, self._master):
            if server is not None:
                server.close()

    def _find(self, new_exchange: Callable[[], Exchange]) -> RedisServer:
        """Ask the Sentinels in turn, and check that the server they name is a master, as in Redis' guide for clients
        (https://redis.io/docs/latest/develop/reference/sentinel-clients/)."""
        problem = "no Sentinel is configured"
        for sentinel in self._sentinels:
            try:
                [address] = sentinel.ask([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)], new_exchange())
            except StoreUnavailable as error:
                problem = f"Sentinel {sentinel.name}: {error}"
                continue
            match address:
                case [bytes() as host, bytes() as port] if port.isdigit():
                    master = self._connect((host.decode(errors="replace"), int(port)))
                case None:
                    problem = f"Sentinel {sentinel.name} knows no service {self._service!r}"
                    continue
                case _:
                    problem = f"Sentinel {sentinel.name} names no master: {explain_reply(address)}"
                    continue
            try:
                [role] = master.ask([("ROLE",)], new_exchange())
            except StoreUnavailable as error:
                problem = f"master {master.name}: {error}"
                continue
            if isinstance(role, NoPermissionError) or (isinstance(role, list) and role[:1] == [b"master"]):
                return master
            master.close()
            problem = f"{master.name} is not a master yet, though Sentinel {sentinel.name} names it"
        raise StoreUnavailable(problem)


class _Node:
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.backoff = store_backoff()
        self.not_before = 0.0
        self.problem = ""


class Cluster:
    """The nodes of a Cluster. If no known node answers, asks the configured addresses which node has which slots.

    A node that failed is left out for a while, longer each time, so that it does not delay reads from the others.
    """

    together = False
    hint = "this server is not a node of a Redis Cluster: write redis:// (or rediss://) in the URL"

    def __init__(self, start: Sequence[Address], connect: Connect) -> None:
        self._start = list(start)
        self._connect = connect
        self._nodes: dict[Address, _Node] = {}
        self._firsts: list[int] = []
        """First slot of each range, sorted."""
        self._ranges: list[tuple[int, Address]] = []
        """Last slot and master of each range."""
        self._outdated = True
        self._refreshed = -REFRESH_SECONDS

    def shares(self, keys: Sequence[str], new_exchange: Callable[[], Exchange]) -> list[Share]:
        now = time.monotonic()
        if self._outdated and now - self._refreshed >= REFRESH_SECONDS:
            self._refresh(new_exchange)
            self._refreshed = now
        if not self._ranges:
            raise StoreUnavailable("the nodes of the Cluster are not known yet")
        shares: dict[Address | None, Share] = {}
        for key in keys:
            slot = key_slot(key.encode())
            index = bisect_right(self._firsts, slot) - 1
            address = self._ranges[index][1] if index >= 0 and slot <= self._ranges[index][0] else None
            if address not in shares:
                shares[address] = self._share(address, now)
            shares[address].keys.append(key)
        return list(shares.values())

    def _share(self, address: Address | None, now: float) -> Share:
        if address is None:
            self._outdated = True
            return Share(None, [], "no node of the Cluster has the slot of this key")
        node = self._node(address)
        if now < node.not_before:
            return Share(None, [], node.problem)
        return Share(node.server, [])

    def failed(self, server: RedisServer) -> None:
        self._outdated = True
        for node in self._nodes.values():
            if node.server is server:
                node.not_before = time.monotonic() + node.backoff.failed()
                node.problem = f"node {server.name} of the Cluster is unavailable"

    def answered(self, server: RedisServer) -> None:
        for node in self._nodes.values():
            if node.server is server:
                node.backoff.reset()
                node.not_before = 0.0

    def moved(self, error: AskError) -> RedisServer:
        self._outdated = self._outdated or isinstance(error, MovedError)
        return self._node((str(error.host), int(error.port))).server

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.server.close()

    def _node(self, address: Address) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = _Node(self._connect(address))
        return node

    def _refresh(self, new_exchange: Callable[[], Exchange]) -> None:
        """Learn the slots from the first node that answers: first the known nodes, then the configured ones.

        Raises:
            StoreUnavailable: no node answers, and the slots are not known from before.
        """
        problem = ""
        now = time.monotonic()
        known = [address for address, node in self._nodes.items() if now >= node.not_before]
        for address in dict.fromkeys([*known, *self._start]):
            server = self._node(address).server
            try:
                [slots] = server.ask([("CLUSTER", "SLOTS")], new_exchange())
                self._learn(slots, address)
            except StoreUnavailable as error:
                self.failed(server)
                problem = f"{server.name}: {error}"
            else:
                self._outdated = False
                return
        if not self._ranges:
            raise StoreUnavailable(problem)

    def _learn(self, slots: Any, asked: Address) -> None:
        """Take the reply to CLUSTER SLOTS. A node without a host is the node that was asked."""
        if isinstance(slots, ResponseError):
            hint = f": {self.hint}" if "cluster support disabled" in str(slots) else ""
            raise StoreUnavailable(f"{explain(slots)}{hint}") from slots
        ranges: dict[int, tuple[int, Address]] = {}
        for each in slots if isinstance(slots, list) else [None]:
            match each:
                case [int() as first, int() as last, [bytes() | None as host, int() as port, *_], *_]:
                    name = asked[0] if host in (None, b"", b"?") else host.decode(errors="replace")
                    ranges[first] = last, (name, port)
                case _:
                    raise StoreUnavailable(f"the reply to CLUSTER SLOTS cannot be read: {explain_reply(each)}")
        if not ranges:
            raise StoreUnavailable("the Cluster has no slots yet")
        self._firsts = sorted(ranges)
        self._ranges = [ranges[first] for first in self._firsts]
        keep = {address for _, address in self._ranges} | set(self._start)
        for address in [address for address in self._nodes if address not in keep]:
            self._nodes.pop(address).server.close()


def explain_reply(reply: object) -> str:
    """Return an unexpected reply, in one line of limited length."""
    return explain(reply) if isinstance(reply, Exception) else repr(reply)[:80]
