"""A real watcher on real shared memory; the test sends the events of its sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shmroute import Reader
from shmroute.resources.appmodel import AppModel, ModelVersion
from shmroute.resources.endpointslice import EndpointSlice, SliceEndpoint, SlicePort
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, BUILT_IN
from shmroute.rows import SettingsRow
from shmroute.sources.base import Event, Resource, Sink, Source, SourceState
from shmroute.watcher.loop import WatcherLoop

NAMESPACE = "test"
WAIT_SECONDS = 30.0
"""Longest wait in seconds: far longer than any step, so that a busy machine fails no test."""
SETTINGS = SettingsRow(NAMESPACE, "", "the test")


def appmodel(name: str, *models: str, version: str = "v1") -> AppModel:
    """Return an AppModel whose app has its name; a model without `=version` has version "1"."""
    key = ObjectKey(NAMESPACE, name)
    pairs = [model.partition("=") for model in models or (name,)]
    return AppModel(key, "", "", name, version, tuple(ModelVersion(model, of or "1") for model, _, of in pairs), key)


def endpointslice(service: str, *addresses: str) -> EndpointSlice:
    key = ObjectKey(NAMESPACE, f"{service}-1")
    endpoints = tuple(SliceEndpoint(address, True, True, False) for address in addresses)
    return EndpointSlice(key, "1", ObjectKey(NAMESPACE, service), "IPv4", (SlicePort("", 80),), endpoints)


def wait_for(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Clock:
    """Monotonic nanoseconds that go on by themselves, and can be set forward."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.ahead_ns

    def forward(self, seconds: float) -> None:
        self.ahead_ns += int(seconds * 1e9)


class Told:
    """A source that sends the events put by the test."""

    def __init__(self, *resources: Resource) -> None:
        self.kinds = tuple(kind for kind in BUILT_IN if kind.name in (resources or (APPMODELS.name,)))
        self.started = threading.Event()
        self._sink: Sink | None = None

    def put(self, *events: Event) -> None:
        assert self.started.wait(WAIT_SECONDS)
        assert self._sink is not None
        for event in events:
            self._sink.put(event)

    def in_step(self, at_ns: int | None = None) -> None:
        """Say that all resources are in step, now or at that time."""
        contact = time.monotonic_ns() if at_ns is None else at_ns
        self.put(*(SourceState(kind.name, "watching", contact) for kind in self.kinds))

    def run(self, sink: Sink, stop: threading.Event) -> None:
        self._sink = sink
        self.started.set()
        stop.wait()


class Running:
    """A watcher in a thread of its own."""

    def __init__(self, area: str, *sources: Source, **options: Any) -> None:
        self.sources = sources
        self.watcher = WatcherLoop(area, sources, settings=SETTINGS, **options)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    @property
    def source(self) -> Told:
        """The only source, which sends the events that the test puts."""
        (source,) = self.sources
        assert isinstance(source, Told)
        return source

    def _run(self) -> None:
        try:
            self.watcher.run()
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    def stop(self) -> None:
        self.watcher.stop()
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive(), "the watcher did not stop"
        if self.error is not None:
            raise self.error


@contextmanager
def running(area: str, *resources: Resource, **options: Any) -> Iterator[Running]:
    """Yield a watcher of a `Told` source, stopped at the end."""
    it = Running(area, Told(*resources), **options)
    it.thread.start()
    try:
        yield it
    finally:
        it.stop()


@contextmanager
def reading(area: str) -> Iterator[Reader]:
    """Yield a reader, once there is a first snapshot."""
    with Reader(area) as reader:
        reader.wait_ready(WAIT_SECONDS)
        yield reader
