"""Connections that say what they are waiting for, and can be cut from another thread.

Called by `shmroute.kube.configuration`, which puts `POOLS` into the pool of the official client. The classes are
urllib3's own, with a note at each step in which a peer can make us wait.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from contextvars import ContextVar
from typing import Any, Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["CURRENT", "POOLS", "Exchange"]


class Exchange:
    """One request under way: what it waits for, and the socket that it uses."""

    def __init__(self) -> None:
        self.step = "waiting for the credentials"
        self.sock: Any = None
        """A `socket.socket`, or the like of one within a tunnel."""
        self._lock = threading.Lock()
        self._cut = False

    def use(self, sock: Any) -> None:
        """From now on the exchange waits for this socket."""
        with self._lock:
            self.sock = sock
            cut = self._cut
        if cut:
            self.cut()

    def cut(self) -> None:
        """End whatever the exchange waits for, and will wait for, on its socket. For any thread."""
        with self._lock:
            self._cut = True
            sock = self.sock
        if sock is not None:
            # OSError: it is closed, or in its TLS handshake, which has a time limit of its own.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


CURRENT: ContextVar[Exchange] = ContextVar("CURRENT")
"""The exchange that the running thread works for."""


class _Steps(HTTPConnection):
    """Tells the current exchange about each step of a connection."""

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
        """Connect, as urllib3's own does, which also prints a warning each time where certificates are not verified.

        The configuration has logged that once.
        """
        if conn.is_closed:
            conn.connect()


POOLS: Final = {"http": _Pool, "https": _TlsPool}
"""For `urllib3.PoolManager.pool_classes_by_scheme`."""
