"""`shmroute get`: list the rows of the area, as `kubectl get` would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import click
import msgspec
from click.shell_completion import CompletionItem

from shmroute.cli import options
from shmroute.cli.follow import follow_models, follow_table, short
from shmroute.cli.output import show
from shmroute.cli.row_views import VIEWS, Item, View, add_ages, built_in_tables, decode_table, model_items, table_view
from shmroute.errors import ShmrouteError, TableNotReady
from shmroute.resources.table_definition import TABLE_NAME
from shmroute.rows import Kind, index_value
from shmroute.shm.reader import RowReader
from shmroute.watcher.report import age_words, onlooker, status_of
from shmroute.worker import environment
from shmroute.worker.tables import Table

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


def _view_of(what: str, rows: RowReader) -> View:
    """Return the view of a name. Raises `UsageError`, and `TableNotReady`."""
    if what in VIEWS:
        return VIEWS[what]
    row = rows.get(Kind.TABLES, what)
    if row is None:
        raise click.UsageError(f"{what!r} is neither a table of this area nor one of {_NAMES}")
    table = decode_table(row)
    if not table.ready:
        raise TableNotReady(what, environment.area())
    return table_view(table)


def _members(table: Table[Any], by: str) -> Callable[[], frozenset[str]]:
    """Return what returns the keys that `--by` selects. A value such as `1` stands for a number and for a text."""
    index, equals, text = by.partition("=")
    if not equals:
        raise click.UsageError(f"--by {by!r}: write INDEX=VALUE")
    values: list[Any] = [text]
    with suppress(msgspec.DecodeError):
        values.append(msgspec.json.decode(text))
    wanted = [value for value in values if index_value(index, value) is not None]

    def members() -> frozenset[str]:
        return frozenset(key for value in wanted for key in table.keys_by(index, value))

    try:
        members()
    except KeyError as error:
        raise click.UsageError(error.args[0]) from None
    return members


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
    declared = what not in VIEWS and what != "workers"
    if wanted_namespace is not None and (declared or what == "tables"):
        raise click.UsageError(
            "-n is not for tables: if several namespaces are watched, the key of a row begins with its namespace"
        )
    if by and not declared:
        raise click.UsageError("--by is for declared tables")
    if watch and not declared and what != "models":
        raise click.UsageError("-w is for models and declared tables")
    if what == "workers":
        _show_workers(area, output)
        return
    rows = RowReader(area)
    view = _view_of(what, rows)

    def is_wanted(item: Item) -> bool:
        return (wanted_namespace is None or item["namespace"] == wanted_namespace) and (
            not names or item[view.name] in names
        )

    with onlooker(area) as reader:
        members = _members(reader.table(what), by) if by else None
        if watch:
            if declared:
                follow_table(reader, what, names, members, output)
            else:
                follow_models(reader, is_wanted, model_items, output)
            return
        wanted = members() if members is not None else None
        found = [(key, value) for _, key, value in rows.rows(view.kind) if wanted is None or key in wanted]
        if what == "tables":
            found += built_in_tables(rows)
        items = [item for key, value in found for item in view.items(key, value) if is_wanted(item)]
        if what == "tables":
            add_ages(items, reader)
    if pending:
        items = [item for item in items if item.get("state") != "loaded"]
    items.sort(key=lambda item: (item.get("namespace", ""), item[view.name]))
    if declared and output in ("table", "wide"):
        items = [{**item, "value": short(item["value"], _MAX_SHOWN)} for item in items]
    show(items, output, view.name, view.table, view.wide)
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
    columns = "pid state answers_from=generation last_move=noted_age reason"
    show(items, form, "pid", columns, "stuck_at look_up")
    if not items and form in ("table", "wide"):
        click.echo("No workers found.", err=True)
    elif form in ("table", "wide"):
        click.echo(f"newest generation {control.generation}; a worker moves to it at its next look-up", err=True)
