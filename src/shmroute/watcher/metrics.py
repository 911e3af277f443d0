"""Exposes a watcher's status as Prometheus metrics. No label names a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from shmroute.sources.base import ServerSource
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.status import Status
from shmroute.watcher.workers import workers

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
    (
        "no_room_objects",
        "AppModels, addresses and metadata values set aside: their namespace has taken its share.",
        lambda status: status.no_room_objects,
    ),
    (
        "blocked",
        "1 while the newest state cannot be published.",
        lambda status: status.problem not in ("", status.tables_problem),
    ),
    (
        "tables_file_invalid",
        "1 while the tables file cannot be used as it is.",
        lambda status: bool(status.tables_problem),
    ),
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
    """Makes metrics from a watcher's status at each scrape."""

    def __init__(self, watcher: WatcherLoop) -> None:
        self._watcher = watcher

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their current values."""
        status = self._watcher.status
        yield InfoMetricFamily("shmroute_build", "The watcher's version.", {"version": status.version})
        for name, text, value in _GAUGES:
            yield GaugeMetricFamily(f"shmroute_{name}", text, float(value(status)))
        for name, text, value in _COUNTERS:
            yield CounterMetricFamily(f"shmroute_{name}", text, float(value(status)))
        for name, text, values in _SUMMARIES:
            count, total = values(status)
            yield SummaryMetricFamily(f"shmroute_{name}", text, count, total)
        age = status.age + silent_seconds(self._watcher)
        yield GaugeMetricFamily("shmroute_snapshot_age_seconds", "Since all sources were in step.", age)
        steady = status.settings.steady_seconds if status.settings else 0.0
        yield GaugeMetricFamily(
            "shmroute_snapshot_age_healthy_seconds",
            "Highest snapshot age while all is well, by --probe-seconds; +Inf where nothing bounds it.",
            steady or float("inf"),
        )
        yield from self._sources(status)
        yield from _workers(status.area)
        yield from _audits(status)
        yield from _threads(status)
        yield from _metadata(status)

    def _sources(self, status: Status) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "shmroute_source_age_seconds", "Since the watch or the server's cache was heard.", labels=["resource"]
        )
        storage = GaugeMetricFamily(
            "shmroute_source_storage_age_seconds", "Since the storage was last confirmed.", labels=["resource"]
        )
        watching = GaugeMetricFamily("shmroute_source_watching", "1 while it is watching.", labels=["resource"])
        missing = GaugeMetricFamily(
            "shmroute_source_missing",
            "1 while the API server does not serve the resource: its definition is deleted, or not installed.",
            labels=["resource"],
        )
        lists = CounterMetricFamily("shmroute_source_lists", "Complete lists taken.", labels=["resource"])
        for state in status.sources:
            age.add_metric([state.resource], status.seconds_since(state.contact_ns))
            storage.add_metric([state.resource], status.seconds_since(state.confirmed_ns))
            watching.add_metric([state.resource], float(state.phase == "watching"))
            missing.add_metric([state.resource], float(state.missing))
            lists.add_metric([state.resource], state.lists)
        restarts = CounterMetricFamily("shmroute_watch_restarts", "Watches begun again.", labels=["resource", "reason"])
        for source in self._watcher.sources:
            for reason, count in list(source.restarts.items()) if isinstance(source, ServerSource) else ():
                restarts.add_metric([source.kinds[0].name, reason], count)
        yield from (age, storage, watching, missing, lists, restarts)


def silent_seconds(watcher: WatcherLoop) -> float:
    """Return the seconds since the owner's loop last turned and wrote its status."""
    return max(0.0, (time.monotonic_ns() - watcher.turned_ns) / 1e9)


def _workers(area: str) -> Iterator[Metric]:
    """Yield the workers' metrics; none if the register cannot be read, since 0 would be wrong."""
    found = workers(area)
    if not found["known"]:
        return
    yield GaugeMetricFamily("shmroute_workers", "Processes that have the area open.", found["count"])
    yield GaugeMetricFamily(
        "shmroute_workers_behind", "Processes that could not go to a newer generation.", found["behind"]
    )
    if found["oldest"] is not None:
        yield GaugeMetricFamily(
            "shmroute_workers_oldest_generation", "Lowest generation that a process answers from.", found["oldest"]
        )


def _audits(status: Status) -> Iterator[Metric]:
    done = CounterMetricFamily("shmroute_audits", "Audits completed.", labels=["resource"])
    differences = CounterMetricFamily(
        "shmroute_audit_differences", "Objects an audit found different; must stay 0.", labels=["resource"]
    )
    for audit in status.audits:
        done.add_metric([audit.resource], audit.count)
        differences.add_metric([audit.resource], audit.differences)
    yield from (done, differences)


def _threads(status: Status) -> Iterator[Metric]:
    alive = GaugeMetricFamily("shmroute_thread_alive", "1 while the helper thread runs.", labels=["thread"])
    restarts = CounterMetricFamily("shmroute_thread_restarts", "Restarts of the helper thread.", labels=["thread"])
    for thread in status.threads:
        alive.add_metric([thread.name], float(thread.alive))
        restarts.add_metric([thread.name], thread.restarts)
    yield from (alive, restarts)


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
