"""Hypercorn, with a restart that answers what has been accepted before it closes. Its command, and the same options:

    shmroute run -- python -m shmroute.contrib.hypercorn --workers 4 app:app

Hypercorn's own closes a connection at once if no request is being answered on it, forgets one that it is just
accepting, and may close one whose request has just come. This one waits a second for the request, answers it with
`Connection: close`, and closes then. For its worker classes asyncio and uvloop, and HTTP/1.

Importing this module is what changes Hypercorn, in this process and in the workers it spawns, which import their
parent's main module. Changes nothing but the end of a worker, and knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final

from hypercorn import protocol
from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import TCPServer as _TCPServer
from hypercorn.protocol.h11 import H11Protocol as _H11Protocol

from shmroute.contrib.lingering import LINGER_SECONDS

_TURNS: Final = 10
"""Turns of the loop from accepting a connection to a task of its own: asyncio takes four."""


class TCPServer(_TCPServer):
    """A connection that waits for a request when its worker ends."""

    async def _idle_timeout(self) -> None:
        # Not by `asyncio.wait_for`: in Python 3.11 it loses a cancellation at the moment of the end, so that a
        # connection would be closed while its request is answered.
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.keep_alive_timeout):
                await self.context.terminated.wait()
                await asyncio.sleep(LINGER_SECONDS)
        await asyncio.shield(self._initiate_server_close())


class H11Protocol(_H11Protocol):
    """Answers that say so if they are the connection's last."""

    async def stream_send(self, event: Any) -> None:
        """Send a part of an answer."""
        if self.context.terminated.is_set():
            self.keep_alive_requests = self.config.keep_alive_max_requests
        await super().stream_send(event)


class _Listening:
    """A listening socket's server that stops accepting first, and closes when what it has accepted is a connection."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    def close(self) -> None:
        loop = self._server.get_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):  # uvloop's connections are made when they are accepted
            for socket in self._server.sockets:
                loop.remove_reader(socket.fileno())

    async def wait_closed(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._server.close()
        await self._server.wait_closed()


async def _start_server(*args: Any, **options: Any) -> _Listening:
    return _Listening(await asyncio.start_server(*args, **options))


_run: Any = run
_run.asyncio = SimpleNamespace(**{**vars(asyncio), "start_server": _start_server})
_run.TCPServer = TCPServer
_protocol: Any = protocol
_protocol.H11Protocol = H11Protocol

if __name__ == "__main__":
    from hypercorn.__main__ import main

    sys.exit(main())
