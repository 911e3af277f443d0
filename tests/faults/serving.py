"""A watcher on a Kubernetes source, and a reader of its area: the whole path within the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shmroute import Reader
from shmroute.kube.connection import Connection
from shmroute.resources.registry import APPMODELS
from shmroute.rows import SettingsRow
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.sources.kubernetes.timing import Timing
from shmroute.watcher.loop import WatcherLoop

__all__ = ["Served", "serve"]

STOP_SECONDS = 10.0


@dataclass
class Served:
    """A worker's view of the routes (`reader`), and the source that feeds it."""

    source: KubernetesSource
    watcher: WatcherLoop
    reader: Reader


@contextmanager
def serve(connection: Connection, area: str, timing: Timing, **options: Any) -> Iterator[Served]:
    """Follow all AppModels of the server into `area`. `options` are a watcher's own."""
    source = KubernetesSource(connection, APPMODELS, namespace=None, timing=timing)
    watcher = WatcherLoop(area, [source], settings=SettingsRow("", "", connection.host), **options)
    thread = threading.Thread(target=watcher.run, daemon=True)
    thread.start()
    reader = Reader(area)
    try:
        yield Served(source, watcher, reader)
    finally:
        reader.close()
        watcher.stop()
        thread.join(STOP_SECONDS)
        assert not thread.is_alive(), "the watcher did not stop"
