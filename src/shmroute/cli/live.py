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

from shmroute.cli.output import printable
from shmroute.watcher.report import age_words, counted, health, report
from shmroute.worker.changes import Change, Reset
from shmroute.worker.reader import Reader

CHANGES_SHOWN: Final = 8
_STYLES: Final = {"ok": "green", "old": "yellow", "bad": "bold red"}

RATE_SECONDS: Final = 10.0
"""Seconds over which generations per second are counted."""


def live(reader: Reader, refresh_seconds: float) -> None:
    """Show the watcher's state until Ctrl-C."""
    generations: deque[tuple[float, int]] = deque()
    newest: deque[str] = deque(maxlen=CHANGES_SHOWN)
    since: int | None = None
    with Live(refresh_per_second=4, screen=False) as display:
        while True:
            state = report(reader)
            for change in reader.changes(since, timeout=0.0):
                if since is not None:
                    newest.append(printable(_line(change)))
                since = change.generation
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
        return f"{change.generation}  all rows were published again"
    route = change.new or change.old
    where = f"{route.app} {route.app_version}" if route else ""
    return f"{change.generation}  {change.model} {change.kind} {where}"


def _view(state: dict[str, Any], rate: float, newest: list[str]) -> Group:
    watcher = state["watcher"]
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("generation", f"{state['generation']}   ({rate:.1f} a second)"),
        ("age", "never" if state["age"] is None else age_words(state["age"])),
        ("watcher", f"pid {watcher['pid']} {'alive' if watcher['alive'] else 'not alive'}"),
        ("propagation", f"{watcher.get('propagation_seconds', 0.0) * 1e3:.2f} ms for the newest change"),
        ("table", ", ".join(counted(watcher.get(f"{noun}s", 0), noun) for noun in ("model", "app"))),
        ("conflicts", str(watcher.get("conflicts", 0))),
        ("set aside", str(watcher.get("invalid", 0))),
        ("state", Text(": ".join(health(state)), style=_STYLES[health(state)[0]])),
    ):
        head.add_row(Text(name, style="bold"), value)
    sources = Table("source", "phase", "in step", "restarts", "lists", "reason", box=None, header_style="bold")
    for source in state["sources"]:
        age = "never" if source["age"] is None else age_words(source["age"])
        counts = str(source["restarts"]), str(source["lists"])
        sources.add_row(source["resource"], source["phase"], age, *counts, source["reason"])
    changes = Text("\n".join(newest) or "no change yet", overflow="ellipsis", no_wrap=True)
    return Group(
        Panel(head, title=f"shmroute area {state['area']}", title_align="left"),
        sources,
        Panel(changes, title="last changes", title_align="left"),
    )
