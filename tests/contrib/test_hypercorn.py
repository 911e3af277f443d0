"""What is Hypercorn's own in the shutdown of `shmroute.contrib.hypercorn`; the rest is in `test_ending`."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from hypercorn.events import RawData

from shmroute.contrib import hypercorn
from tests.contrib.ending import SHORT_SECONDS, Connection, hypercorn_serving


def test_a_request_that_comes_at_the_moment_of_the_end_is_answered() -> None:
    async def main() -> None:
        async with hypercorn_serving() as here:
            connection = await here.connect()
            server = here.begun[-1]
            await server.context.terminated.set()
            await server.protocol.handle(RawData(b"GET /now HTTP/1.1\r\nHost: here\r\n\r\n"))
            assert await connection.answer() == (True, b"ok")
            await here.shut_down()

    asyncio.run(main())


def test_connections_that_are_accepted_in_the_turn_in_which_the_worker_stops_are_answered(
    monkeypatch: pytest.MonkeyPatch,
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
        async with hypercorn_serving() as here:
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
