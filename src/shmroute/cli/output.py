"""Answers on standard output: aligned columns as kubectl prints them, JSON, YAML, or names."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

_GAP: Final = "   "

_MIN_WIDTH: Final = 40
"""Width of the narrowest terminal that lines are fitted to, in characters."""

_UNPRINTABLE: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the newline, line separators, and characters that reverse the direction of text."""

_COLOURS: Final = {"ok": "green", "old": "yellow", "bad": "red"}


def printable(text: str) -> str:
    """Return `text` with control characters escaped (`\\x1b`), so that a name cannot control the terminal."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\n", "\\n"))


def paint(text: str, state: str) -> str:
    """Return `text` in the colour of `state` ("ok", "old" or "bad"); plain where `NO_COLOR` is set (no-color.org).

    click takes the colour away again where standard output is not a terminal.
    """
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=_COLOURS[state], bold=True)


def fitted(text: str, indent: int) -> str:
    """Return `text` in lines that fit the terminal, all but the first indented; unchanged without a terminal."""
    if not sys.stdout.isatty():
        return text
    width = max(_MIN_WIDTH, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def bytes_text(size: int) -> str:
    """Return a number of bytes as text: `512 B`, `1.5 KiB`, `20 MiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"


def columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns, for people and for `awk`. Control characters are escaped.

    On a terminal that is too narrow, the last column continues in further lines.
    """
    cells = [[printable(str(cell)) if cell not in ("", None) else "<none>" for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[index]) for row in cells), 0) for index, name in enumerate(header)]
    lines = [[name.upper() for name in header], *cells]
    indent = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    return "\n".join(
        fitted(_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), indent)
        for line in lines
    )


def document(value: object, form: str) -> str:
    """Return `value`, of builtin types, as JSON or YAML."""
    if form == "json":
        text = json.dumps(value, indent=2, ensure_ascii=False)
        return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n")


def show(items: Sequence[Mapping[str, Any]], form: str, name: str, table: str, wide: str = "") -> None:
    """Print `items` in an output form.

    Args:
        items: what to print, a map of fields each.
        form: that of `-o`.
        name: the field that `-o name` prints.
        table: names of the columns, each `field` or `header=field`.
        wide: the columns that `-o wide` adds.
    """
    shown = [_column(each) for each in f"{table} {wide if form == 'wide' else ''}".split()]
    match form:
        case "json" | "yaml":
            click.echo(document({"items": list(items)}, form))
        case "name":
            for item in items:
                click.echo(printable(str(item[name])))
        case _:
            if items:
                rows = [[_cell(item[field]) for _, field in shown] for item in items]
                click.echo(columns([header for header, _ in shown], rows))


def _column(text: str) -> tuple[str, str]:
    """Return header and field of a column."""
    header, _, field = text.partition("=")
    return header.replace("_", "-"), field or header


def _cell(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return value
