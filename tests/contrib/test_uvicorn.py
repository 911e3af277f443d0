"""What is uvicorn's own in the shutdown of `shmroute.contrib.uvicorn`; the rest is in `test_ending`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from shmroute.contrib.uvicorn import Lingering, Protocol
from tests.contrib.ending import OfUvicorn, uvicorn_serving


class OnH11(Lingering, H11Protocol):
    """Without httptools."""


class OnHttpTools(Lingering, HttpToolsProtocol):
    """With httptools."""


both = pytest.mark.parametrize("protocol", [OnH11, OnHttpTools], ids=["h11", "httptools"])


@both
def test_after_an_answer_that_had_begun_one_more_request_may_come(protocol: type[asyncio.Protocol]) -> None:
    async def main() -> None:
        async with uvicorn_serving(protocol) as here:
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
def test_a_connection_that_is_being_made_when_the_server_ends_is_told_too(protocol: type[asyncio.Protocol]) -> None:
    class Late(protocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            for connection in list(self.server_state.connections):
                connection.shutdown()
            super().connection_made(transport)

    async def main() -> None:
        async with uvicorn_serving(Late) as here:
            connection = await here.connect()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            await here.shut_down()

    asyncio.run(main())


@both
def test_a_connection_that_comes_to_nothing_does_not_keep_the_server(protocol: Any) -> None:
    async def main() -> None:
        config = Config(OfUvicorn(Server(Config(""))).application, http=protocol, interface="asgi3", log_config=None)
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
    config.app = OfUvicorn(Server(config)).application
    config.load()
    assert config.http_protocol_class is Protocol
    assert issubclass(Protocol, HttpToolsProtocol)
