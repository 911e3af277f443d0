"""A listener on a port, whose connections are served by a function of the test."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Serve = Callable[[socket.socket], None]

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Yield the port of a listener on the loopback interface. Its connections are cut when the test is over."""
    stopping = threading.Event()
    open_now: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            wire = tls.wrap_socket(sock, server_side=True) if tls else sock
            open_now.append(wire)
            with wire:
                serve(wire)

    def accept() -> None:
        while not stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(20)
            open_now.append(sock)
            threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            for sock in open_now:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)
            for sock in open_now:
                sock.close()


def read_head(sock: socket.socket) -> list[str]:
    """Return the lines of a request's head; none if the peer has closed the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (data := sock.recv(65536)):
            return []
        received += data
    return received.split(b"\r\n\r\n", maxsplit=1)[0].decode().split("\r\n")


def recorder(heads: list[list[str]]) -> Serve:
    """Serves every request with an empty object, and keeps its head."""

    def serve(sock: socket.socket) -> None:
        while head := read_head(sock):
            heads.append(head)
            sock.sendall(EMPTY)

    return serve


def proxy(to: int, asked: list[list[str]], user: str = "") -> Serve:
    """Return a CONNECT proxy that connects to this port for every request. `user` is "user:password"."""
    needed = f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}"

    def serve(sock: socket.socket) -> None:
        head = read_head(sock)
        asked.append(head)
        if user and needed not in head:
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", to)) as upstream:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(upstream, sock), daemon=True)
            back.start()
            _pump(sock, upstream)
            back.join(5)

    return serve


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def write_kubeconfig(
    path: Path,
    server: str,
    *,
    cluster: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    **top: Any,
) -> str:
    """Return a kubeconfig of one cluster "c", one user "u" (with a token unless given) and one context "x"."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "test-token"} if user is None else user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", **(context or {})}}],
        "current-context": "x",
        **top,
    }
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return str(path)
