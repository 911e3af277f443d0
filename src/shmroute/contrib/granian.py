"""A watcher beside a Granian server that is started from Python, and a restart that fails no request:

    from shmroute.contrib.granian import Granian, beside

    beside(Granian("app:app", interface="asgi", workers=4)).serve()

The watcher's options are environment variables (`SHMROUTE_MANIFESTS`, `SHMROUTE_NAMESPACE` and so on, as listed by
`shmroute watch --help`). It is started after the bind and before the first worker, and ended after the last.

For Granian's command, which has no hooks, the same options: `shmroute run -- python -m shmroute.contrib.granian ...`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ctypes import c_bool
from functools import partial
from multiprocessing import RawValue
from typing import Any, Final, TypeAlias, TypeVar

import granian
from granian import _granian
from granian.constants import Interfaces
from granian.server import MPServer

from shmroute.supervise.hooks import start, stop

__all__ = ["Granian", "beside"]

DEFER_SECONDS: Final = 5
"""How long the kernel keeps a connection on which nothing comes; then it is handed over as it is."""

_Base: Any = granian.Granian
_socket_holder: Any = _granian.SocketHolder  # whose stub lacks the backlog
_PROCESSES: Final = issubclass(_Base, MPServer)
"""Whether its workers are processes."""

Server = TypeVar("Server", bound=Any)

Leaving: TypeAlias = c_bool
"""Whether the next worker of a worker's number has been started; in memory that both share with the server."""


def beside(server: Server) -> Server:
    """Have a watcher run as long as `server` does. Returns `server`."""
    server.on_startup(start)
    server.on_shutdown(stop)
    return server


class Granian(_Base):  # type: ignore[misc]
    """Granian, whose workers end without failing a request. Takes what `granian.Granian` takes.

    Granian's own worker that ends closes what it has accepted and not read, its listening socket with all that waits
    there, and connections kept for a next request. Here

    * the kernel hands a connection over when its request has come (TCP_DEFER_ACCEPT, see tcp(7));
    * the listening sockets, one for each worker's number, are the server's, and stay for the next worker;
    * ASGI and WSGI answers say `Connection: close` once the next worker has been started, so that clients have left a
      worker when it ends, `respawn_interval` later.

    The sockets are Granian's own for `uds`, and where Python has no global interpreter lock: its workers are threads
    there. Over TLS it is the handshake that has come: who has made it and not asked yet may find the connection closed.
    """

    def _init_shared_socket(self) -> None:
        self._sockets: list[socket.socket] = []
        self._leaving: dict[int, Leaving] = {}
        if self.bind_uds or not _PROCESSES:
            super()._init_shared_socket()
            return
        self._sso: Any = None
        port = self.bind_port
        for _ in range(self.workers):
            listening = _listen(self.bind_addr, port, self.backlog)
            self._sockets.append(listening)
            port = listening.getsockname()[1]  # 0 means: any, the same for all

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Callable[[], Any]) -> Any:
        if self._sockets:
            self._sso = self._sockets[idx]
            self._shd = _socket_holder(self._sso.fileno(), False, self.backlog)
        if idx in self._leaving:
            self._leaving[idx].value = True
        self._leaving[idx] = leaving = RawValue(c_bool, False)
        return super()._spawn_worker(idx, target, partial(_load, callback_loader, self.interface, leaving))

    def _drop_shared_socket(self) -> None:
        super()._drop_shared_socket()
        for listening in self._sockets:
            listening.close()


def _load(loader: Callable[[], Any], interface: Interfaces, leaving: Leaving) -> Any:
    """The application, in a worker."""
    application = loader()
    if interface in (Interfaces.ASGI, Interfaces.ASGINL):
        return partial(_asgi, application, leaving)
    if interface == Interfaces.WSGI:
        return partial(_wsgi, application, leaving)
    return application


def _asgi(application: Any, leaving: Leaving, scope: Any, receive: Any, send: Any) -> Any:
    if not leaving.value or scope["type"] != "http" or not scope["http_version"].startswith("1"):
        return application(scope, receive, send)

    def announce(message: Any) -> Any:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        return send(message)

    return application(scope, receive, announce)


def _wsgi(application: Any, leaving: Leaving, environ: Any, start_response: Any) -> Any:
    if not leaving.value or not environ["SERVER_PROTOCOL"].startswith("HTTP/1"):
        return application(environ, start_response)

    def announce(status: str, headers: list[tuple[str, str]], *information: Any) -> Any:
        return start_response(status, [*headers, ("Connection", "close")], *information)

    return application(environ, announce)


def _listen(address: str, port: int, backlog: int) -> socket.socket:
    """A socket like those of Granian, but for the deferral."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_SECONDS)
    listening.bind((address, port))
    listening.listen(backlog)
    return listening


if __name__ == "__main__":
    from granian import cli

    command: Any = cli
    command.Server = Granian
    command.entrypoint()
