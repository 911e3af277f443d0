"""`shmroute get`: list the rows of the area, as `kubectl get` would."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import click
import msgspec
from click.shell_completion import CompletionItem

from shmroute.cli import options, output
from shmroute.cli.follow import follow, follow_table, short
from shmroute.cli.row_views import VIEWS, Item, View, add_ages, built_in_tables, decode_table, model_items, table_view
from shmroute.errors import ShmrouteError, TableNotReady
from shmroute.resources.table_definition import TABLE_NAME
from shmroute.rows import Kind, TableRow, bucket_key, index_value
from shmroute.shm.reader import RowReader
from shmroute.watcher.report import age_words, status_of
from shmroute.worker import environment

_MAX_SHOWN: Final = 80
"""Longest value shown in a column, in characters; -o json and yaml show all of it."""

_NAMES: Final = f"{', '.join(VIEWS)}, workers"
"""Everything that can be listed besides declared tables."""


class _What(click.ParamType[str]):
    """A view, or the name of a declared table of the area."""

    name = "what"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not TABLE_NAME.fullmatch(value):
            self.fail(f"{value!r} is not the name of a table, nor one of {_NAMES}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        try:
            tables = [key for _, key, _ in RowReader(ctx.params.get("area") or environment.area()).rows(Kind.TABLES)]
        except ShmrouteError:
            tables = []
        return [CompletionItem(each) for each in (*VIEWS, "workers", *tables) if each.startswith(incomplete)]


def _view_of(what: str, rows: RowReader, by: str | None) -> tuple[View, frozenset[str] | None]:
    """Return the view of a name, and the keys to restrict it to; None for all. Raises `TableNotFound`, `UsageError`."""
    if what in VIEWS:
        if by:
            raise click.UsageError("--by is for declared tables")
        return VIEWS[what], None
    row = rows.get(Kind.TABLES, what)
    if row is None:
        raise click.UsageError(f"{what!r} is neither a table of this area nor one of {_NAMES}")
    table = decode_table(row)
    if not table.ready:
        raise TableNotReady(what, environment.area())
    return table_view(table), frozenset(_keys_by(rows, table, *_index_of(what, table, by))) if by else None


def _index_of(name: str, table: TableRow, by: str) -> tuple[str, list[Any]]:
    """Return the index that `--by` names, and the values that it may mean: `1` is a number and a text."""
    index, equals, text = by.partition("=")
    if not equals:
        raise click.UsageError(f"--by {by!r}: write INDEX=VALUE")
    if index not in table.indexes:
        raise click.UsageError(f"table {name!r} has no index {index!r}; it has {', '.join(table.indexes) or 'none'}")
    values: list[Any] = [text]
    with suppress(msgspec.DecodeError):
        values.append(msgspec.json.decode(text))
    return index, [value for value in values if index_value(index, value) is not None]


def _keys_by(rows: RowReader, table: TableRow, index: str, values: list[Any]) -> list[str]:
    entries = {entry for value in values if (entry := index_value(index, value)) is not None}
    found: list[str] = []
    for entry in entries:
        first = rows.get(table.number + 1, bucket_key(entry, 0))
        if first is None:
            continue
        buckets, keys = msgspec.msgpack.decode(first)
        found += keys
        for bucket in range(1, buckets):
            found += msgspec.msgpack.decode(rows.get(table.number + 1, bucket_key(entry, bucket)) or b"\x90")
    return found


@click.command()
@click.argument("what", type=_What())
@click.argument("names", nargs=-1, metavar="[NAME...]")
@options.namespaces
@options.area
@click.option("-w", "--watch", is_flag=True, help="Models and declared tables: then print each change, until Ctrl-C.")
@click.option("--by", metavar="INDEX=VALUE", help="Declared tables only: the rows whose index has this value.")
@click.option("--pending", is_flag=True, help="Metadata only: those whose value of the current version is not loaded.")
@options.output("table", "wide", "json", "yaml", "name")
def command(
    what: str,
    names: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    area: str,
    watch: bool,
    by: str | None,
    pending: bool,
    output: str,
) -> None:
    """List the rows of the area.

    WHAT is models, apps, endpoints, metadata, conflicts, invalid, tables, workers, or the name of a declared table.
    With NAMEs only those; ends with 5 if one does not exist. Lists all watched namespaces unless -n is given.
    """
    wanted_namespace = options.one_namespace(namespace, all_namespaces)
    if wanted_namespace is not None and (what == "tables" or (what not in VIEWS and what != "workers")):
        raise click.UsageError("-n is not for tables: where several namespaces are watched, their keys begin with it")
    if watch:
        if what not in VIEWS and what != "workers":
            rows = RowReader(area)
            _view_of(what, rows, by)  # which refuses what is no table
            index = _index_of(what, decode_table(rows.get(Kind.TABLES, what) or b""), by) if by else None
            follow_table(area, what, names, index, output)
            return
        if what != "models":
            raise click.UsageError("-w is for models and declared tables")
        follow(area, lambda item: _is_wanted(item, wanted_namespace, names), model_items, output)
        return
    if what == "workers":
        _show_workers(area, output)
        return
    rows = RowReader(area)
    view, keys = _view_of(what, rows, by)
    found = [(key, value) for _, key, value in rows.rows(view.kind) if keys is None or key in keys]
    if what == "tables":
        found += built_in_tables(rows)
    items = [item for key, value in found for item in view.items(key, value)]
    items = [
        item
        for item in items
        if _is_wanted(item, wanted_namespace, names, view.name) and not (pending and item.get("state") == "loaded")
    ]
    if what == "tables":
        add_ages(items, area)
    items.sort(key=lambda item: (item.get("namespace", ""), item[view.name]))
    cut = what not in VIEWS and output in ("table", "wide")
    _show([{**item, "value": short(item["value"], _MAX_SHOWN)} for item in items] if cut else items, output, view)
    missing = set(names) - {item[view.name] for item in items}
    for name in sorted(missing):
        click.echo(f"error: {what} {name!r} not found", err=True)
    if missing:
        raise SystemExit(5)
    if not items and output in ("table", "wide"):
        click.echo(_nothing(what, area), err=True)


def _nothing(what: str, area: str) -> str:
    if what == "invalid":
        return "No invalid objects."
    if what == "metadata":
        status = status_of(area)[1]
        if status is not None and status.metadata is None:
            return "This watcher reads no metadata (--redis, --metadata)."
    return f"No {what} found."


def _show_workers(area: str, form: str) -> None:
    from shmroute.watcher.workers import workers

    control, _ = status_of(area)  # raises where there is no area
    found = workers(area)
    if not found["known"]:
        raise ShmrouteError(f"the workers of area {area!r} are not known: {found['reason']}")
    items = [{**item, "noted_age": age_words(item["noted_seconds"])} for item in found["items"]]
    table = {"pid": "pid", "state": "state", "answers-from": "generation", "last-move": "noted_age"}
    table["reason"] = "reason"
    output.show(items, form, table, {"stuck-at": "stuck_at", "look-up": "look_up"}, "pid")
    if not items and form in ("table", "wide"):
        click.echo("No workers found.", err=True)
    elif form in ("table", "wide"):
        click.echo(f"newest generation {control.generation}; a worker moves to it at its next look-up", err=True)


def _is_wanted(item: Item, namespace: str | None, names: tuple[str, ...], name: str = "model") -> bool:
    return (namespace is None or item["namespace"] == namespace) and (not names or item[name] in names)


def _show(items: list[Item], form: str, view: View) -> None:
    output.show(items, form, view.table, view.wide, view.name)
