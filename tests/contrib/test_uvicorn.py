"""The shutdown of `shmroute.contrib.uvicorn`: what has been accepted is answered before it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from shmroute.contrib import uvicorn
from shmroute.contrib.uvicorn import Lingering, Protocol
from tests.contrib.http_client import LONG_SECONDS, Connection

SHORT_SECONDS = 0.05


class OnH11(Lingering, H11Protocol):
    """Without httptools."""


class OnHttpTools(Lingering, HttpToolsProtocol):
    """With httptools."""


both = pytest.mark.parametrize("protocol", [OnH11, OnHttpTools], ids=["h11", "httptools"])


class Serving:
    """A server, its clients, and the requests that wait in its application."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.go_on = asyncio.Event()
        self.entered = asyncio.Event()
        self._connections: list[Connection] = []

    async def connect(self) -> Connection:
        """A connection, once the server has accepted it."""
        before = len(self.server.server_state.connections)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        self._connections.append(connection)
        while len(self.server.server_state.connections) == before:
            await asyncio.sleep(0)
        return connection

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.entered.set()
        headers = [(b"content-length", b"2")]
        if scope["path"] == "/later":
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/slow":
            await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    async def shut_down(self) -> None:
        """Have the server end, as a signal does, and wait until its connections know."""
        self.server.should_exit = True
        while self.server.servers[0].is_serving():
            await asyncio.sleep(0.01)

    def close(self) -> None:
        for connection in self._connections:
            connection.writer.close()


@asynccontextmanager
async def serving(protocol: type[asyncio.Protocol]) -> AsyncIterator[Serving]:
    """A server in this loop; it ends by itself once `shut_down` was called."""
    config = Config(
        "", host="127.0.0.1", port=0, http=protocol, interface="asgi3", lifespan="off", log_config=None, loop="asyncio"
    )
    server = Server(config)
    found = Serving(server)
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


@both
def test_a_request_on_a_connection_that_was_accepted_before_is_answered(protocol: type[asyncio.Protocol]) -> None:
    async def main() -> None:
        async with serving(protocol) as here:
            connection = await here.connect()
            await here.shut_down()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@both
def test_the_next_request_of_a_connection_is_answered_as_its_last(protocol: type[asyncio.Protocol]) -> None:
    async def main() -> None:
        async with serving(protocol) as here:
            connection = await here.connect()
            connection.send()
            assert await connection.answer() == (False, b"ok")
            await here.shut_down()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@both
def test_an_answer_that_has_not_begun_says_that_it_is_the_last(protocol: type[asyncio.Protocol]) -> None:
    async def main() -> None:
        async with serving(protocol) as here:
            connection = await here.connect()
            connection.send(b"later")
            await here.entered.wait()
            await here.shut_down()
            here.go_on.set()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@both
def test_after_an_answer_that_had_begun_one_more_request_may_come(protocol: type[asyncio.Protocol]) -> None:
    async def main() -> None:
        async with serving(protocol) as here:
            connection = await here.connect()
            connection.send(b"slow")
            await here.entered.wait()
            await here.shut_down()
            here.go_on.set()
            assert await connection.answer() == (False, b"ok")
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@both
def test_a_connection_on_which_nothing_comes_is_closed_and_does_not_keep_the_server(
    protocol: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn, "LINGER_SECONDS", SHORT_SECONDS)

    async def main() -> None:
        async with serving(protocol) as here:
            connection = await here.connect()
            await here.shut_down()
            assert await connection.is_closed()

    asyncio.run(main())


@both
def test_a_connection_that_is_being_made_when_the_server_ends_is_told_too(protocol: type[asyncio.Protocol]) -> None:
    class Late(protocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            for connection in list(self.server_state.connections):
                connection.shutdown()
            super().connection_made(transport)

    async def main() -> None:
        async with serving(Late) as here:
            connection = await here.connect()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            await here.shut_down()

    asyncio.run(main())


@both
def test_a_connection_that_comes_to_nothing_does_not_keep_the_server(protocol: Any) -> None:
    async def main() -> None:
        config = Config(Serving(Server(Config(""))).application, http=protocol, interface="asgi3", log_config=None)
        config.load()
        state = ServerState()
        unmade = protocol(config=config, server_state=state, app_state={})
        assert state.connections == {unmade}
        for _ in range(3):
            await asyncio.sleep(0)
        assert state.connections == set()

    asyncio.run(main())


def test_it_is_found_by_the_name_that_uvicorn_is_given() -> None:
    config = Config("", http="shmroute.contrib.uvicorn:Protocol")
    config.app = Serving(Server(config)).application
    config.load()
    assert config.http_protocol_class is Protocol
    assert issubclass(Protocol, HttpToolsProtocol)
