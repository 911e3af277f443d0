"""uvicorn's HTTP protocol, with a shutdown that answers what has been accepted before it closes.

    shmroute run -- uvicorn --workers 4 --http shmroute.contrib.uvicorn:Protocol app:app

uvicorn's own closes a connection at once if no request is being answered on it. A client that has just connected, or
that sends its next request just then, finds it reset. This one waits a second for the request, answers it with
`Connection: close`, and closes then. For gunicorn: `shmroute.contrib.uvicorn_worker`.

Changes nothing but the shutdown of a worker, and knows nothing of routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from shmroute.contrib.lingering import LINGER_SECONDS

__all__ = ["Lingering", "Protocol"]

_CLOSE: Final = (b"connection", b"close")

_ending: Final[WeakSet[Any]] = WeakSet()
"""The states of servers that end. uvicorn tells the connections it has; one whose handshake goes on comes later."""


class Lingering:
    """What is added to one of uvicorn's protocols."""

    if TYPE_CHECKING:
        config: Any
        connections: set[Any]
        cycle: Any
        loop: Any
        server_state: Any
        transport: Any

    _leaving = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # uvicorn counts a connection a turn of the loop later, `connection_made`. One that is told nothing because the
        # shutdown falls between goes on as if there were none, and holds the worker up until it is killed.
        if not self.config.is_ssl:
            self.connections.add(self)
            self.loop.call_soon(self.loop.call_soon, self._forget_unmade)

    def _forget_unmade(self) -> None:
        """It has come to nothing: the listening socket was closed in the same turn."""
        if self.transport is None:
            self.connections.discard(self)

    def shutdown(self) -> None:
        """Let a request come that is on its way; called by uvicorn when the worker ends."""
        _ending.add(self.server_state)
        self._leaving = True
        self._announce()
        self.loop.call_later(LINGER_SECONDS, self._leave)

    def connection_made(self, transport: Any) -> None:
        """Take a connection; if the worker is ending, for one request."""
        super().connection_made(transport)  # type: ignore[misc]
        if self.server_state in _ending and not self._leaving:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        """Read on; a request that comes now is the connection's last."""
        super().data_received(data)  # type: ignore[misc]
        if self._leaving:
            self._announce()

    def _announce(self) -> None:
        """Have the answer say that the connection is closed after it, if it has not begun."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_started and _CLOSE not in cycle.default_headers:
            cycle.default_headers = [*cycle.default_headers, _CLOSE]

    def _leave(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            super().shutdown()  # type: ignore[misc]


class Protocol(Lingering, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """What uvicorn takes by itself (`--http auto`: httptools if it is installed, else h11), patient at the end."""
