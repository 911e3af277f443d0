"""An odd, hostile or broken server makes the store unavailable within bounded time, and nothing else."""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from shmroute.metadata.redis_connection import MAX_ELEMENTS
from shmroute.metadata.redis_store import RedisStore
from shmroute.metadata.store import Absent, StoreUnavailable
from shmroute.rows import MetadataState
from tests.metadata.odd_redis import Answer, always, bulk, mget, odd_redis, well_formed
from tests.metadata.redis_groups import wait_for
from tests.redis_server import RedisServer

MIB = 1024 * 1024
LIMIT_BYTES = MIB


@contextmanager
def store_at(answer: Answer, *, scheme: str = "redis", **options: float) -> Iterator[RedisStore]:
    with odd_redis(answer) as server:
        store = RedisStore(server.url.replace("redis", scheme), **options)
        try:
            yield store
        finally:
            store.close()


def read(store: RedisStore, *keys: str) -> dict[str, bytes | Absent]:
    return store.read(keys, limit_bytes=LIMIT_BYTES, batch_bytes=8 * MIB).found


def test_valid_replies_of_the_test_server_are_read() -> None:
    with store_at(mget({b"a": b"1", b"b": b""})) as store:
        assert read(store, "a", "b", "c") == {"a": b"1", "b": b"", "c": Absent(MetadataState.MISSING, "no such key")}


OUT_OF_SHAPE = {
    "deep": b"*1\r\n" * 5_000 + b":1\r\n",
    "not a length": b"$abc\r\n",
    "not a count": b"*two\r\n",
    "negative": b"*-7\r\n",
    "huge number": b"*99999999999999999999\r\n",
    "no number": b"$\r\n",
    "many elements": b"*%d\r\n" % (MAX_ELEMENTS + 1),
    "too few": b"*1\r\n$1\r\nx\r\n",
    "too many": b"*3\r\n" + b"$1\r\nx\r\n" * 3,
    "more replies": b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n" * 2,
    "begun reply": b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n*1\r\n",
    "numbers": b"*2\r\n:1\r\n:2\r\n",
    "arrays": b"*2\r\n*0\r\n*0\r\n",
    "errors inside": b"*2\r\n-ERR a\r\n-ERR b\r\n",
    "status": b"+OK\r\n",
    "number": b":1\r\n",
    "one value": b"$1\r\nx\r\n",
    "nothing": b"*-1\r\n",
    "empty": b"*0\r\n",
    "blank line": b"\r\n",
    "no carriage return": b"*2\n$1\nx\n$1\ny\n",
    "value longer than it says": b"*2\r\n$1\r\nxx\r\n$1\r\ny\r\n",
    "other protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "resp3": b"%1\r\n+a\r\n+b\r\n",
    "endless line": b"+" + b"x" * 200_000,
    "not text": bytes(range(256)),
    "error without text": b"-\r\n",
    "moved without an address": b"-MOVED\r\n",
    "ask without a port": b"-ASK 1 host\r\n",
}


@pytest.mark.parametrize("kind", OUT_OF_SHAPE)
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_reply_out_of_shape_makes_the_store_unavailable(kind: str, scheme: str) -> None:
    with (
        store_at(always(OUT_OF_SHAPE[kind]), scheme=scheme, read_timeout_seconds=0.1) as store,
        pytest.raises(StoreUnavailable) as caught,
    ):
        read(store, "a", "b")
    assert 0 < len(str(caught.value)) < 500


def test_reply_out_of_shape_is_followed_by_right_ones() -> None:
    replies = iter([b"*2\r\n:1\r\n:2\r\n", b"*1\r\n" * 5_000, b"*2\r\n" + bulk(b"1") + bulk(b"2")])
    with store_at(lambda _, connection: connection.sendall(next(replies))) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                read(store, "a", "b")
        assert read(store, "a", "b") == {"a": b"1", "b": b"2"}


def test_unsolicited_replies_are_never_used_for_later_commands() -> None:
    """The second reply comes after the first has been read."""

    def answer(command: list[bytes], connection: socket.socket) -> None:
        connection.sendall(b"".join(well_formed(command, {b"a": b"of a", b"b": b"of b"})))
        if command[1] == b"a":
            connection.sendall(b"*1\r\n" + bulk(b"of nobody"))

    with store_at(answer) as store:
        for _ in range(20):
            try:
                found = read(store, "a")
            except StoreUnavailable:  # the second reply came together with the first
                continue
            assert found == {"a": b"of a"}
            guard = cast("Any", store)._servers._server._connection.guard
            wait_for(lambda guard=guard: guard.has_unread)  # type: ignore[misc]
            assert read(store, "b") == {"b": b"of b"}


