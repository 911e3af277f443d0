"""Metadata in Redis: strings by key. Called by the loader, and by `apply --metadata` to write.

One command reads a batch of values (in a Cluster one for each slot). Keys without a value cost at most two more round
trips, however many they are. A value over the limit is refused by its announced length, before it is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, ResponseError

from shmroute.metadata.redis_connection import Command, Exchange, RedisServer, ReplyTooLarge, explain
from shmroute.metadata.redis_servers import explain_reply
from shmroute.metadata.redis_url import servers_at
from shmroute.metadata.store import Absent, Found, Reading, StoreUnavailable, too_large
from shmroute.rows import MetadataState

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS: Final = 1.0
"""Longest wait for one connection attempt, in seconds. In the same data centre a handshake takes milliseconds; one lost
packet costs 1 s."""

READ_TIMEOUT_SECONDS: Final = 2.0
"""Longest silence, in seconds. Redis answers in microseconds and forks in tens of milliseconds: 2 s is a hang."""

EXCHANGE_TIMEOUTS: Final = 5
"""Number of read timeouts that all answers of one server to one `read` may take, 10 s: 8 MiB take 7 s at 10 Mbit/s."""

WRITE_BATCH_KEYS: Final = 500
"""Number of values written in one exchange: limits the server's buffer."""

MISSING: Final = Absent(MetadataState.MISSING, "no such key")


class RedisStore:
    """Values in Redis.

    Args:
        url: see `shmroute.metadata.redis_url`.
        connect_timeout_seconds, read_timeout_seconds: defaults of the URL's `socket_connect_timeout` (for one attempt
            to connect) and `socket_timeout` (for one silence); all answers of a server to one `read` take at most 5
            times the latter.

    Raises:
        ConfigError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self.name, self._servers, read_timeout = servers_at(
            url, connect_timeout_seconds=connect_timeout_seconds, read_timeout_seconds=read_timeout_seconds
        )
        self._seconds = read_timeout * EXCHANGE_TIMEOUTS

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        """Read the values of `keys`: see `Store.read`. If some servers of a Cluster fail, the others are read.

        Raises:
            StoreUnavailable: no server could be read.
        """
        shares = self._servers.shares(list(dict.fromkeys(keys)), lambda: Exchange(self._seconds))
        found: dict[str, Found] = {}
        commands = size = 0
        failures: list[str] = []
        for server, share_keys, problem in shares:
            if size >= batch_bytes:
                break
            if server is None:
                failures.append(problem)
                found.update(dict.fromkeys(share_keys, Absent(MetadataState.PENDING, problem)))
                continue
            exchange = Exchange(self._seconds, limit_bytes, batch_bytes)
            one = _ShareRead(self._servers.moved, server, self._group(share_keys), exchange, limit_bytes)
            try:
                one.read(check_size_first)
            except StoreUnavailable as error:
                self._servers.failed(server)
                problem = f"{server.name}: {error}" if len(shares) > 1 else self._with_hint(error)
                if not one.found:
                    failures.append(problem)
                for key in share_keys:
                    one.found.setdefault(key, Absent(MetadataState.PENDING, problem))
            else:
                self._servers.answered(server)
            found.update(one.found)
            commands += one.commands
            size += sum(len(value) for value in one.found.values() if isinstance(value, bytes))
        if len(failures) == len(shares):
            raise StoreUnavailable(failures[0])
        return Reading(found, commands)

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key: see `Store.write`.

        Raises:
            StoreUnavailable: some values may have been written.
        """
        for server, keys, problem in self._servers.shares(list(values), lambda: Exchange(self._seconds)):
            if server is None:
                raise StoreUnavailable(problem)
            for at in range(0, len(keys), WRITE_BATCH_KEYS):
                batch = keys[at : at + WRITE_BATCH_KEYS]
                try:
                    replies = server.ask([("SET", key, values[key]) for key in batch], Exchange(self._seconds))
                except StoreUnavailable:
                    self._servers.failed(server)
                    raise
                for reply in replies:
                    if isinstance(reply, AskError):
                        self._servers.moved(reply)
                    if isinstance(reply, Exception):
                        raise StoreUnavailable(self._with_hint(reply)) from reply

    def close(self) -> None:
        """Close all connections, also during a `read` of another thread."""
        self._servers.close()

    def _group(self, keys: list[str]) -> list[list[str]]:
        """Return groups of keys that one command can read: in a Cluster, the keys of one slot."""
        if self._servers.together:
            return [keys]
        groups: dict[int, list[str]] = {}
        for key in keys:
            groups.setdefault(key_slot(key.encode()), []).append(key)
        return list(groups.values())

    def _with_hint(self, error: Exception) -> str:
        cause = error.__cause__ or error
        wrong_kind = isinstance(cause, (ClusterCrossSlotError, ClusterDownError)) and self._servers.together
        return f"{explain(error)}: {self._servers.hint}" if wrong_kind else explain(error)


