"""The demo's output: plain lines, and on a terminal a live table of the workers below them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COLUMNS", "LiveView", "PlainView", "View", "view"]

COLUMNS: Final = ("look-ups/s", "memory", "a dict", "saw the move", "requests")
"""Columns of the table of workers."""

_HEAD_WIDTH: Final = 14
_REFRESHES_A_SECOND: Final = 8


class View(Protocol):
    """Output of the demo."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, head: str, text: str) -> None:
        """Print an event."""

    def worker(self, pid: int, column: str, value: str) -> None:
        """Print a figure of one worker; `column` is one of `COLUMNS`."""

    def count(self, requests: Callable[[], dict[int, int]]) -> None:
        """Take the number of requests of each worker from this function from now on."""


class PlainView:
    """Lines on standard output."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, head: str, text: str) -> None:
        """One line."""
        click.echo(f"{head:<{_HEAD_WIDTH}}{text}".rstrip())

    def worker(self, pid: int, column: str, value: str) -> None:
        """One line."""
        self.say(column, f"worker {pid}: {value}")

    def count(self, requests: Callable[[], dict[int, int]]) -> None:
        """Show nothing: the last lines have the totals."""


class LiveView:
    """Lines that scroll above a live table of the workers."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._cells: dict[int, dict[str, str]] = {}
        self._requests: dict[int, int] = {}
        self._counting: Callable[[], dict[int, int]] = dict
        self._live: AbstractContextManager[Any] = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=_REFRESHES_A_SECOND
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def say(self, head: str, text: str) -> None:
        """Print one line above the table."""
        from rich.text import Text

        style = "bold green" if head == "proven" else "bold cyan"
        self._console.print(Text.assemble((f"{head:<{_HEAD_WIDTH}}", style), text))

    def worker(self, pid: int, column: str, value: str) -> None:
        """Update one cell of the table."""
        self._cells.setdefault(pid, {})[column] = value

    def count(self, requests: Callable[[], dict[int, int]]) -> None:
        """Update the last column of the table."""
        for pid, count in self._counting().items():
            self._requests[pid] = self._requests.get(pid, 0) + count
        self._counting = requests

    def _table(self) -> Table:
        from rich.table import Table

        table = Table("worker", *COLUMNS, box=None, header_style="bold", pad_edge=False)
        counting = self._counting()
        for pid, cells in sorted(self._cells.items()):
            requests = self._requests.get(pid, 0) + counting.get(pid, 0)
            table.add_row(str(pid), *(cells.get(column, "") for column in COLUMNS[:-1]), f"{requests:,}")
        return table


def view() -> View:
    """Return a live view if standard output is a terminal, else a plain one."""
    return LiveView() if sys.stdout.isatty() else PlainView()
