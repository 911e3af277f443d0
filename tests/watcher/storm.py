"""A watcher of two tables: one changes 1,000 times a second, the other now and then. For a test and a benchmark."""

from __future__ import annotations

import threading
import time
from typing import Self

from shmroute import Reader
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import WatchedKind
from shmroute.resources.table import watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.resources.table_parser import TableObject
from shmroute.rows import SettingsRow, encode
from shmroute.sources.base import Changed, Replaced, Sink, SourceState
from shmroute.watcher.loop import WatcherLoop
from tests.watcher.running import WAIT_SECONDS

BUSY_SECONDS = 0.001
"""Seconds between two changes of the table `busy`."""

CALM_SECONDS = 0.05
"""Seconds between two changes of the table `calm`, whose one row, `o0`, is `{"v": number, "ns": when it was sent}`."""


class Storm:
    """The watcher, with its sources in this process. `rows` is the number of rows of the table `busy`."""

    def __init__(self, area: str, rows: int) -> None:
        resources = {
            name: TableDefinition(resource=f"{name}.v1.example.com", required=True) for name in ("busy", "calm")
        }
        self.kinds: tuple[WatchedKind, ...] = watch_tables(resources, several_namespaces=False)
        self.changes = 0
        """Number of changes of `busy` so far."""
        self.backlog = 0
        """The most events that waited for the watcher at once."""
        self._area = area
        self._rows = rows
        self._loop = WatcherLoop(area, [self], settings=SettingsRow("", "", "a storm"))
        self._thread = threading.Thread(target=self._loop.run, daemon=True)

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Act as the source: send the first lists, and leave the changes to `blow`."""
        sink.put(Replaced("busy", tuple(self._busy(number, 0) for number in range(self._rows))))
        sink.put(Replaced("calm", (self._calm(0),)))
        for kind in self.kinds:
            sink.put(SourceState(kind.name, "watching", time.monotonic_ns()))
        stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        with Reader(self._area) as reader:
            reader.wait_ready(WAIT_SECONDS)
            reader.table("calm").wait_ready(WAIT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.stop()
        self._thread.join(WAIT_SECONDS)

    def blow(self, calm: int) -> None:
        """Change `busy` without a pause until `calm` has changed this number of times."""
        busy_at = calm_at = time.monotonic()
        number = 0
        while number < calm:
            now = time.monotonic()
            while busy_at <= now:
                self.changes += 1
                self._put("busy", self._busy(self.changes % self._rows, self.changes))
                busy_at += BUSY_SECONDS
            if now >= calm_at:
                number += 1
                self._put("calm", self._calm(number))
                calm_at += CALM_SECONDS
            self.backlog = max(self.backlog, self._loop._events.qsize())
            time.sleep(BUSY_SECONDS / 2)

    def _put(self, table: str, item: TableObject) -> None:
        self._loop.put(Changed(table, item, time.monotonic_ns()))

    @staticmethod
    def _busy(number: int, value: int) -> TableObject:
        name = f"o{number}"
        return TableObject(ObjectKey("", name), "", str(value), name, encode({"v": value, "pad": "x" * 200}))

    @staticmethod
    def _calm(value: int) -> TableObject:
        row = {"v": value, "ns": time.monotonic_ns()}
        return TableObject(ObjectKey("", "o0"), "", str(value), "o0", encode(row))
