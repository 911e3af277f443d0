"""The Redis store against servers that answer with anything: a value within its limit or a reason, memory bounded."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shmroute.metadata.redis_connection import MAX_ELEMENTS
from shmroute.metadata.redis_store import RedisStore
from shmroute.metadata.store import Absent, StoreUnavailable
from tests.fuzz.mutations import check_told, mutated
from tests.metadata.odd_redis import HANDSHAKE, OddRedis, bulk

LIMIT_BYTES = 100_000
KEYS = ["a", "b", "c"]
VALUES = b"*3\r\n" + bulk(b"value of a") + bulk(None) + bulk(b"x" * 300)
SLOTS = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n" + bulk(b"127.0.0.1") + b":6379\r\n" + bulk(b"0" * 40)
MASTER = b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"6379")
ROLE = b"*3\r\n" + bulk(b"master") + b":3129659\r\n*0\r\n"
ERRORS = [
    b"-MOVED 1 127.0.0.1:1\r\n",
    b"-ASK 1 x\r\n",
    b"-NOPERM no\r\n",
    b"-LOADING\r\n",
    b"-WRONGTYPE x\r\n",
    b"-\r\n",
]
COUNTS = b":1\r\n:2\r\n:0\r\n+string\r\n+none\r\n"

FLOODS = [b"*%d\r\n" % (MAX_ELEMENTS - 1) + each * MAX_ELEMENTS for each in (b"*0\r\n", b":1000\r\n", b"$1\r\nx\r\n")]

GROWTH_BYTES = 64 * 1024 * 1024


class Replies:
    """Answers each command with the next of `replies`, and ends the connection when there is none."""

    def __init__(self) -> None:
        self.left: list[bytes] = []

    def answer(self, command: list[bytes], connection: socket.socket) -> None:
        assert command[0] not in HANDSHAKE
        if self.left:
            connection.sendall(self.left.pop(0))
        if not self.left:
            connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionError  # a command that has come already must not take the next example's reply


REPLIES, PATIENT_REPLIES = Replies(), Replies()
"""Replies of a server whose clients give up after 0.05 s, and of one with patient clients. They are two servers, since
a late reply to an abandoned command would take the reply of a patient client."""


look_up = socket.getaddrinfo


def loopback_only(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
    """Refuse to connect to another machine, which a damaged address may name."""
    if host != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, "not looked up in tests")
    return look_up(host, port, *arguments, **options)


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, RedisStore]]:
    server = OddRedis(socket.create_server(("127.0.0.1", 0)), REPLIES.answer)
    other = OddRedis(socket.create_server(("127.0.0.1", 0)), PATIENT_REPLIES.answer)
    port = server.port
    urls = [f"redis://127.0.0.1:{port}", f"redis+cluster://127.0.0.1:{port}", f"redis+sentinel://127.0.0.1:{port}/main"]
    made = {url.partition(":")[0]: RedisStore(url, read_timeout_seconds=0.05) for url in urls}
    made["patient"] = RedisStore(other.url, read_timeout_seconds=5.0)
    threads = threading.active_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", loopback_only)
        yield made
    for store in made.values():
        store.close()
    server.close()
    other.close()
    assert threading.active_count() <= threads + 50, "those of the server's connections end by themselves"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@example("redis", FLOODS)
@example("redis", [b"*1\r\n" * 5_000])
@example("redis+cluster", [FLOODS[0]])
@given(
    st.sampled_from(["redis", "redis+cluster", "redis+sentinel"]),
    st.lists(mutated([VALUES, SLOTS, MASTER, ROLE, COUNTS, *ERRORS]) | st.binary(max_size=200), max_size=5),
)
def test_any_reply_is_a_value_or_a_reason(stores: dict[str, RedisStore], scheme: str, replies: list[bytes]) -> None:
    REPLIES.left = list(replies)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = stores[scheme].read(KEYS, limit_bytes=LIMIT_BYTES, batch_bytes=1_000_000).found
    except StoreUnavailable as error:
        check_told(error)
        return
    finally:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < GROWTH_BYTES
    assert found
    assert set(found) <= set(KEYS)
    for value in found.values():
        assert isinstance(value, (bytes, Absent))
        assert not isinstance(value, bytes) or len(value) <= LIMIT_BYTES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(mutated([VALUES]), min_size=1, max_size=4))
def test_a_valid_reply_after_a_damaged_one_is_read(stores: dict[str, RedisStore], replies: list[bytes]) -> None:
    store = stores["patient"]
    for reply in replies:
        PATIENT_REPLIES.left = [reply]
        try:
            store.read(KEYS, limit_bytes=LIMIT_BYTES, batch_bytes=1_000_000)
        except StoreUnavailable as error:
            check_told(error)
    PATIENT_REPLIES.left = [VALUES, b":0\r\n"]
    found = store.read(KEYS, limit_bytes=LIMIT_BYTES, batch_bytes=1_000_000).found
    assert (found["a"], found["c"]) == (b"value of a", b"x" * 300)
