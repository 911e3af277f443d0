"""What completes the text of `ModelNotFound` and `AppNotFound`: the area, how fresh it is, and similar names.

Runs when an error's text is first asked for, never at a look-up. A server may log each miss of a client that makes
names up. So the search for similar names takes a process at most `SHARE` of its time in the long run, and
`SCAN_SECONDS` for one text. Where no time is left, the text names none.
"""

from __future__ import annotations

import time
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

import msgspec

from shmroute.errors import ShmrouteError
from shmroute.rows import AppRow, Kind, RouteRow
from shmroute.shm.reader import RowReader

__all__ = ["describe"]

SHARE: Final = 0.02
"""Part of a process's time for looking at names."""

SCAN_SECONDS: Final = 0.05
"""Longest scan for one text: some 3,000 names. A table of more models is looked at in part."""

_MAX_NEAR: Final = 3

_CHUNK: Final = 200
"""Rows between two looks at the clock: about 3 ms."""

_LISTED_NAMESPACES: Final = 5


class _Budget:
    """Seconds that may be spent now. Two threads at once may spend a little more."""

    def __init__(self) -> None:
        self.left = SCAN_SECONDS
        self.counted = time.monotonic()

    def take(self) -> float:
        """What may be spent on the next scan."""
        now = time.monotonic()
        self.left = min(SCAN_SECONDS, self.left + (now - self.counted) * SHARE)
        self.counted = now
        return self.left


_budget: Final = _Budget()


def describe(area: str, kind: Kind, name: str, namespace: str | None) -> str:
    """` in area 'x' (3 models, fresh 0.3 s ago); did you mean 'model1'?`; "" where the area cannot be read now.

    Args:
        area: the area's name.
        kind: MODEL or APP, what was looked for.
        name: the name that was not found.
        namespace: the only namespace that was searched; None for all.
    """
    started = time.monotonic()
    until = started + _budget.take()
    try:
        rows = RowReader(area)
        count, close = _scan(rows, kind, name, until)
        counted = "apps" if kind == Kind.APP else "models"
        total = _count(rows, counted) if count is None else count
        facts = _freshness(rows) if total is None else f"{total} {counted}, {_freshness(rows)}"
        return f" in area {area!r} ({facts}){_elsewhere(rows, kind, name, namespace) or _suggestion(close)}"
    except (ShmrouteError, OSError):
        return ""
    finally:
        _budget.left -= time.monotonic() - started


def _scan(rows: RowReader, kind: Kind, name: str, until: float) -> tuple[int | None, list[str]]:
    """How many names there are, None if the time did not suffice to see all of them, and those like `name`."""
    count = 0
    close: list[str] = []
    every = rows.rows()
    while time.monotonic() < until:
        chunk = list(islice(every, _CHUNK))
        names = [key for number, key, _ in chunk if number == kind]
        count += len(names)
        close = get_close_matches(name, close + names, _MAX_NEAR)
        if len(chunk) < _CHUNK:
            return count, close
    return None, close


def _count(rows: RowReader, counted: str) -> int | None:
    """How many there are, as the watcher says; None where it says nothing that this version understands."""
    page = rows.control.status()
    try:
        status: dict[str, Any] = msgspec.msgpack.decode(page or b"")
        return int(status[counted])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None


def _freshness(rows: RowReader) -> str:
    contact = rows.control.contact_ns
    return f"fresh {max(0.0, (time.monotonic_ns() - contact) / 1e9):.1f} s ago" if contact else "never in step"


def _elsewhere(rows: RowReader, kind: Kind, name: str, namespace: str | None) -> str:
    """The namespaces that have the name, where one without it was asked for."""
    value = rows.get(kind, name) if namespace is not None else None
    if value is None:
        return ""
    if kind == Kind.APP:
        apps = msgspec.msgpack.decode(value, type=tuple[AppRow, ...])
        found = sorted({app.namespace for app in apps})
    else:
        route = msgspec.msgpack.decode(value, type=RouteRow)
        found = sorted({each.namespace for each in (route, *route.others)})
    more = f" and {len(found) - _LISTED_NAMESPACES} more" if len(found) > _LISTED_NAMESPACES else ""
    return f"; namespaces that have it: {', '.join(found[:_LISTED_NAMESPACES])}{more}"


def _suggestion(close: list[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