# --- time --------------------------------------------------------------------------------------------------


def drip(_: list[bytes], connection: socket.socket) -> None:
    for byte in b"*2\r\n$1000\r\n" + b"x" * 10_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def test_one_byte_at_a_time_ends_at_the_deadline_of_the_exchange() -> None:
    started = time.monotonic()
    with store_at(drip, read_timeout_seconds=0.4) as store, pytest.raises(StoreUnavailable, match="within 2 s"):
        read(store, "a", "b")
    assert time.monotonic() - started < 10, "in all 200 s of bytes were to come"


def test_silence_ends_at_the_read_timeout() -> None:
    with (
        store_at(lambda _c, _s: None, read_timeout_seconds=0.1) as store,
        pytest.raises(StoreUnavailable, match=r"Timeout|timed out"),
    ):
        read(store, "a")


def test_connections_that_are_reset_make_the_store_unavailable() -> None:
    def reset(_: list[bytes], connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        raise OSError

    with store_at(reset) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                read(store, "a")


# --- size --------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_value_announced_over_the_limit_is_not_read(scheme: str) -> None:
    """The server announces 400 MB and more, and counts the bytes read before the connection is closed."""
    sent = [0]

    def answer(command: list[bytes], connection: socket.socket) -> None:
        if command[0] == b"CLUSTER":
            port = connection.getsockname()[1]
            connection.sendall(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port)
        elif command[0] == b"MGET" and b"large" in command:
            connection.sendall(b"*%d\r\n" % (len(command) - 1))
            for key in command[1:]:
                if key != b"large":
                    connection.sendall(bulk(key))
                    continue
                connection.sendall(b"$%d\r\n" % (400 * MIB))
                for _ in range(400):
                    connection.sendall(b"x" * MIB)
                    sent[0] += MIB
        else:
            connection.sendall(b"".join(well_formed(command, {b"a": b"a", b"b": b"b"})))

    before = peak_bytes()
    with store_at(answer, scheme=scheme) as store:
        found = read(store, "a", "large", "b")
        too_large = Absent(MetadataState.TOO_LARGE, f"the value has {400 * MIB} bytes, the limit is {LIMIT_BYTES}")
        assert found.pop("large") == too_large
        found.update(read(store, *({"a", "b"} - found.keys())))
        assert found == {"a": b"a", "b": b"b"}
    assert sent[0] <= 32 * MIB, "what the sockets' buffers hold"
    assert peak_bytes() - before < 32 * MIB


def test_replies_that_never_end_are_bounded_in_bytes() -> None:
    def endless(_: list[bytes], connection: socket.socket) -> None:
        connection.sendall(b"*%d\r\n" % (MAX_ELEMENTS - 10))
        while True:
            connection.sendall(bulk(b"x" * 60_000))

    before = peak_bytes()
    with store_at(endless) as store, pytest.raises(StoreUnavailable):
        read(store, "a")
    assert peak_bytes() - before < 64 * MIB


def test_values_that_are_large_in_total_are_read_in_parts(redis_server: RedisServer) -> None:
    values = {f"key-{number}": bytes([number]) * MIB for number in range(40)}
    with redis_server.client() as client:
        client.mset(values)
    store = RedisStore(redis_server.url)
    before = peak_bytes()
    left = dict(values)
    rounds = 0
    while left:
        found = read(store, *left)
        assert 0 < sum(len(value) for value in found.values() if isinstance(value, bytes)) <= 10 * MIB
        for key, value in found.items():
            assert value == left.pop(key)
        rounds += 1
    store.close()
    assert 5 <= rounds <= 10
    assert peak_bytes() - before < 64 * MIB


@pytest.mark.parametrize("rules", ["+@read", "+mget"])
def test_values_over_the_limit_do_not_block_the_others(redis_server: RedisServer, rules: str) -> None:
    """This includes a user whose ACL forbids reading sizes."""
    with redis_server.client() as client:
        client.mset({f"large-{number}": b"x" * (5 * MIB) for number in range(5)})
        client.mset({f"small-{number}": b"%d" % number for number in range(20)})
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", rules)
    store = RedisStore(f"redis://reader:secret@127.0.0.1:{redis_server.port}")
    left = [f"{kind}-{number}" for number in range(5) for kind in ("small", "large")]
    left += [f"small-{number}" for number in range(5, 20)]
    found: dict[str, bytes | Absent] = {}
    for _ in range(7):
        found.update(read(store, *(key for key in left if key not in found)))
        if len(found) == len(left):
            break
    store.close()
    for key in left:
        value = found[key]
        assert value == key[6:].encode() if key.startswith("small") else isinstance(value, Absent)
