"""The watcher's port (`--listen`): health, readiness, metrics and the status page over HTTP.

* `/healthz`: 200 while the owner's loop turns, even if the API server or Redis is unavailable. A standby watcher
  answers 503 when the area's writer shows no heartbeat any more.
* `/readyz`: 200 once a first complete snapshot of all sources is published, and from then on. Each problem of a source
  has a line below the "ok".
* `/metrics`: the Prometheus text format, made from the watcher's status at each scrape.
* `/` is the status page, and the paths below `/api/` give the same as JSON (docs/status-page.md). By default they
  answer only clients on the pod's loopback (`kubectl port-forward` is one): they name models, apps and addresses.

uvicorn serves the port from a thread of its own. The handlers read what other threads have published, without waiting
for them. A pod network has slow and idle clients, so each connection has a total time limit, and the oldest connection
is closed when there are too many: a probe is always accepted.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from uvicorn.protocols.http.h11_impl import H11Protocol

from shmroute.errors import AreaUnavailable, ConfigError, ModelNotFound, NotReady
from shmroute.rows import Kind
from shmroute.shm.control import find_control
from shmroute.watcher import status_page
from shmroute.watcher.events import parse_period
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.metrics import WatcherCollector, silent_seconds
from shmroute.watcher.status import FROZEN_SECONDS, Status
from shmroute.watcher.views import History, Views
from shmroute.watcher.workers import workers
from shmroute.worker.similar_names import describe

_log = logging.getLogger(__name__)

STANDBY_FROZEN_SECONDS: Final = 30.0
"""Seconds without a heartbeat of the writer before a standby watcher answers 503.

Longer than `FROZEN_SECONDS`, so that the writer's own supervisor restarts it first.
"""

MAX_CONNECTIONS: Final = 128
"""Largest number of open connections; one more closes the oldest. Kubelets and Prometheus need fewer than ten, and the
watcher needs most of its descriptors (often 1,024) for its main job."""

CONNECTION_SECONDS: Final = 15.0
"""Longest life of a connection, including slow requests and slow reads of the answer."""

MAX_HEADER_BYTES: Final = 16 * 1024
"""Largest request head; a larger one gets status 400."""

_NO_IPV6: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of a kernel that has IPv6 compiled in but switched off."""

MAX_SCANS: Final = 2
"""Number of status pages and `/api` answers made at the same time; others wait. Each may scan all rows."""

SHOW_SECONDS: Final = 10.0
"""Longest time to make a status page or an `/api` answer, waiting included."""

WORKERS_SECONDS: Final = 5
"""Seconds between two reads of the workers' register for the plots. A read takes about a millisecond."""

PageFor = Literal["loopback", "all", "off"]
"""Clients that may see the status page and `/api`: those on the pod's loopback, all, or none."""

