"""A real watcher with real shared memory and a real store; the test sends the AppModels."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from shmroute import Reader
from shmroute.metadata.loader import MetadataCounters, MetadataLimits, MetadataLoader
from shmroute.metadata.store import Store
from shmroute.metadata.template import KeyTemplate
from shmroute.resources.appmodel import AppModel, ModelVersion
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, WatchedKind
from shmroute.rows import SettingsRow
from shmroute.sources.base import Changed, Deleted, Event, Replaced, Resync, Sink, SourceState
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.metadata_feed import MetadataFeed
from tests.metadata.redis_groups import wait_for

NAMESPACE = "meta-test"
JOIN_SECONDS = 10.0


def appmodel(name: str, models: dict[str, str], *, version: str = "v-1", app: str = "", created: str = "") -> AppModel:
    """Return an AppModel; its app has the AppModel's name unless `app` is given."""
    key = ObjectKey(NAMESPACE, name)
    pairs = tuple(ModelVersion(model, of) for model, of in models.items())
    return AppModel(key, created, "", app or name, version, pairs, key)


class ToldSource:
    """A source that sends the events put by the test."""

    kinds: tuple[WatchedKind, ...] = (APPMODELS,)

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def put(self, event: Event | None) -> None:
        self._events.put(event)

    def run(self, sink: Sink, stop: threading.Event) -> None:
        sink.put(SourceState("appmodels", "watching", 1))
        while not stop.is_set():
            event = self._events.get(timeout=600)
            if event is None:
                return
            sink.put(event)


class Watching:
    """The running watcher."""

    def __init__(self, area: str, store: Store, limits: MetadataLimits | None, template: KeyTemplate | None) -> None:
        self.area = area
        self.reader = Reader(area)
        self.loader = MetadataLoader(store, limits=limits)
        self._source = ToldSource()
        settings = SettingsRow(NAMESPACE, "", "the test")
        self.feed = MetadataFeed(self.loader, template)
        self.watcher = WatcherLoop(area, [self._source], settings=settings, metadata=self.feed)
        self._thread = threading.Thread(target=self.watcher.run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._source.put(None)
        self.watcher.stop()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive()
        assert not self.watcher.failed
        self.reader.close()

    def list(self, appmodels: Iterable[AppModel]) -> None:
        """Send these AppModels as the complete list."""
        self._source.put(Replaced("appmodels", tuple(appmodels)))

    def change(self, changed: AppModel) -> None:
        self._source.put(Changed("appmodels", changed))

    def delete(self, name: str) -> None:
        self._source.put(Deleted("appmodels", ObjectKey(NAMESPACE, name)))

    def resync(self) -> None:
        self._source.put(Resync("appmodels"))

    # --- what comes of it ------------------------------------------------------------------------------

    def wait_routed(self, model: str, version: str, *, app_version: str = "") -> None:
        """Wait until a worker sees the route; the rows of its metadata are then published too."""

        def routed() -> bool:
            route = self.reader.get(model)
            return route is not None and route.version == version and app_version in ("", route.app_version)

        self.reader.wait_ready(JOIN_SECONDS)
        wait_for(routed)

    def wait_loaded(self, *models: str) -> None:
        """Wait until a worker sees the metadata of the models in the versions of their routes."""
        self.reader.wait_ready(JOIN_SECONDS)
        for model in models:
            wait_for(lambda model=model: self.state(model) == "loaded")  # type: ignore[misc]

    def wait_state(self, model: str, state: str, reason: str = "") -> None:
        """Wait until a worker sees the state, and a listing of pending metadata the reason."""

        def stands() -> bool:
            pending = {
                each.row[1].rpartition("/")[2]: each.reason for each in list(self.loader._scheduler.pending.values())
            }
            return self.state(model) == state and reason in pending.get(model, "")

        self.reader.wait_ready(JOIN_SECONDS)
        wait_for(stands)

    def state(self, model: str) -> str:
        route = self.reader.get(model)
        return route.metadata_state if route else "no route"

    def settle(self) -> None:
        """Wait until all events put so far have been applied and published."""
        marker = appmodel("marker", {"marker": "v-1"}, version=f"v-{self._marks}")
        self._marks += 1
        self.change(marker)
        self.wait_routed("marker", "v-1", app_version=marker.version)

    _marks = 0

    @property
    def counters(self) -> MetadataCounters:
        return self.loader.counters

    @property
    def skipped(self) -> int:
        """Number of routes that cost no read, because their version was the same."""
        return self.feed.status().skipped_by_version


@contextmanager
def watching(
    area: str, store: Store, *, limits: MetadataLimits | None = None, template: KeyTemplate | None = None
) -> Iterator[Watching]:
    """Yield a watcher on an area of the test's own."""
    it = Watching(area, store, limits, template)
    it.start()
    try:
        yield it
    finally:
        it.stop()
