"""Connections that record the step they wait for, and that another thread can cut.

Called by `shmroute.kube.configuration`, which puts `POOLS` into urllib3's pool. The classes are urllib3's
own, and record each step in which a peer can make us wait.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from contextvars import ContextVar
from typing import Any, Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Exchange:
    """One running request: the step it waits for, and its socket."""

    def __init__(self) -> None:
        self.step = "waiting for the credentials"
        self.sock: Any = None
        """A `socket.socket`, or urllib3's equivalent within a tunnel."""
        self._lock = threading.Lock()
        self._cut = False

    def use(self, sock: Any) -> None:
        """Set the socket that the exchange waits for."""
        with self._lock:
            self.sock = sock
            cut = self._cut
        if cut:
            self.cut()

    def cut(self) -> None:
        """End the exchange's current wait and all its later waits on its socket. For any thread."""
        with self._lock:
            self._cut = True
            sock = self.sock
        if sock is not None:
            # OSError: the socket is closed, or in its TLS handshake, which has its own time limit.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


CURRENT: ContextVar[Exchange] = ContextVar("CURRENT")
"""The exchange of the current thread."""


class _Steps(HTTPConnection):
    """Records each step of a connection in the current exchange."""

    def _target(self) -> str:
        if self._tunnel_host is not None:
            return f"{self._tunnel_host}:{self._tunnel_port}"
        return f"{self.host}:{self.port}"

    def _new_conn(self) -> socket.socket:
        exchange = CURRENT.get()
        peer = "the proxy " if self.proxy else ""
        exchange.step = f"connecting to {peer}{self.host}:{self.port}"
        sock = super()._new_conn()
        exchange.use(sock)
        exchange.step = f"TLS handshake with {self._target()}"
        return sock

    def _tunnel(self) -> None:
        exchange = CURRENT.get()
        exchange.step = f"waiting for the proxy {self.host}:{self.port} to connect to {self._target()}"
        super()._tunnel()
        exchange.step = f"TLS handshake with {self._target()}"

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        exchange = CURRENT.get()
        exchange.use(self.sock)
        exchange.step = "waiting for the head of the answer"
        super().request(*args, **kwargs)


class _Connection(_Steps):
    pass


class _TlsConnection(_Steps, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection

    def _validate_conn(self, conn: Any) -> None:
        """Connect like urllib3's method, but without its warning for each unverified certificate.

        The configuration has logged this warning once.
        """
        if conn.is_closed:
            conn.connect()


POOLS: Final = {"http": _Pool, "https": _TlsPool}
"""Value of `urllib3.PoolManager.pool_classes_by_scheme`."""
