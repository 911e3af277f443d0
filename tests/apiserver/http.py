"""Sockets: one port, one thread per connection, HTTP/1.1 with keep-alive.

The port stays reserved while nothing listens on it, so that a server may refuse connections for
a while and come back where it was. Knows nothing about Kubernetes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import ssl
import struct
import threading
from collections.abc import Callable

from .reply import Aborted, Reply
from .request import Request

Handler = Callable[[Request, Reply], None]

#: How long the end of a server waits for one of its threads.
JOIN_SECONDS = 5.0

_LINGER_RESET = struct.pack("ii", 1, 0)


class HttpServer:
    """Accepts connections and hands each request to the handler."""

    def __init__(self, handler: Handler, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.tls = tls
        self.stopping = threading.Event()
        self.accepted = 0
        #: Close the connection after each answer, and say so in its head.
        self.close_each = False
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        if port:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        self._reservation = _bound(host, port)
        self.host = host
        self.port: int = self._reservation.getsockname()[1]

    @property
    def connections(self) -> int:
        """Connections open now."""
        with self._lock:
            return len(self._connections)

    def listen(self) -> None:
        if self._listener is not None:
            return
        listener = _bound(self.host, self.port)
        listener.listen(1024)
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="apiserver-accept", daemon=True)
        self._acceptor.start()

    def refuse(self) -> None:
        """Close the listening socket: new connections are refused."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        if self._acceptor is not None:
            self._acceptor.join(JOIN_SECONDS)

    def drop_connections(self) -> int:
        """Close all open connections; returns how many."""
        with self._lock:
            open_now = list(self._connections)
        for sock in open_now:
            _shut(sock, False)
        return len(open_now)

    def close(self) -> None:
        self.stopping.set()
        self.refuse()
        self.drop_connections()
        with self._lock:
            threads = list(self._connections.values())
        for thread in threads:
            thread.join(JOIN_SECONDS)
        self._reservation.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ECONNABORTED):
                    continue
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.accepted += 1
                number = self.accepted
                thread = threading.Thread(target=self._serve, args=(sock, number), name="apiserver", daemon=True)
                self._connections[sock] = thread
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        wire: socket.socket = sock
        reset = False
        try:
            if self.tls is not None:
                sock.settimeout(10.0)
                wire = self.tls.wrap_socket(sock, server_side=True)
                # The plain socket object is detached now: the wrapped one takes its place.
                with self._lock:
                    self._connections[wire] = self._connections.pop(sock)
                wire.settimeout(None)
            with wire.makefile("rb") as reader:
                while not self.stopping.is_set() and self._one(wire, reader, number):
                    pass
        except Aborted as aborted:
            reset = aborted.reset
        except (OSError, ValueError):
            pass  # the client went away, or never spoke HTTP
        finally:
            with self._lock:
                self._connections.pop(wire, None)
                self._connections.pop(sock, None)
            _shut(wire, reset)
            wire.close()

    def _one(self, sock: socket.socket, reader: io.BufferedReader, number: int) -> bool:
        """Serve one request; False when the connection is done."""
        request = read_request(sock, reader)
        if request is None:
            return False
        request.connection = number
        close = self.close_each or request.headers.get("connection", "").lower() == "close"
        reply = Reply(sock, self.stopping, close, request)
        self.handler(request, reply)
        return not close


def read_request(sock: socket.socket, reader: io.BufferedReader) -> Request | None:
    line = reader.readline(65536)
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := reader.readline(65536)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Request(method, target, headers, _read_chunks(reader))
    return Request(method, target, headers, reader.read(int(headers.get("content-length", "0"))))


def _read_chunks(reader: io.BufferedReader) -> bytes:
    body = b""
    while size := int(reader.readline().split(b";")[0], 16):
        body += reader.read(size)
        reader.readline()
    while reader.readline().strip():
        pass
    return body


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


def _shut(sock: socket.socket, reset: bool) -> None:
    with contextlib.suppress(OSError):
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        else:
            sock.shutdown(socket.SHUT_RDWR)
