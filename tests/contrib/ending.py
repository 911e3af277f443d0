"""Servers that end while clients hold connections: a client that sees when and how its connection is closed, and the
servers whose shutdown is ours."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio import run
from hypercorn.config import Config as HypercornConfig
from hypercorn.config import Sockets
from uvicorn import Config as UvicornConfig
from uvicorn import Server

from shmroute.contrib import hypercorn

LONG_SECONDS = 30.0
SHORT_SECONDS = 0.05

_REQUEST = b"GET /%s HTTP/1.1\r\nHost: here\r\n\r\n"


class Connection:
    """A client's connection. Its answers have a body of two bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, what: bytes = b"now") -> None:
        """Send a request for this path."""
        self.writer.write(_REQUEST % what)

    async def answer(self) -> tuple[bool, bytes]:
        """Whether it says that the connection is closed after it, and its body."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), LONG_SECONDS)
        assert head.startswith(b"HTTP/1.1 200")
        body = await asyncio.wait_for(self._reader.readexactly(2), LONG_SECONDS)
        return b"\r\nconnection: close\r\n" in head.lower(), body

    async def is_closed(self) -> bool:
        """Wait for the end."""
        return await asyncio.wait_for(self._reader.read(), LONG_SECONDS) == b""


class Serving(ABC):
    """A server in this loop, its clients, and the requests that wait in its application."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.entered = asyncio.Event()
        self.connections: list[Connection] = []

    @property
    @abstractmethod
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    @abstractmethod
    def accepted(self) -> int:
        """A number that grows with each connection it accepts."""

    @abstractmethod
    async def shut_down(self) -> None:
        """Have the server end, as a signal does, and wait until its connections know."""

    async def connect(self) -> Connection:
        """A connection, once the server has accepted it."""
        before = self.accepted()
        connection = Connection(*await asyncio.open_connection(*self.address))
        self.connections.append(connection)
        while self.accepted() == before:
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

    def close(self) -> None:
        for connection in self.connections:
            connection.writer.close()


class OfUvicorn(Serving):
    """A server of uvicorn's."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.servers[0].sockets[0].getsockname()
        return host, port

    def accepted(self) -> int:
        return len(self.server.server_state.connections)

    async def shut_down(self) -> None:
        self.server.should_exit = True
        while self.server.servers[0].is_serving():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def uvicorn_serving(protocol: type[asyncio.Protocol]) -> AsyncIterator[OfUvicorn]:
    """A server with that protocol; it ends by itself once `shut_down` was called."""
    config = UvicornConfig(
        "", host="127.0.0.1", port=0, http=protocol, interface="asgi3", lifespan="off", log_config=None, loop="asyncio"
    )
    server = Server(config)
    found = OfUvicorn(server)
    config.app = found.application
    task = asyncio.create_task(server._serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield found
        await asyncio.wait_for(task, LONG_SECONDS)
    finally:
        server.force_exit = server.should_exit = True
        await asyncio.wait([task], timeout=LONG_SECONDS)
        found.close()


class OfHypercorn(Serving):
    """A worker of Hypercorn's."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ending = asyncio.Event()
        self.begun: list[hypercorn.TCPServer] = []
        """The connections that it has begun with."""

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()
        return host, port

    def accepted(self) -> int:
        return len(self.begun)

    async def shut_down(self) -> None:
        self.ending.set()
        while self.listener.fileno() != -1:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def hypercorn_serving() -> AsyncIterator[OfHypercorn]:
    """A worker; it ends by itself once `shut_down` was called."""
    found = OfHypercorn()
    original = hypercorn.TCPServer._idle_timeout

    async def idle(self: hypercorn.TCPServer) -> None:
        found.begun.append(self)
        await original(self)

    config = HypercornConfig()
    config.errorlog = None
    config.keep_alive_timeout = config.graceful_timeout = 2 * LONG_SECONDS  # what ends earlier ends for another reason
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hypercorn.TCPServer, "_idle_timeout", idle)
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
            found.close()
            found.listener.close()
