"""The data of the status page and `/api`: builtin values, read from the area. Never writes.

Listings scan the rows in a thread of their own, never in the owner thread, and return one page at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from shmroute.errors import AreaUnavailable, NotReady
from shmroute.rows import ConflictRow, InvalidRow, Kind, MetadataRow, TableRow
from shmroute.shm.reader import RowReader
from shmroute.watcher import events
from shmroute.watcher.explain import explain, find_route
from shmroute.watcher.report import health, onlooker, report
from shmroute.watcher.status import Status
from shmroute.worker.routes import Route

MAX_PAGE_ROWS: Final = 200
"""Largest number of rows in one answer. The next page starts at `next`."""

HISTORY_SECONDS: Final = 600
"""Length of the plots, with one sample per second."""

_conflict = msgspec.msgpack.Decoder(ConflictRow).decode
_invalid = msgspec.msgpack.Decoder(InvalidRow).decode
_table = msgspec.msgpack.Decoder(TableRow).decode
_metadata = msgspec.msgpack.Decoder(MetadataRow).decode
_route = msgspec.msgpack.Decoder(Route).decode


class History:
    """One sample of the watcher's status per second, for the plots."""

    def __init__(self) -> None:
        self._samples: deque[dict[str, float | None]] = deque(maxlen=HISTORY_SECONDS)
        self._generation: int | None = None
        self._propagations = 0
        self._propagation_sum = 0.0

    def sample(self, status: Status, workers: dict[str, Any] | None = None) -> None:
        """Add a sample: generations and mean propagation since the last sample, age of the oldest source.

        `workers` is the result of `shmroute.watcher.workers.workers`; None if this sample has none.
        """
        former = status.generation if self._generation is None else self._generation
        changes = status.propagations - self._propagations
        spent = status.propagation_seconds_sum - self._propagation_sum
        age = status.age
        self._samples.append(
            {
                "time": status.now,
                "generations": max(0, status.generation - former),
                "propagation_ms": spent / changes * 1e3 if changes > 0 else None,
                "age": age if age != float("inf") else None,
                "workers": workers["count"] if workers else None,
                "behind": workers["behind"] if workers else None,
            }
        )
        self._generation = status.generation
        self._propagations, self._propagation_sum = status.propagations, status.propagation_seconds_sum

    def samples(self) -> list[dict[str, float | None]]:
        """Return all samples, the oldest first."""
        return list(self._samples)


