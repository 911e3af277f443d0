"""The watcher's port (`--listen`): health, readiness and metrics over HTTP.

* `/healthz`: 200 while the owner's loop turns. An API server or Redis that is away never makes it fail. A watcher that
  stands by fails it when the watcher it stands by for shows no heartbeat any more.
* `/readyz`: 200 once a first complete snapshot of all sources is published, and from then on. Each problem of a source
  has a line below the "ok".
* `/metrics`: the Prometheus text format, made at the scrape from the watcher's status.

uvicorn serves it from a thread of its own. The handlers read what other threads have published and wait for nobody. A
pod network brings slow and idle clients, so each connection has a total time limit, and the oldest connection is closed
when there are too many: a probe is always accepted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from uvicorn.protocols.http.h11_impl import H11Protocol

from shmroute.errors import ConfigError, ShmrouteError
from shmroute.shm.control import ControlReader
from shmroute.watcher.loop import HEARTBEAT_SECONDS, WatcherLoop
from shmroute.watcher.metrics import WatcherCollector, silent_seconds
from shmroute.watcher.status import Status

__all__ = ["HttpServer", "serve"]

_log = logging.getLogger(__name__)

FROZEN_SECONDS: Final = 5 * HEARTBEAT_SECONDS
"""Seconds without a turn of the owner's loop (five heartbeats) before `/healthz` answers 503."""

STANDBY_FROZEN_SECONDS: Final = 30.0
"""Seconds without a heartbeat of the writer before a watcher that stands by answers 503.

Longer than `FROZEN_SECONDS`: the writer's own supervisor restarts it first.
"""

MAX_CONNECTIONS: Final = 128
"""Connections open at once; one more closes the oldest. Kubelets and Prometheus need fewer than ten, and the watcher
must keep most of its descriptors (often 1,024) for its main job."""

CONNECTION_SECONDS: Final = 15.0
"""Longest life of a connection in seconds, slow requests and slow reads of the answer included."""

MAX_HEADER_BYTES: Final = 16 * 1024
"""Longest request head in bytes; a longer one is answered with 400."""

_NO_IPV6: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of a kernel where IPv6 is compiled in and switched off."""

_CLOSE_SECONDS: Final = 10.0
_MAX_PORT: Final = 65_535

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def application(watcher: WatcherLoop) -> Application:
    """The ASGI application of the port's paths."""
    registry = CollectorRegistry()
    registry.register(WatcherCollector(watcher))
    metrics: Application = make_asgi_app(registry)

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/metrics":
                await metrics(scope, receive, send)
            case "/healthz":
                healthy, text = _healthy(watcher)
                await _answer(send, 200 if healthy else 503, text)
            case "/readyz":
                ready, text = _ready(watcher.status)
                await _answer(send, 200 if ready else 503, text)
            case _:
                await _answer(send, 404, "/healthz, /readyz, /metrics")

    return respond


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode(errors="replace")})


def _healthy(watcher: WatcherLoop) -> tuple[bool, str]:
    silent = silent_seconds(watcher)
    if silent >= FROZEN_SECONDS:
        return False, f"the watcher's loop has not turned for {silent:.1f} s"
    if watcher.status.role != "writing":
        silent = _writer_silent_seconds(watcher.area)
        if silent >= STANDBY_FROZEN_SECONDS:
            return False, f"standing by, and the watcher that holds area {watcher.area!r} is silent for {silent:.0f} s"
    return True, "ok"


def _writer_silent_seconds(area: str) -> float:
    """Seconds since the area's writer last showed a heartbeat; 0 where the area cannot be read."""
    try:
        heartbeat_ns = ControlReader(area).heartbeat_ns
    except (FileNotFoundError, ShmrouteError):
        return 0.0
    return max(0.0, (time.monotonic_ns() - heartbeat_ns) / 1e9) if heartbeat_ns else 0.0


def _ready(status: Status) -> tuple[bool, str]:
    if status.role != "writing":
        return False, status.problem or status.role
    if not status.synced:
        waiting = ", ".join(f"{state.resource}: {state.phase} {state.reason}".strip() for state in status.sources)
        return False, status.problem or f"no complete snapshot yet ({waiting})"
    # It stays ready, since the last state is served; problems are named all the same.
    problems = [status.problem] if status.problem else []
    problems += [f"{state.resource}: {state.reason}" for state in status.sources if state.reason]
    return True, "\n".join(["ok", *problems])


class _LimitedConnection(H11Protocol):
    """One connection, with a total time limit; it takes the place of the oldest where there are too many."""

    _limit: asyncio.TimerHandle | None = None
    _accepted = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._accepted = self.loop.time()
        self._limit = self.loop.call_later(CONNECTION_SECONDS, transport.abort)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = min(self.connections, key=lambda each: getattr(each, "_accepted", 0.0))
            oldest.transport.abort()
            self.connections.discard(oldest)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)


class HttpServer:
    """Answers on `listener` from a thread of its own until `close`.

    Attributes:
        port: the TCP port that it answers on.
    """

    def __init__(self, answer: Application, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._server = uvicorn.Server(
            uvicorn.Config(
                answer,
                http=_LimitedConnection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:  # noqa: BLE001 - whatever it is, it must be logged
            _log.exception("the HTTP server on port %d has failed: liveness probes will fail too", self.port)

    def close(self) -> None:
        """Stop answering; returns within a few seconds."""
        self._server.should_exit = True
        self._thread.join(_CLOSE_SECONDS)


def serve(watcher: WatcherLoop, listen: str) -> HttpServer:
    """Answer on `HOST:PORT`, or on all IPv4 and IPv6 addresses for `:PORT`, from a thread until the process ends.

    Raises:
        ConfigError: `listen` is not an address, or it cannot be bound.
    """
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a stranger's bad request is not worth a line
    host, separator, port = listen.rpartition(":")
    if not separator or not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise ConfigError(f"--listen {listen!r}: write HOST:PORT or :PORT")
    try:
        listener = _bound(host.strip("[]"), int(port))
    except OSError as error:
        raise ConfigError(f"--listen {listen}: {error.strerror or error}") from error
    server = HttpServer(application(watcher), listener)
    _log.info("health and metrics on port %d", server.port)
    return server


def _bound(host: str, port: int) -> socket.socket:
    """A bound socket; without a host one that takes IPv4 and IPv6, or IPv4 only where the kernel has no IPv6."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("0.0.0.0", port))  # noqa: S104 - all addresses were asked for
