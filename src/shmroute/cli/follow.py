"""`shmroute get models -w` and `get TABLE -w`: the rows as they are, then each change, one line each, until Ctrl-C."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from shmroute.cli.output import document, paint, printable
from shmroute.worker.changes import Change, Reset
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from shmroute.worker.table_changes import TableChange, TableReset
from shmroute.worker.tables import Table

__all__ = ["follow", "follow_table", "short"]

Item = dict[str, Any]

_WIDTH: Final = 16
"""Minimum column width in characters, so that most later lines align with the earlier ones."""

_STATES: Final = {"added": "ok", "changed": "old", "removed": "bad"}
"""The colour of an event, as that of a state."""

_MAX_SHOWN: Final = 40
"""Longest value before or after a change that is shown in a column, in characters."""


def short(value: object, limit: int) -> str:
    """Return a value of a table as JSON, cut after `limit` characters; `-o json` and yaml show all of it."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= limit else f"{text[:limit]}..."


class _Lines:
    """Prints events in one output form.

    Args:
        form: that of `-o`.
        columns: column header -> the item's field; in front of them come time and event.
        name: the field that `-o name` prints.
    """

    def __init__(self, form: str, columns: Mapping[str, str], name: str) -> None:
        self._form = form
        self._name = name
        self._columns = columns
        self._widths = [8, 7, *(max(_WIDTH, len(header)) for header in columns)]
        if form in ("table", "wide"):
            self._line([header.upper() for header in ("time", "event", *columns)])

    def show(self, event: str, generation: int, item: Item, shown: Item | None = None) -> None:
        """Print one event. `shown` holds the values for the columns, by default the item itself."""
        match self._form:
            case "json" | "yaml":
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                whole = {"time": now, "event": event, "generation": generation, **item}
                text = json.dumps(whole, ensure_ascii=False) if self._form == "json" else document(whole, "yaml")
                click.echo(text if self._form == "json" else f"---\n{text}")
            case "name":
                click.echo(f"{event} {printable(item[self._name])}")
            case _:
                cells = [str((shown or item)[field]) for field in self._columns.values()]
                self._line([time.strftime("%H:%M:%S"), event, *cells])

    def _line(self, cells: list[str]) -> None:
        cells = [printable(cell) for cell in cells]
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        if cells[1] in _STATES:
            padded[1] = paint(padded[1], _STATES[cells[1]])
        click.echo("  ".join(padded).rstrip())


def follow(
    area: str,
    is_wanted: Callable[[Item], bool],
    items_of: Callable[[Route], list[Item]],
    form: str,
) -> None:
    """Print the models and their changes until Ctrl-C. `items_of` gives a route and those of other namespaces as items.

    Raises:
        NotReady: nothing has been published yet.
    """
    with Reader(area) as reader:
        reader.attach()
        wide = {"namespace": "namespace", "appmodel": "appmodel"} if form == "wide" else {}
        lines = _Lines(form, {"model": "model", **wide, "old": "old", "new": "new"}, "model")
        known: dict[str, dict[str, Item]] = {}
        for change in reader.changes():
            for event, old, new in _events(change, items_of, known):
                item = new or old or {}
                if is_wanted(item):
                    cells = {**item, "old": _served(old), "new": _served(new)}
                    lines.show(event, change.generation, {**item, "old": old}, cells)


def _served(item: Item | None) -> str:
    """Return the text of a model's row for a column."""
    return f"{item['version']} {item['app']} {item['app_version']}" if item else "-"


def _events(
    change: Change | Reset, items_of: Callable[[Route], list[Item]], known: dict[str, dict[str, Item]]
) -> Iterator[tuple[str, Item | None, Item | None]]:
    """Yield the change of each model in each namespace: what happened, the item before and after.

    `known` is what was printed so far, by model and namespace.
    """
    now: Mapping[str, Route | None] = change.routes if isinstance(change, Reset) else {change.model: change.new}
    models = known.keys() | now.keys() if isinstance(change, Reset) else now.keys()
    for model in sorted(models):
        route = now.get(model)
        items = {item["namespace"]: item for item in items_of(route)} if route is not None else {}
        before = known.pop(model, {})
        if items:
            known[model] = items
        for namespace in sorted(before.keys() - items.keys()):
            yield "removed", before[namespace], None
        for namespace, item in items.items():
            if before.get(namespace) != item:
                yield ("changed" if namespace in before else "added"), before.get(namespace), item


def follow_table(area: str, name: str, keys: tuple[str, ...], by: tuple[str, list[Any]] | None, form: str) -> None:
    """Print a table's rows and their changes until Ctrl-C.

    Args:
        area: the area's name.
        name: the table's name.
        keys: the keys to restrict it to; none for all.
        by: an index and the values to restrict it to. A row that gets such a value is "added", one that loses it
            "removed".
        form: that of `-o`.

    Raises:
        NotReady: nothing has been published yet.
    """
    with Reader(area) as reader:
        table = reader.table(name)
        lines = _Lines(form, {"key": "key", "old": "old", "new": "new"}, "key")
        known: dict[str, Any] = {}
        for change in table.changes():
            for key, value in _wanted(table, change, known, keys, by):
                old, gone = known.get(key), value is _GONE
                if not gone and key in known and old == value:
                    continue
                event = "removed" if gone else "changed" if key in known else "added"
                new = None if gone else value
                cells = {"old": "" if event == "added" else short(old, _MAX_SHOWN)}
                cells |= {"key": key, "new": "" if gone else short(new, _MAX_SHOWN)}
                lines.show(event, change.generation, {"key": key, "old": old, "new": new}, cells)
                known.pop(key, None)
                if not gone:
                    known[key] = value


_GONE: Final = object()


def _wanted(
    table: Table[Any],
    change: TableChange[Any] | TableReset[Any],
    known: Mapping[str, Any],
    keys: tuple[str, ...],
    by: tuple[str, list[Any]] | None,
) -> list[tuple[str, Any]]:
    """Return what a change means for the rows that are wanted: `(key, value)`, `_GONE` for one that is none of them
    now."""
    if isinstance(change, TableReset):
        now = {**dict.fromkeys(known, _GONE), **change.rows}
    else:
        now = {change.key: _GONE if change.kind == "removed" else change.new}
    if by is not None:
        index, values = by
        members: set[str] = set()
        with suppress(KeyError):  # declared anew without that index: no row has the value
            members.update(*(table.keys_by(index, value) for value in values))
        now = {key: value if key in members else _GONE for key, value in now.items()}
    return [
        (key, value)
        for key, value in sorted(now.items(), key=lambda item: item[0])
        if (not keys or key in keys) and (value is not _GONE or key in known)
    ]
