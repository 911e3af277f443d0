"""Makes the second part of the text of `ModelNotFound`, `AppNotFound` and `TableNotFound`: area, age, similar names.

Runs when an error's text is first read, never at a look-up. A server may log each miss of a client that makes names up.
So the search for similar names takes at most `SCAN_SECONDS` for one text, and in the long run `SHARE` of the process's
time. If no time is left, the text names none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

import msgspec

from shmroute.errors import ShmrouteError
from shmroute.rows import BUILT_IN_TABLES, App, Kind, RouteRow
from shmroute.shm.reader import RowReader

SHARE: Final = 0.02
"""Largest share of a process's time that scans of names take."""

SCAN_SECONDS: Final = 0.05
"""Longest scan for one text: some 3,000 names. Of more models, only a part is scanned."""

_MAX_NEAR: Final = 3

_CHUNK: Final = 200
"""Number of rows between two checks of the clock: about 3 ms."""

_LISTED_NAMESPACES: Final = 5


class _Budget:
    """The time that scans may take. There is no lock: two threads at once may take a little more."""

    def __init__(self) -> None:
        self.left = SCAN_SECONDS
        self.counted = time.monotonic()

    def take(self) -> float:
        """Return the seconds that the next scan may take."""
        now = time.monotonic()
        self.left = min(SCAN_SECONDS, self.left + (now - self.counted) * SHARE)
        self.counted = now
        return self.left


@contextmanager
def _scanning() -> Iterator[float]:
    """Yield when a scan must end, on the monotonic clock. The block's time counts against the budget."""
    started = time.monotonic()
    until = started + _budget.take()
    try:
        yield until
    finally:
        _budget.left -= time.monotonic() - started


_budget: Final = _Budget()


def describe(area: str, kind: Kind, name: str, namespace: str | None) -> str:
    """Return ` in area 'x' (3 models, in step 0.3 s ago); did you mean 'model1'?`; "" if the area cannot be read now.

    Args:
        area: the area's name.
        kind: MODEL or APP, the kind of the name.
        name: the name that was not found.
        namespace: the only namespace that was searched; None for all.
    """
    with suppress(ShmrouteError, OSError), _scanning() as until:
        rows = RowReader(area)
        count, close = _scan(rows, kind, name, until)
        counted = "apps" if kind == Kind.APP else "models"
        total = _count(rows, counted) if count is None else count
        facts = (
            _freshness(rows)
            if total is None
            else f"{total} {counted[:-1] if total == 1 else counted}, {_freshness(rows)}"
        )
        return f" in area {area!r} ({facts}){_elsewhere(rows, kind, name, namespace) or _suggestion(close)}"
    return ""


def describe_table(area: str, name: str) -> str:
    """Return `; did you mean 'tenants'?` for a table that does not exist; "" if no name is similar."""
    with suppress(ShmrouteError, OSError), _scanning() as until:
        _, close = _scan(RowReader(area), Kind.TABLES, name, until)
        return _suggestion(close or get_close_matches(name, BUILT_IN_TABLES, _MAX_NEAR))
    return ""


def _scan(rows: RowReader, kind: Kind, name: str, until: float) -> tuple[int | None, list[str]]:
    """Return the number of names, None if there was no time to scan all of them, and the names similar to `name`.

    If a name differs from `name` in the case of letters only, other similar names are left out.
    """
    count = 0
    close: list[str] = []
    lower, letters = name.lower(), list[str]()
    every = rows.rows()
    while time.monotonic() < until:
        chunk = list(islice(every, _CHUNK))
        names = [key for number, key, _ in chunk if number == kind]
        count += len(names)
        letters += [each for each in names if each.lower() == lower]
        close = letters[:_MAX_NEAR] or get_close_matches(name, close + names, _MAX_NEAR)
        if len(chunk) < _CHUNK:
            return count, close
    return None, close


def _count(rows: RowReader, counted: str) -> int | None:
    """Return the number of models or apps from the watcher's status; None if this version cannot read the status."""
    page = rows.control.status()
    try:
        status: dict[str, Any] = msgspec.msgpack.decode(page or b"")
        return int(status[counted])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None


def _freshness(rows: RowReader) -> str:
    contact = rows.control.contact_ns
    return f"in step {max(0.0, (time.monotonic_ns() - contact) / 1e9):.1f} s ago" if contact else "never in step"


def _elsewhere(rows: RowReader, kind: Kind, name: str, namespace: str | None) -> str:
    """Return a text with the namespaces that have the name, if only the searched one lacks it; else ""."""
    value = rows.get(kind, name) if namespace is not None else None
    if value is None:
        return ""
    if kind == Kind.APP:
        apps = msgspec.msgpack.decode(value, type=tuple[App, ...])
        found = sorted({app.namespace for app in apps})
    else:
        route = msgspec.msgpack.decode(value, type=RouteRow)
        found = sorted({each.namespace for each in (route, *route.others)})
    more = f" and {len(found) - _LISTED_NAMESPACES} more" if len(found) > _LISTED_NAMESPACES else ""
    return f"; namespaces that have it: {', '.join(found[:_LISTED_NAMESPACES])}{more}"


def _suggestion(close: list[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
