"""Health and metrics of a watcher over HTTP, on one port (`--listen`).

* `/healthz`: 200 while the owner's loop turns. Never the API server's fault.
* `/readyz`: 200 once a first complete snapshot of all sources is published, and from then on; below the "ok" stands
  what a source is hindered by.
* `/metrics`: the Prometheus text format, made at the scrape from the watcher's status; no label names a model.

Reads what other threads have published and never waits for them.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from shmroute.errors import ConfigError
from shmroute.watcher.loop import HEARTBEAT_SECONDS, Watcher
from shmroute.watcher.status import Status

__all__ = ["WatcherCollector", "serve"]

_log = logging.getLogger(__name__)

FROZEN_SECONDS: Final = 5 * HEARTBEAT_SECONDS
"""An owner that has not turned for five heartbeats is not alive."""

MAX_PORT: Final = 65_535

_GAUGES: Final[tuple[tuple[str, str, Callable[[Status], float]], ...]] = (
    ("generation", "The newest published generation.", lambda status: status.generation),
    ("rows", "Rows published, of all kinds.", lambda status: status.rows),
    ("models", "Models that are served.", lambda status: status.models),
    ("apps", "Apps that are named by an AppModel in force.", lambda status: status.apps),
    ("segment_bytes", "Bytes of /dev/shm taken by segments.", lambda status: status.segment_bytes),
    ("log_bytes", "Bytes of the current segment's log in use.", lambda status: status.log_bytes),
    ("rebuilding", "1 while a new base is being built.", lambda status: status.rebuilding),
    ("writing", "1 while this watcher holds the area, 0 while it stands by.", lambda status: status.role == "writing"),
    ("conflicts", "Models that several AppModels of a namespace claim.", lambda status: status.conflicts),
    ("invalid_objects", "Objects and files set aside.", lambda status: status.invalid),
    ("blocked", "1 while the newest state cannot be published.", lambda status: status.problem != ""),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[Status], float]], ...]] = (
    ("events", "Objects added, changed or deleted that the sources have told of.", lambda status: status.events),
    ("publish_failures", "Publishes that found no room.", lambda status: status.publish_failures),
    ("handler_failures", "Calls of users' handlers that raised.", lambda status: status.handler_failures),
)
_SUMMARIES: Final[tuple[tuple[str, str, Callable[[Status], tuple[int, float]]], ...]] = (
    (
        "publish_duration_seconds",
        "Time to publish a generation.",
        lambda status: (status.publishes, status.publish_seconds),
    ),
    (
        "propagation_duration_seconds",
        "From a change's last byte to its publication.",
        lambda status: (status.propagations, status.propagation_seconds_sum),
    ),
)


class WatcherCollector(Collector):
    """A watcher's status as metrics."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        status = self._watcher.status
        yield InfoMetricFamily("shmroute_build", "The watcher's version.", {"version": status.version})
        for name, text, value in _GAUGES:
            yield GaugeMetricFamily(f"shmroute_{name}", text, float(value(status)))
        for name, text, value in _COUNTERS:
            yield CounterMetricFamily(f"shmroute_{name}", text, float(value(status)))
        for name, text, values in _SUMMARIES:
            count, total = values(status)
            yield SummaryMetricFamily(f"shmroute_{name}", text, count, total)
        age = max(status.source_ages, default=float("inf")) + _silent_seconds(self._watcher)
        yield GaugeMetricFamily("shmroute_snapshot_age_seconds", "Since all sources were in step.", age)
        yield from self._sources(status)
        yield from _audits(status)
        yield from _metadata(status)

    def _sources(self, status: Status) -> Iterator[Metric]:
        age = GaugeMetricFamily("shmroute_source_age_seconds", "Since the source was in step.", labels=["resource"])
        watching = GaugeMetricFamily("shmroute_source_watching", "1 while it is watching.", labels=["resource"])
        lists = CounterMetricFamily("shmroute_source_lists", "Complete lists taken.", labels=["resource"])
        for state, seconds in zip(status.sources, status.source_ages, strict=True):
            age.add_metric([state.resource], seconds)
            watching.add_metric([state.resource], float(state.phase == "watching"))
            lists.add_metric([state.resource], state.lists)
        restarts = CounterMetricFamily("shmroute_watch_restarts", "Watches begun again.", labels=["resource", "reason"])
        for source in self._watcher.sources:
            stats = getattr(source, "stats", None)
            for reason, count in list(stats.restarts.items()) if stats is not None else ():
                restarts.add_metric([source.resources[0], reason], count)
        yield from (age, watching, lists, restarts)


