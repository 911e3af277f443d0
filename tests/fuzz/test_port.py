"""The watcher's port under clients that send anything, in any pieces: it answers a probe at once, always."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shmroute.sources.base import Replaced
from shmroute.sources.threads import ThreadStatus
from shmroute.watcher import http as http_module
from shmroute.watcher.http import HttpServer, serve
from tests.fuzz.bounds import Bounds
from tests.fuzz.mutations import mutated
from tests.leftovers import new_area, remove_area
from tests.watcher.running import appmodel, running, wait_for

assert settings.default is not None
EXAMPLES = settings.default.max_examples // 4
"""Number of examples; each takes 20 ms."""

ANSWER_SECONDS = 10.0
"""Longest wait for an answer to a probe, in seconds. It takes milliseconds, except on a busy machine."""

OPEN = 40
"""Number of connections of hostile clients left open at a time."""

PATHS = (
    b"/healthz",
    b"/readyz",
    b"/metrics",
    b"/",
    b"/api/status",
    b"/api/models?search=o&start=0&limit=9",
    b"/api/models/one",
)
REQUESTS = [
    *(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in PATHS),
    b"GET /?search=%ff&model=%00&start=-1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: */*\r\n\r\n",
    b"POST /api/models HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n1234567",
    b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nExpect: 100-continue\r\nHost: [::1]:80\r\n\r\n",
]


class Port:
    """A watcher's port, and its hostile clients."""

    def __init__(self, server: HttpServer, threads: Callable[[], tuple[ThreadStatus, ...]]) -> None:
        self.server = server
        self.threads = threads
        self.bounds = Bounds(spare_threads=8)  # asyncio's pool, which makes its threads as they are needed
        self.clients: list[socket.socket] = []

    def send(self, pieces: list[bytes], leave: bool) -> None:
        client = socket.create_connection(("127.0.0.1", self.server.port), ANSWER_SECONDS)
        with suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
        if not leave:
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)
                client.settimeout(0.05)
                client.recv(65_536)
            client.close()
            return
        self.clients.append(client)
        while len(self.clients) > OPEN:
            self.clients.pop(0).close()

    def check(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=ANSWER_SECONDS)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok\n")
        connection.close()
        assert all(thread.alive and not thread.restarts for thread in self.threads())
        assert len(self.server._server.server_state.connections) <= http_module.MAX_CONNECTIONS
        self.bounds.check()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    area = new_area()
    try:
        with running(area) as it:
            it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two"))))
            it.source.in_step()
            wait_for(lambda: it.watcher.status.synced)
            made = Port(serve(it.watcher, "127.0.0.1:0", "all"), lambda: it.watcher.status.threads)
            yield made
            made.close()
    finally:
        remove_area(area)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=EXAMPLES,
)
@example(data=b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, cuts=[], leave=True)
@example(data=b"GET /" + b"a" * 100_000, cuts=[], leave=True)
@example(
    data=b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1_000_000, cuts=[], leave=True
)
@given(
    data=st.lists(mutated(REQUESTS) | st.sampled_from(REQUESTS) | st.binary(max_size=60), min_size=1, max_size=4).map(
        b"".join
    ),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    leave=st.booleans(),
)
def test_health_probes_are_answered_during_hostile_requests(
    port: Port, data: bytes, cuts: list[int], leave: bool
) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    port.send([data[start:end] for start, end in zip([0, *ends], ends, strict=False)], leave)
    began = time.monotonic()
    port.check()
    assert time.monotonic() - began < ANSWER_SECONDS