_JSON: Final = ((b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"))

THREAD_NAME: Final = "http"
"""Name of the thread in status and metrics."""

_CLOSE_SECONDS: Final = 10.0
_MAX_PORT: Final = 65_535

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Paths:
    """The ASGI application of the port's paths.

    Args:
        watcher: the watcher to describe.
        page: clients that may see the status page and `/api`.
        show_values: whether the page and `/api` show metadata values.
    """

    def __init__(self, watcher: WatcherLoop, page: PageFor, *, show_values: bool) -> None:
        registry = CollectorRegistry()
        registry.register(WatcherCollector(watcher))
        self._metrics: Application = make_asgi_app(registry)
        self._watcher = watcher
        self._page = page
        self._views = Views(watcher.area, show_values=show_values, object_of=watcher.object_of)
        self._history = History()
        self._scans = asyncio.Semaphore(MAX_SCANS)

    async def sample(self) -> None:
        """Record the watcher's status every second, and the workers every `WORKERS_SECONDS`, for the plots."""
        for second in itertools.count():
            seen = second % WORKERS_SECONDS == 0
            self._history.sample(self._watcher.status, workers(self._watcher.area) if seen else None)
            await asyncio.sleep(1.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        match path:
            case "/metrics":
                await self._metrics(scope, receive, send)
            case "/healthz":
                healthy, text = _healthy(self._watcher)
                await _answer(send, 200 if healthy else 503, text)
            case "/readyz":
                ready, text = _ready(self._watcher.status)
                await _answer(send, 200 if ready else 503, text)
            case _ if path == "/" or path.startswith("/api/"):
                if scope["method"] not in ("GET", "HEAD"):
                    await _answer(send, 405, "read only: use GET")
                elif not self._is_allowed(scope):
                    await _answer(send, 403, "the status page answers on the pod's loopback only (--status-page)")
                else:
                    await self._show(scope, send)
            case _:
                await _answer(send, 404, "/healthz, /readyz, /metrics, / and /api/...")

    def _is_allowed(self, scope: Scope) -> bool:
        if self._page != "loopback":
            return self._page == "all"
        client = scope.get("client")
        try:
            address = ipaddress.ip_address(client[0].partition("%")[0]) if client else None
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        # The Host must name the loopback too: else a web page could reach this port by DNS rebinding.
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        local = name in ("localhost", "[::1]") or name.startswith("127.")
        return local and address is not None and (mapped or address).is_loopback

    async def _show(self, scope: Scope, send: Send) -> None:
        """Make the page or the JSON in a thread, so that a scan of many rows does not delay a probe."""
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=10, errors="replace"))
        try:
            async with asyncio.timeout(SHOW_SECONDS), self._scans:
                headers, body = await asyncio.to_thread(self._made, scope["path"], query)
        except (TimeoutError, NotReady, AreaUnavailable) as error:
            await _answer(send, 503, str(error) or f"no answer within {SHOW_SECONDS:g} s")
            return
        except ValueError as error:
            await _answer(send, 400, f"bad query: {error}")
            return
        except ModelNotFound as error:
            await _answer(send, 404, str(error))
            return
        if body is None:
            await _answer(send, 404, "not found")
            return
        await _send(send, 200, headers, body)

    def _made(self, path: str, query: dict[str, str]) -> tuple[Sequence[tuple[bytes, bytes]], bytes | None]:
        search, start = query.get("search", ""), max(0, int(query.get("start", "0")))
        limit = int(query.get("limit", "50"))
        if path == "/":
            samples = self._history.samples()
            asked = status_page.Asked(
                search, query.get("model", ""), query.get("table", ""), query.get("key", ""), start
            )
            page = status_page.render(self._views, samples, asked)
            return status_page.HEADERS, page.encode(errors="replace")
        what: object
        match path.removeprefix("/api/"):
            case "status":
                what = self._views.status()
            case "history":
                what = self._history.samples()
            case "models":
                what = self._views.models(search, start, limit)
            case "tables":
                what = self._views.tables()
            case "events":
                since = parse_period(query["since"]) if "since" in query else None
                what = self._views.events(since, query.get("model"), limit)
            case "conflicts":
                what = self._views.conflicts(start, limit)
            case "invalid":
                what = self._views.invalid(start, limit)
            case name if name.startswith("tables/"):
                table, slash, key = name.removeprefix("tables/").partition("/")
                views = self._views
                what = views.table_row(table, key) if slash else views.table(table, search, start, limit)
            case name if name.startswith("models/"):
                name, namespace = name.removeprefix("models/"), query.get("namespace")
                what = self._views.model(name, namespace)
                if what is None:
                    missing = ModelNotFound(name, namespace)
                    missing.with_hint(partial(describe, self._views.area, Kind.MODEL, name, namespace)).more()
                    raise missing
            case _:
                what = None
        return _JSON, None if what is None else json.dumps(what, allow_nan=False, default=str).encode()


async def _answer(send: Send, status: int, text: str) -> None:
    await _send(send, status, ((b"content-type", b"text/plain; charset=utf-8"),), f"{text}\n".encode(errors="replace"))


async def _send(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"cache-control", b"no-store"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
    """Return the seconds since the writer's last heartbeat; 0 if the area cannot be read."""
    control = find_control(area)
    heartbeat_ns = control.heartbeat_ns if control else 0
    return max(0.0, (time.monotonic_ns() - heartbeat_ns) / 1e9) if heartbeat_ns else 0.0


def _ready(status: Status) -> tuple[bool, str]:
    if status.role != "writing":
        return False, status.problem or status.role
    if not status.synced:
        waiting = ", ".join(f"{state.resource}: {state.phase} {state.reason}".strip() for state in status.sources)
        return False, status.problem or f"no complete snapshot yet ({waiting})"
    # The watcher stays ready, since the last state is served; the answer still lists the problems.
    problems = [status.problem] if status.problem else []
    problems += [f"{state.resource}: {state.reason}" for state in status.sources if state.reason]
    return True, "\n".join(["ok", *problems, *status.no_room])


class _LimitedConnection(H11Protocol):
    """One connection, with a total time limit. If there are too many, it closes the oldest one."""

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
    """Answers on `listener` until `close`, from a thread that the watcher supervises.

    Attributes:
        port: the TCP port of the listener.
    """

    def __init__(self, watcher: WatcherLoop, answer: _Paths, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._watcher = watcher
        self._listener = listener
        self._config = uvicorn.Config(
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
        self._answer = answer
        self._closed = False
        self._ended = threading.Event()
        self._server = uvicorn.Server(self._config)
        watcher.supervise(THREAD_NAME, self._run)

    def _run(self) -> None:
        self._server = uvicorn.Server(self._config)
        if not self._closed:
            asyncio.run(self._serve())
        self._ended.set()

    async def _serve(self) -> None:
        sampling = asyncio.create_task(self._answer.sample())
        try:
            # uvicorn closes its socket, and a restarted server needs the listener again.
            with self._listener.dup() as listener:
                await self._server.serve(sockets=[listener])
        finally:
            sampling.cancel()

    def close(self) -> None:
        """Stop answering. Returns within a few seconds."""
        self._watcher.release(THREAD_NAME)
        self._closed = True
        self._server.should_exit = True
        self._ended.wait(_CLOSE_SECONDS)
        self._listener.close()


def serve(watcher: WatcherLoop, listen: str, page: PageFor = "loopback", *, show_values: bool = False) -> HttpServer:
    """Answer on `HOST:PORT`, or on all IPv4 and IPv6 addresses for `:PORT`, from a thread until the process ends.

    Raises:
        ConfigError: `listen` is not an address, or it cannot be bound.
    """
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)  # do not log every client's bad request
    host, separator, port = listen.rpartition(":")
    if not separator or not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise ConfigError(f"--listen {listen!r}: write HOST:PORT or :PORT")
    try:
        listener = _bound(host.strip("[]"), int(port))
    except OSError as error:
        raise ConfigError(f"--listen {listen}: {error.strerror or error}") from error
    server = HttpServer(watcher, _Paths(watcher, page, show_values=show_values), listener)
    _log.info("health, metrics and the status page on port %d of %s", server.port, host or "all addresses")
    return server


def _bound(host: str, port: int) -> socket.socket:
    """Return a bound socket. Without a host it takes IPv4 and IPv6, or only IPv4 if the kernel has no IPv6."""
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