class _ShareRead:
    """Reads the keys of one server. `found` holds the results, also if `read` fails halfway."""

    def __init__(
        self,
        moved: Callable[[AskError], RedisServer],
        server: RedisServer,
        groups: list[list[str]],
        exchange: Exchange,
        limit_bytes: int,
    ) -> None:
        self._moved = moved
        self._server = server
        self._groups = groups
        self._exchange = exchange
        self._limit_bytes = limit_bytes
        self.found: dict[str, Found] = {}
        self.commands = 0

    def read(self, check_size_first: Collection[str]) -> None:
        """Read the groups, or as many keys as fit into the limits.

        Raises:
            StoreUnavailable: see `RedisServer.ask`.
        """
        self._find_large([key for group in self._groups for key in group if key in check_size_first])
        groups = [left for group in self._groups if (left := [key for key in group if key not in self.found])]
        while groups:
            try:
                replies = self._ask(self._server, [("MGET", *group) for group in groups])
            except ReplyTooLarge as error:
                if error.size_bytes:
                    self._note_large(groups, error)
                    return  # the loader requests the others again, and asks for their sizes first
                if sum(map(len, groups)) == 1:
                    raise StoreUnavailable(f"the server answers MGET of one key with {error}") from error
                groups = _first_half(groups)
            else:
                self._take(groups, replies)
                return

    def _ask(self, server: RedisServer, commands: list[Command]) -> list[Any]:
        self.commands += len(commands)
        return server.ask(commands, self._exchange.again())

    def _take(self, groups: list[list[str]], replies: list[Any]) -> None:
        """Take the replies to one MGET for each group."""
        values: dict[str, Any] = {}
        for group, reply in zip(groups, replies, strict=True):
            if isinstance(reply, list) and len(reply) == len(group):
                values.update(zip(group, reply, strict=True))
            elif isinstance(reply, ClusterCrossSlotError):
                raise StoreUnavailable(explain(reply)) from reply
            elif isinstance(reply, ResponseError):
                # An ACL that forbids some of the keys refuses the whole command, and so does a slot that is moving to
                # another node. Read key by key, the other keys get their values.
                values.update(self._one_by_one(group))
            else:
                raise StoreUnavailable(
                    f"the reply to MGET does not have one element for each key: {explain_reply(reply)}"
                )
        self._sort_out(values)

    def _one_by_one(self, keys: list[str]) -> dict[str, Any]:
        """Send GET for each key alone, following the redirects of a Cluster (MOVED, ASK). Return key -> reply."""
        values: dict[str, Any] = dict(zip(keys, self._ask(self._server, [("GET", key) for key in keys]), strict=True))
        redirected: dict[RedisServer, list[str]] = {}
        for key, value in values.items():
            if isinstance(value, AskError):
                redirected.setdefault(self._moved(value), []).append(key)
        for server, moved in redirected.items():
            replies = self._ask(server, [command for key in moved for command in (("ASKING",), ("GET", key))])
            values.update(zip(moved, replies[1::2], strict=True))
        return values

    def _sort_out(self, values: dict[str, Any]) -> None:
        """Note values, and errors for refused keys; ask why the other keys have no value."""
        without: list[str] = []
        for key, value in values.items():
            if isinstance(value, bytes):
                size = len(value)
                self.found[key] = value if size <= self._limit_bytes else too_large(size, self._limit_bytes)
            elif value is None or str(value).startswith("WRONGTYPE"):
                without.append(key)
            elif isinstance(value, ResponseError):
                self.found[key] = Absent(MetadataState.PENDING, explain(value))
            else:
                raise StoreUnavailable(f"the reply to MGET has {explain_reply(value)} for a value")
        refusals = [value for value in values.values() if isinstance(value, ResponseError)]
        if len(refusals) == len(values) and not without:
            self.found = {key: found for key, found in self.found.items() if key not in values}
            raise StoreUnavailable(explain(refusals[0])) from refusals[0]
        if without:
            self._explain_absent(without)

    def _explain_absent(self, keys: list[str]) -> None:
        """Note why these keys have no string. One EXISTS finds the missing ones, usually all.

        A user without the right to EXISTS or TYPE (an ACL with only MGET) gets "no such key" for other types too.
        """
        asked = set(keys)
        groups = [left for group in self._groups if (left := [key for key in group if key in asked])]
        counts = self._ask_small([("EXISTS", *group) for group in groups])
        untyped = [key for group, count in zip(groups, counts, strict=True) if count != 0 for key in group]
        self.found.update(dict.fromkeys(keys, MISSING))
        for key, reply in zip(untyped, self._ask_small([("TYPE", key) for key in untyped]), strict=True):
            kind = reply.decode(errors="replace")[:40] if isinstance(reply, bytes) else ""
            if kind not in ("none", "string", ""):  # a string was just written: the next read finds it
                self.found[key] = Absent(MetadataState.WRONG_TYPE, f"the key holds a {kind}, not a string")

    def _find_large(self, keys: list[str]) -> None:
        """Note the keys whose values are over the limit, without reading them. An ACL may forbid STRLEN."""
        for key, size in zip(keys, self._ask_small([("STRLEN", key) for key in keys]), strict=True):
            if isinstance(size, int) and size > self._limit_bytes:
                self.found[key] = too_large(size, self._limit_bytes)

    def _note_large(self, groups: list[list[str]], error: ReplyTooLarge) -> None:
        """Note the refused value, and all others that are too large."""
        try:
            key = groups[error.reply][error.element]
        except IndexError:
            raise StoreUnavailable("the server has sent more replies than it was asked for") from error
        self.found[key] = too_large(error.size_bytes, self._limit_bytes)
        self._find_large([each for group in groups for each in group if each != key])

    def _ask_small(self, commands: list[Command]) -> list[Any]:
        """Return the replies to commands with small replies. A reply may be an error."""
        if not commands:
            return []
        try:
            return self._ask(self._server, commands)
        except ReplyTooLarge as error:
            raise StoreUnavailable(f"the server's reply to {commands[0][0]} is too large") from error


def _first_half(groups: list[list[str]]) -> list[list[str]]:
    """Return half of the keys, at least one: the values of all together were over the limit."""
    keep = max(1, sum(map(len, groups)) // 2)
    kept = []
    for group in groups:
        if keep > 0:
            kept.append(group[:keep])
            keep -= len(group)
    return kept
