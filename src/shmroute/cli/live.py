"""The live view of `shmroute status --watch` on a terminal."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from shmroute.cli import status
from shmroute.cli.output import age_text
from shmroute.worker.changes import Change, Reset
from shmroute.worker.reader import Reader

CHANGES_SHOWN: Final = 8
RATE_SECONDS: Final = 10.0
"""Generations a second are counted over so long."""


def live(reader: Reader, refresh_seconds: float) -> None:
    """Show how the watcher stands until Ctrl-C."""
    generations: deque[tuple[float, int]] = deque()
    newest: deque[str] = deque(maxlen=CHANGES_SHOWN)
    since = reader.generation
    with Live(refresh_per_second=4, screen=False) as display:
        while True:
            state = status.snapshot(reader)
            for change in reader.changes(since, timeout=0.0):
                since = change.generation
                newest.append(_line(change))
            now = time.monotonic()
            generations.append((now, state["generation"]))
            while now - generations[0][0] > RATE_SECONDS:
                generations.popleft()
            display.update(_view(state, _rate(generations), list(newest)))
            time.sleep(refresh_seconds)


def _rate(generations: deque[tuple[float, int]]) -> float:
    (first, before), (last, after) = generations[0], generations[-1]
    return (after - before) / (last - first) if last > first else 0.0


def _line(change: Change | Reset) -> str:
    if isinstance(change, Reset):
        return f"{change.generation}  the whole table was published anew"
    route = change.new or change.old
    where = f"{route.app} {route.app_version}" if route else ""
    return f"{change.generation}  {change.model} {change.kind} {where}"


def _view(state: dict[str, Any], rate: float, newest: list[str]) -> Group:
    watcher = state["watcher"]
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("generation", f"{state['generation']}   ({rate:.1f} a second)"),
        ("age", "never" if state["age"] is None else age_text(state["age"])),
        ("watcher", f"pid {watcher['pid']} {'alive' if watcher['alive'] else 'dead or frozen'}"),
        ("propagation", f"{watcher.get('propagation_seconds', 0.0) * 1e3:.2f} ms for the newest change"),
        ("table", f"{watcher.get('models', 0)} models, {watcher.get('apps', 0)} apps, {watcher.get('rows', 0)} rows"),
        ("conflicts", str(watcher.get("conflicts", 0))),
        ("invalid", str(watcher.get("invalid", 0))),
        ("problem", watcher.get("problem") or state["fault"] or "none"),
    ):
        head.add_row(Text(name, style="bold"), value)
    sources = Table("source", "phase", "in step", "restarts", "lists", "reason", box=None, header_style="bold")
    for source in state["sources"]:
        age = "never" if source["age"] is None else age_text(source["age"])
        counts = str(source["restarts"]), str(source["lists"])
        sources.add_row(source["resource"], source["phase"], age, *counts, source["reason"])
    changes = Text("\n".join(newest) or "no change yet", overflow="ellipsis", no_wrap=True)
    return Group(
        Panel(head, title=f"shmroute area {state['area']}", title_align="left"),
        sources,
        Panel(changes, title="last changes", title_align="left"),
    )