class Views:
    """The views of one area.

    Args:
        area: the area's name.
        show_values: whether metadata values are shown. They are hidden by default: they may be confidential.
        object_of: returns which object a row of a declared table is made from. The rows do not say it, except for
            keys that several objects claim.
    """

    def __init__(
        self,
        area: str,
        *,
        show_values: bool = False,
        object_of: Callable[[str, str], str | None] = lambda table, key: None,  # noqa: ARG005
    ) -> None:
        self.area = area
        self._object_of = object_of
        self.show_values = show_values

    def status(self) -> dict[str, Any]:
        """Return the facts about watcher and area, with `health` (a word and a sentence)."""
        with onlooker(self.area) as reader:
            facts = report(reader)
        word, sentence = health(facts)
        return {**facts, "health": {"state": word, "text": sentence}}

    def models(self, search: str = "", start: int = 0, limit: int = 50) -> dict[str, Any]:
        """Return a page of the models whose name contains `search`."""

        def item(key: str, value: bytes) -> dict[str, Any]:
            route = _route(value)
            return {"model": key, "version": route.version, "app": route.app, "namespace": route.namespace}

        return self._page(Kind.MODEL, item, lambda key: search in key, start, limit)

    def model(self, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return the facts that explain the answer for a model; None if no app serves it."""
        with onlooker(self.area) as reader:
            about = report(reader)
        try:
            rows = RowReader(self.area)
        except NotReady:
            return None
        route = find_route(rows, name, namespace)
        if route is None:
            return None
        facts = explain(rows, route, about)
        if self.show_values:
            value = rows.get(Kind.METADATA, f"{route.namespace}/{route.model}")
            content = _metadata(value).value if value is not None else None
            facts["metadata_value"] = content.decode(errors="replace") if content is not None else None
        return facts

    def tables(self) -> dict[str, Any]:
        """Return the declared tables, each with the phase and age of its source."""
        with onlooker(self.area) as reader:
            facts = report(reader)
        try:
            rows = RowReader(self.area)
        except NotReady:
            return {"items": [], "generation": 0}
        items = [
            {
                "table": source["resource"],
                **{field: value for field, value in _fields(_table(row)).items() if field != "number"},
                **{field: source[field] for field in ("phase", "age", "reason")},
            }
            for source in facts["sources"]
            if (row := rows.get(Kind.TABLES, source["resource"])) is not None
        ]
        return {"items": items, "generation": rows.generation}

    def table(self, name: str, search: str = "", start: int = 0, limit: int = 50) -> dict[str, Any] | None:
        """Return a page of a declared table's keys that contain `search`; None if there is no such table."""
        table = self._declared(name)
        if table is None:
            return None
        return self._page(
            table.number, lambda key, value: {"key": key, "bytes": len(value)}, lambda key: search in key, start, limit
        )

    def table_row(self, name: str, key: str) -> dict[str, Any] | None:
        """Return the facts about one key of a declared table; None if there is no such table or key."""
        table = self._declared(name)
        if table is None:
            return None
        rows = RowReader(self.area)
        value = rows.get(table.number, key)
        if value is None:
            return None
        row = rows.get(Kind.CONFLICT, f"{name}:{key}")
        conflict = _conflict(row) if row is not None else None
        facts = {
            "table": name,
            "key": key,
            "resource": table.resource,
            "ready": table.ready,
            "bytes": len(value),
            "served_object": conflict.winner if conflict else self._object_of(name, key),
            "waiting_objects": list(conflict.losers) if conflict else [],
            "generation": rows.generation,
        }
        if self.show_values and not table.resource.startswith("secrets."):
            facts["value"] = msgspec.msgpack.decode(value)
        return facts

    def _declared(self, name: str) -> TableRow | None:
        try:
            row = RowReader(self.area).get(Kind.TABLES, name)
        except NotReady:
            return None
        return _table(row) if row is not None else None

    def events(self, since_seconds: float | None = None, model: str | None = None, limit: int = 50) -> dict[str, Any]:
        """Return at most `limit` events, the newest first: of the last `since_seconds`, and of `model` if given."""
        since = time.time() - since_seconds if since_seconds is not None else 0.0
        try:
            found = events.read(self.area, since, model)
        except AreaUnavailable as error:
            return {"items": [], "problem": str(error)}
        return {"items": found[::-1][: max(1, min(limit, MAX_PAGE_ROWS))], "problem": None}

    def conflicts(self, start: int = 0, limit: int = 50) -> dict[str, Any]:
        """Return a page of the models that several AppModels of one namespace claim."""
        return self._page(Kind.CONFLICT, lambda _, value: _fields(_conflict(value)), None, start, limit)

    def invalid(self, start: int = 0, limit: int = 50) -> dict[str, Any]:
        """Return a page of the objects and files that were set aside."""
        return self._page(Kind.INVALID, lambda _, value: _fields(_invalid(value)), None, start, limit)

    def _page(
        self,
        kind: int,
        item: Callable[[str, bytes], dict[str, Any]],
        matches: Callable[[str], bool] | None,
        start: int,
        limit: int,
    ) -> dict[str, Any]:
        limit = max(1, min(limit, MAX_PAGE_ROWS))
        try:
            rows = RowReader(self.area)
        except NotReady:
            return {"items": [], "next": None, "generation": 0}
        found = ((key, value) for _, key, value in rows.rows(kind) if matches is None or matches(key))
        page = list(islice(_yielding(found), start, start + limit + 1))
        return {
            "items": [item(key, value) for key, value in page[:limit]],
            "next": start + limit if len(page) > limit else None,
            "generation": rows.generation,
        }


def _yielding(rows: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Yield the rows, with a pause of 1 ms after each 1,000, in which the owner thread can take the GIL."""
    for number, row in enumerate(rows):
        if number % 1_000 == 999:
            time.sleep(0.001)
        yield row


def _fields(row: Any) -> dict[str, Any]:
    return {field: msgspec.to_builtins(getattr(row, field)) for field in row.__struct_fields__}