def _silent_seconds(watcher: Watcher) -> float:
    """Since the owner last turned, and wrote its status."""
    return max(0.0, (time.monotonic_ns() - watcher.turned_ns) / 1e9)


def _audits(status: Status) -> Iterator[Metric]:
    done = CounterMetricFamily("shmroute_audits", "Audits completed.", labels=["resource"])
    differences = CounterMetricFamily(
        "shmroute_audit_differences", "Objects an audit found different; must stay 0.", labels=["resource"]
    )
    for audit in status.audits:
        done.add_metric([audit.resource], audit.count)
        differences.add_metric([audit.resource], audit.differences)
    yield from (done, differences)


def _metadata(status: Status) -> Iterator[Metric]:
    metadata = status.metadata
    if metadata is None:
        return
    for name, text, value in (
        ("metadata_reads", "Metadata keys read.", metadata.reads),
        ("metadata_read_commands", "Commands they were read with.", metadata.read_commands),
        ("metadata_skipped", "Keys not read, their version being known.", metadata.skipped_by_version),
        ("metadata_failures", "Reads that failed.", metadata.failures),
    ):
        yield CounterMetricFamily(f"shmroute_{name}", text, value)
    yield GaugeMetricFamily("shmroute_metadata_pending", "Metadata keys that are asked for again.", metadata.pending)


StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(watcher: Watcher) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    """The WSGI application of the three paths."""
    registry = CollectorRegistry()
    registry.register(WatcherCollector(watcher))
    metrics = make_wsgi_app(registry)

    def respond(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                answer: Iterable[bytes] = metrics(environ, start_response)
                return answer
            case "/healthz":
                healthy, text = _healthy(watcher)
            case "/readyz":
                healthy, text = _ready(watcher.status)
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"/healthz, /readyz, /metrics\n"]
        start_response("200 OK" if healthy else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"{text}\n".encode()]

    return respond


def _healthy(watcher: Watcher) -> tuple[bool, str]:
    silent = _silent_seconds(watcher)
    return silent < FROZEN_SECONDS, "ok" if silent < FROZEN_SECONDS else f"no heartbeat for {silent:.1f} s"


def _ready(status: Status) -> tuple[bool, str]:
    if status.role != "writing":
        return False, status.problem or status.role
    if not status.synced:
        waiting = ", ".join(f"{state.resource}: {state.phase} {state.reason}".strip() for state in status.sources)
        return False, f"no complete snapshot yet ({waiting})"
    # Still ready: the last state is served. What hinders a source is told all the same.
    return True, "\n".join(["ok", *(f"{state.resource}: {state.reason}" for state in status.sources if state.reason)])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """As the parent's, which also asks the name service who we are and waits for its answer."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        _log.debug(format, *args)


def serve(watcher: Watcher, listen: str) -> _Server:
    """Listen on `HOST:PORT` (or `:PORT` for all addresses) and answer from a thread until the process ends.

    Raises:
        ConfigError: not an address, or it cannot be bound.
    """
    host, separator, port = listen.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigError(f"--listen {listen!r}: write HOST:PORT or :PORT")
    kind = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, int(port), application(watcher), kind, _QuietHandler)
    except OSError as error:
        raise ConfigError(f"--listen {listen}: {error.strerror or error}") from error
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    _log.info("health and metrics on port %d", server.server_port)
    return server
