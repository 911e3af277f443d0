"""`shmroute get models -w`: the models as they are, then each change, one line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click

from shmroute.worker.changes import Change, Reset
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

__all__ = ["follow"]

Item = dict[str, Any]

_WIDTH: Final = 12
"""Minimum column width in characters, so that most later lines align with the earlier ones."""


def follow(
    area: str,
    is_wanted: Callable[[Item], bool],
    items_of: Callable[[Route], list[Item]],
    table: Mapping[str, str],
    form: str,
) -> None:
    """Print until Ctrl-C.

    `items_of` gives a route and those of other namespaces as items; `table` maps a column's header to an item's field.

    Raises:
        NotReady: nothing has been published yet.
    """
    columns = {"event": "event", **table}
    widths = [max(_WIDTH, len(name)) for name in columns]

    def show(cells: list[str]) -> None:
        widths[:] = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())

    with Reader(area) as reader:
        reader.attach()
        if form in ("table", "wide"):
            show([name.upper() for name in columns])
        known: dict[str, dict[str, Item]] = {}
        for change in reader.changes():
            for event, item in _events(change, items_of, known):
                if not is_wanted(item):
                    continue
                match form:
                    case "json":
                        line = {"event": event, "generation": change.generation, **item}
                        click.echo(json.dumps(line, ensure_ascii=False))
                    case "yaml":
                        from shmroute.cli.output import document

                        line = {"event": event, "generation": change.generation, **item}
                        click.echo("---\n" + document(line, form))
                    case "name":
                        click.echo(f"{event} {item['model']}")
                    case _:
                        show([str({"event": event, **item}[field]) for field in columns.values()])


def _events(
    change: Change | Reset, items_of: Callable[[Route], list[Item]], known: dict[str, dict[str, Item]]
) -> Iterator[tuple[str, Item]]:
    """The change of each model in each namespace; `known` is what was printed so far, by model and namespace."""
    now: Mapping[str, Route | None] = change.routes if isinstance(change, Reset) else {change.model: change.new}
    models = known.keys() | now.keys() if isinstance(change, Reset) else now.keys()
    for model in sorted(models):
        route = now.get(model)
        items = {item["namespace"]: item for item in items_of(route)} if route is not None else {}
        before = known.pop(model, {})
        if items:
            known[model] = items
        for namespace in sorted(before.keys() - items.keys()):
            yield "removed", before[namespace]
        for namespace, item in items.items():
            if before.get(namespace) != item:
                yield ("changed" if namespace in before else "added"), item
