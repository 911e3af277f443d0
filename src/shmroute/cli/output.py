"""Answers on standard output: aligned columns as kubectl prints them, JSON, YAML, or names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

__all__ = ["age_text", "columns", "document", "show"]

_GAP: Final = "   "


def columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table without lines: fit for the eye, for `awk` and for `column`."""
    cells = [[str(cell) if cell not in ("", None) else "<none>" for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[index]) for row in cells), 0) for index, name in enumerate(header)]
    lines = [[name.upper() for name in header], *cells]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def document(value: object, form: str) -> str:
    """`value`, of builtin types, as JSON or YAML."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n")


def show(
    items: Sequence[Mapping[str, Any]],
    form: str,
    table: Mapping[str, str],
    wide: Mapping[str, str],
    name: str,
) -> None:
    """Print `items` in the form asked for.

    `table` and `wide` map a column's header to the item's field, `wide` being what `-o wide` adds; `name` is the
    field that `-o name` prints.
    """
    match form:
        case "json" | "yaml":
            click.echo(document({"items": list(items)}, form))
        case "name":
            for item in items:
                click.echo(item[name])
        case _:
            shown = {**table, **(wide if form == "wide" else {})}
            if items:
                rows = [[_cell(item[field]) for field in shown.values()] for item in items]
                click.echo(columns(list(shown), rows))


def _cell(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return value


def age_text(seconds: float) -> str:
    """`12.3s`, `4m`, `3h`, `2d`, or `never` for an infinite age."""
    if seconds == float("inf"):
        return "never"
    for limit, unit, size in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f}{unit}" if size == 1 else f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
