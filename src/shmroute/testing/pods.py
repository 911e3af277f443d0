"""A pod that a test can make refuse, hang, break off or answer an error: a real HTTP server on a loopback address."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec

_POLL_SECONDS: Final = 0.005
"""Seconds until the server's thread notices that it must end."""


class PodServer:
    """An HTTP server on a loopback address that behaves as the test tells it; see `pod_server`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        """Method and target of each request so far."""
        self._status = 200
        self._body = b"{}"
        self._mode = "answer"
        self._connections: set[socket.socket] = set()
        self._ended = threading.Event()
        self._server = self._listening(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._server.server_address[:2])
        """Address as ``host:port``, for the endpoints of an `Answer`."""

    def answer(self, body: Any = None, status: int = 200) -> None:
        """Answer each request from now on with this JSON and status, such as 503 for an overloaded pod."""
        self._body, self._status, self._mode = msgspec.json.encode({} if body is None else body), status, "answer"
        if self._server.socket.fileno() < 0:
            host, _, port = self.address.rpartition(":")
            self._server = self._listening((host, int(port)))

    def refuse(self) -> None:
        """Refuse connections from now on, as the address of a killed pod does."""
        self._server.shutdown()
        self._server.server_close()
        self._cut()

    def hang(self) -> None:
        """Accept requests from now on and never answer."""
        self.answer()
        self._mode = "hang"

    def break_off(self) -> None:
        """Accept requests from now on and close the connection instead of answering."""
        self.answer()
        self._mode = "break off"

    def close(self) -> None:
        """End the server and all hanging requests."""
        self._ended.set()
        self.refuse()

    def _listening(self, address: tuple[str, int]) -> http.server.ThreadingHTTPServer:
        pod = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                pod._connections.add(self.connection)

            def finish(self) -> None:
                pod._connections.discard(self.connection)
                super().finish()

            def handle(self) -> None:
                with suppress(OSError):
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

            def handle_expect_100(self) -> bool:
                return True

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._answer
                raise AttributeError(name)

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                pod.requests.append((self.command, self.path))
                if pod._mode == "hang":
                    pod._ended.wait()
                if pod._mode != "answer":
                    self.close_connection = True
                    return
                body = pod._body
                self.send_response(pod._status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        server = http.server.ThreadingHTTPServer(address, Handler)
        threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True).start()
        return server

    def _cut(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def pod_server(body: Any = None) -> Iterator[PodServer]:
    """Run a pod that answers with this JSON until the block ends.

        with pod_server() as one, routes({"m": Answer(app="a", endpoints=(one.address,))}):
            one.refuse()
            ...  # test how the code under test handles a pod that refuses connections

    The pod is a real server, so that any HTTP client can be tested against it.
    """
    made = PodServer()
    try:
        made.answer(body)
        yield made
    finally:
        made.close()
