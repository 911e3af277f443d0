"""`shmroute get models -w` and `get TABLE -w`: the rows as they are, then each change, one line each, until Ctrl-C."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import click
import msgspec

from shmroute.cli.output import document, paint, printable
from shmroute.worker.reader import Reader
from shmroute.worker.table_changes import TableReset
from shmroute.worker.tables import Table

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
        columns: the item's fields in front of the old and the new state; the first is what `-o name` prints.
    """

    def __init__(self, form: str, columns: Collection[str]) -> None:
        self._form = form
        self._columns = [*columns, "old", "new"]
        self._widths = [8, 7, *(_WIDTH for _ in self._columns)]
        if form in ("table", "wide"):
            self._line([header.upper() for header in ("time", "event", *self._columns)])

    def show(self, event: str, generation: int, item: Item, old: str, new: str) -> None:
        """Print one event; `old` and `new` are the states for the columns."""
        match self._form:
            case "json" | "yaml":
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                whole = {"time": now, "event": event, "generation": generation, **item}
                text = json.dumps(whole, ensure_ascii=False) if self._form == "json" else document(whole, "yaml")
                click.echo(text if self._form == "json" else f"---\n{text}")
            case "name":
                click.echo(f"{event} {printable(item[self._columns[0]])}")
            case _:
                cells = {**item, "old": old, "new": new}
                self._line([time.strftime("%H:%M:%S"), event, *(cells[field] for field in self._columns)])

    def _line(self, cells: list[str]) -> None:
        cells = [printable(cell) for cell in cells]
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        if cells[1] in _STATES:
            padded[1] = paint(padded[1], _STATES[cells[1]])
        click.echo("  ".join(padded).rstrip())


class _Event(NamedTuple):
    """One part of a row was added, changed or removed. A model's row has a part for each namespace."""

    kind: str
    generation: int
    key: str
    old: Any
    new: Any


def _events(
    table: Table[Any],
    parts_of: Callable[[str, Any], Mapping[str, Any]],
    members: Callable[[], Collection[str]] | None = None,
) -> Iterator[_Event]:
    """Yield the parts that the table has, then their changes.

    Args:
        table: the table.
        parts_of: returns the parts of a row that are wanted, by an identity of each.
        members: returns the keys of the rows that are wanted now; None: all rows.
    """
    known: dict[str, Mapping[str, Any]] = {}
    for change in table.changes():
        if isinstance(change, TableReset):
            rows, keys = change.rows, sorted(change.rows.keys() | known.keys())
        else:
            rows, keys = {} if change.kind == "removed" else {change.key: change.new}, [change.key]
        if members is not None:
            wanted: Collection[str] = ()
            with suppress(KeyError):  # redefined without that index: no row has the value
                wanted = members()
            rows = {key: value for key, value in rows.items() if key in wanted}
        for key in keys:
            before, now = known.pop(key, {}), parts_of(key, rows[key]) if key in rows else {}
            if now:
                known[key] = now
            for part in sorted(before.keys() - now.keys()):
                yield _Event("removed", change.generation, key, before[part], None)
            for part, new in now.items():
                if part not in before:
                    yield _Event("added", change.generation, key, None, new)
                elif before[part] != new:
                    yield _Event("changed", change.generation, key, before[part], new)


def follow_models(
    reader: Reader, is_wanted: Callable[[Item], bool], items_of: Callable[[Any], list[Item]], form: str
) -> None:
    """Print the models and their changes until Ctrl-C. `items_of` makes items of a route and its `others`."""

    def parts_of(_model: str, route: Any) -> dict[str, Item]:
        return {item["namespace"]: item for item in items_of(route) if is_wanted(item)}

    def served(item: Item | None) -> str:
        return f"{item['version']} {item['app']} {item['app_version']}" if item else "-"

    lines = _Lines(form, ["model", "namespace", "appmodel"] if form == "wide" else ["model"])
    for event in _events(reader.table("models"), parts_of):
        item = {**(event.new or event.old), "old": event.old}
        lines.show(event.kind, event.generation, item, served(event.old), served(event.new))


def follow_table(
    reader: Reader, name: str, keys: Collection[str], members: Callable[[], Collection[str]] | None, form: str
) -> None:
    """Print a table's rows and their changes until Ctrl-C.

    Args:
        reader: a reader of the area.
        name: the table's name.
        keys: the keys to restrict it to; none for all.
        members: returns the keys that an index has for the wanted value; None for all. A row that gets such a value is
            "added", one that loses it "removed".
        form: that of `-o`.
    """

    def parts_of(key: str, value: Any) -> dict[str, Any]:
        return {key: value} if not keys or key in keys else {}

    lines = _Lines(form, ["key"])
    for event in _events(reader.table(name), parts_of, members):
        old = "" if event.kind == "added" else short(event.old, _MAX_SHOWN)
        new = "" if event.kind == "removed" else short(event.new, _MAX_SHOWN)
        item = {"key": event.key, "old": event.old, "new": event.new}
        lines.show(event.kind, event.generation, item, old, new)
