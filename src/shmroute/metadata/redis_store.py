"""Metadata in Redis: strings by key. Called by the loader, and by `apply --metadata` to write.

One command for a batch of values. Keys without one are looked at more closely, in as few commands as will do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

from redis.cluster import RedisCluster
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from shmroute.metadata.redis_url import Client, target
from shmroute.metadata.store import Absent, Found, Reading, StoreAway, too_large
from shmroute.rows import MetadataState

__all__ = ["RedisStore"]

CONNECT_TIMEOUT_SECONDS: Final = 1.0
"""Beside the pod or in the same data centre a handshake takes milliseconds; one lost packet costs 1 s."""

READ_TIMEOUT_SECONDS: Final = 2.0
"""Redis answers in microseconds and stands still for tens of milliseconds while it forks: 2 s of silence is a hang."""

WRITE_BATCH_KEYS: Final = 500
"""Values written in one go: bounds what the server must buffer."""

MISSING: Final = Absent(MetadataState.MISSING, "no such key")


class RedisStore:
    """Values in Redis.

    Args:
        url: see `shmroute.metadata.redis_url`.
        connect_timeout_seconds, read_timeout_seconds: of each connection; `read` is bounded by them.

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
        self.name, self._connect = target(
            url, connect_timeout_seconds=connect_timeout_seconds, read_timeout_seconds=read_timeout_seconds
        )
        self._client: Client | None = None

    def read(self, keys: Sequence[str], *, limit_bytes: int, measure: Collection[str] = ()) -> Reading:
        """Read the values of `keys`: see `Store.read`.

        Raises:
            StoreAway: no answer within the timeouts, or one that says nothing about the keys.
        """
        try:
            return _read(self._connected(), keys, limit_bytes, measure)
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreAway(_described(error)) from error

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key: see `Store.write`.

        Raises:
            StoreAway: some may have been written.
        """
        try:
            for batch in _batches(values):
                pipeline: Any = self._connected().pipeline(transaction=False)
                for key, value in batch:
                    pipeline.set(key, value)
                pipeline.execute()
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreAway(_described(error)) from error

    def close(self) -> None:
        """Close all connections, also one that is being read from."""
        client: Any = self._client
        if isinstance(client, RedisCluster):
            client.disconnect_connection_pools()  # type: ignore[no-untyped-call]
        elif client is not None:
            client.connection_pool.disconnect(inuse_connections=True)

    def _connected(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client


def _read(client: Client, keys: Sequence[str], limit_bytes: int, measure: Collection[str]) -> Reading:
    found: dict[str, Found] = {}
    commands = 0
    known_large = [key for key in dict.fromkeys(keys) if key in measure]
    if known_large:
        sizes = _pipelined(client, "STRLEN", known_large)
        commands += len(known_large)
        for key, size in zip(known_large, sizes, strict=True):
            if isinstance(size, int) and size > limit_bytes:
                found[key] = too_large(size, limit_bytes)
    wanted = [key for key in dict.fromkeys(keys) if key not in found]
    if wanted:
        values, count = _values(client, wanted)
        commands += count
        unknown = [key for key, value in zip(wanted, values, strict=True) if value is None]
        absent, count = _absent(client, unknown) if unknown else ({}, 0)
        commands += count
        for key, value in zip(wanted, values, strict=True):
            if value is None:
                found[key] = absent[key]
            elif isinstance(value, bytes) and len(value) > limit_bytes:
                found[key] = too_large(len(value), limit_bytes)
            else:
                found[key] = value
    return Reading([found[key] for key in keys], commands)


def _values(client: Client, keys: list[str]) -> tuple[list[Found | None], int]:
    """The values, None where there is no string, and the commands this took."""
    try:
        if isinstance(client, RedisCluster):
            slots = {client.keyslot(key) for key in keys}  # type: ignore[no-untyped-call]
            return cast("list[Found | None]", client.mget_nonatomic(keys)), len(slots)
        return cast("list[Found | None]", client.mget(keys)), 1
    except NoPermissionError:
        # An ACL that allows some keys only refuses all of a batch: one by one, others get theirs.
        answers = _pipelined(client, "GET", keys)
        if all(isinstance(answer, NoPermissionError) for answer in answers):
            raise
        values = [
            Absent(MetadataState.PENDING, _described(answer))
            if isinstance(answer, NoPermissionError)
            else None
            if isinstance(answer, Exception)  # of another type
            else answer
            for answer in answers
        ]
        return values, 1 + len(keys)


def _absent(client: Client, keys: list[str]) -> tuple[dict[str, Absent], int]:
    """Why these keys have no string. One command says so for all that are missing, as most are."""
    try:
        if not client.exists(*keys):
            return dict.fromkeys(keys, MISSING), 1
        types = _pipelined(client, "TYPE", keys)
    except NoPermissionError:  # an ACL that allows MGET and no more
        return dict.fromkeys(keys, MISSING), 1
    reasons = {}
    for key, answer in zip(keys, types, strict=True):
        kind = answer.decode() if isinstance(answer, bytes) else ""
        if kind in ("none", "string", ""):  # a string was written just now: the next attempt reads it
            reasons[key] = MISSING
        else:
            reasons[key] = Absent(MetadataState.WRONG_TYPE, f"the key holds a {kind}, not a string")
    return reasons, 1 + len(keys)


def _pipelined(client: Client, command: str, keys: Sequence[str]) -> list[Any]:
    """`command` for each key, in one round trip; an answer may be an exception that concerns its key."""
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command(command, key)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    return answers


def _batches(values: Mapping[str, bytes]) -> list[list[tuple[str, bytes]]]:
    items = list(values.items())
    return [items[at : at + WRITE_BATCH_KEYS] for at in range(0, len(items), WRITE_BATCH_KEYS)]


def _described(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
