"""The shutdown of `shmroute.contrib.hypercorn`: what has been accepted is answered before it is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config, Sockets
from hypercorn.events import RawData

from shmroute.contrib import hypercorn
from tests.contrib.http_client import LONG_SECONDS, Connection

SHORT_SECONDS = 0.05


class Serving:
    """A worker, its clients, and the requests that wait in its application."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ending = asyncio.Event()
        self.go_on = asyncio.Event()
        self.entered = asyncio.Event()
        self.running: list[TCPServer] = []
        self.connections: list[Connection] = []

    async def connect(self) -> Connection:
        """A connection, once the worker has accepted it."""
        before = len(self.running)
        connection = Connection(*await asyncio.open_connection(*self.listener.getsockname()))
        self.connections.append(connection)
        while len(self.running) == before:
            await asyncio.sleep(0)
        return connection

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.entered.set()
        if scope["path"] == "/later":
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        if scope["path"] == "/slow":
            await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    async def shut_down(self) -> None:
        """Have the worker end, as a signal does, and wait until it has stopped listening."""
        self.ending.set()
        while self.listener.fileno() != -1:
            await asyncio.sleep(0.01)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[TCPServer]:
    """The connections that the worker has begun with."""
    begun: list[TCPServer] = []
    original = hypercorn.TCPServer._idle_timeout

    async def idle(self: hypercorn.TCPServer) -> None:
        begun.append(self)
        await original(self)

    monkeypatch.setattr(hypercorn.TCPServer, "_idle_timeout", idle)
    return begun


@asynccontextmanager
async def serving(running: list[TCPServer]) -> AsyncIterator[Serving]:
    """A worker in this loop; it ends by itself once `shut_down` was called."""
    found = Serving()
    found.running = running
    config = Config()
    config.errorlog = None
    config.keep_alive_timeout = config.graceful_timeout = 2 * LONG_SECONDS  # what ends earlier ends for another reason
    worker = asyncio.create_task(
        run.worker_serve(
            ASGIWrapper(found.application),
            config,
            sockets=Sockets([], [found.listener], []),
            shutdown_trigger=found.ending.wait,
        )
    )
    try:
        yield found
        await asyncio.wait_for(worker, LONG_SECONDS)
    finally:
        found.ending.set()
        worker.cancel()
        await asyncio.wait([worker], timeout=LONG_SECONDS)
        for connection in found.connections:
            connection.writer.close()
        found.listener.close()


def test_a_request_on_a_connection_that_was_accepted_before_is_answered(running: list[TCPServer]) -> None:
    async def main() -> None:
        async with serving(running) as here:
            connection = await here.connect()
            await here.shut_down()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


def test_the_next_request_of_a_connection_is_answered_as_its_last(running: list[TCPServer]) -> None:
    async def main() -> None:
        async with serving(running) as here:
            connection = await here.connect()
            connection.send()
            assert await connection.answer() == (False, b"ok")
            await here.shut_down()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


def test_an_answer_that_has_not_begun_says_that_it_is_the_last(running: list[TCPServer]) -> None:
    async def main() -> None:
        async with serving(running) as here:
            connection = await here.connect()
            connection.send(b"later")
            await here.entered.wait()
            await here.shut_down()
            here.go_on.set()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


def test_a_request_that_comes_at_the_moment_of_the_end_is_answered(running: list[TCPServer]) -> None:
    async def main() -> None:
        async with serving(running) as here:
            connection = await here.connect()
            server = running[-1]
            await server.context.terminated.set()
            await server.protocol.handle(RawData(b"GET /now HTTP/1.1\r\nHost: here\r\n\r\n"))
            assert await connection.answer() == (True, b"ok")
            await here.shut_down()

    asyncio.run(main())


def test_a_connection_on_which_nothing_comes_is_closed_and_does_not_keep_the_worker(
    running: list[TCPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypercorn, "LINGER_SECONDS", SHORT_SECONDS)

    async def main() -> None:
        async with serving(running) as here:
            connection = await here.connect()
            await here.shut_down()
            assert await connection.is_closed()

    asyncio.run(main())


def test_connections_that_are_accepted_in_the_turn_in_which_the_worker_stops_are_answered(
    running: list[TCPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[socket.socket] = []
    close = hypercorn._Listening.close

    def accept_and_close(listening: Any) -> None:
        loop = asyncio.get_running_loop()
        (listener,) = listening._server.sockets
        clients.extend(socket.create_connection(listener.getsockname()) for _ in range(3))
        accepting, _ = loop._selector.get_key(listener).data  # type: ignore[attr-defined]
        accepting._run()
        close(listening)

    monkeypatch.setattr(hypercorn._Listening, "close", accept_and_close)

    async def main() -> None:
        async with serving(running) as here:
            await here.shut_down()
            for client in clients:
                client.setblocking(False)
                connection = Connection(*await asyncio.open_connection(sock=client))
                here.connections.append(connection)
                connection.send()
                assert await connection.answer() == (True, b"ok")

    asyncio.run(main())
    assert clients


def test_a_worker_that_stops_leaves_new_connections_to_the_others() -> None:
    async def main() -> None:
        accepted: list[object] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listening = await hypercorn._start_server(lambda *streams: accepted.append(streams), sock=listener)
            listening.close()
            with socket.create_connection(listener.getsockname()):
                await asyncio.sleep(SHORT_SECONDS)
                await listening.wait_closed()
        assert not accepted

    asyncio.run(main())
