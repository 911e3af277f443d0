"""Looks at the tables file while the watcher runs, and hands on what it declares.

A look is a `stat` of the file, which sees every way of writing it: in place, by renaming another file over it, and by
the renamed link by which a kubelet swaps a mounted ConfigMap. The file is read once two looks in a row agree, so that
nobody is writing it then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.resources.table import TableKind

__all__ = ["TablesDeclared", "TablesFollower"]

LOOK_SECONDS: Final = 0.25
"""Seconds between two looks: a change is declared 0.25 to 0.5 s after it. A look costs a few microseconds."""


class TablesDeclared(msgspec.Struct, frozen=True):
    """What a tables file declares now."""

    kinds: tuple[TableKind, ...]
    """The tables of the file's last good content."""
    problem: str = ""
    """Why its present content cannot be used, with the line; "" if it can."""


class TablesFollower:
    """Reads the tables file again whenever it has changed.

    Args:
        path: the file.
        read: gives the declared tables, given those that are declared now. Raises `ConfigError`.
    """

    def __init__(self, path: str, read: Callable[[tuple[TableKind, ...]], tuple[TableKind, ...]]) -> None:
        self.path = path
        self._read = read

    def run(self, kinds: tuple[TableKind, ...], put: Callable[[TablesDeclared], None], stop: threading.Event) -> None:
        """Follow the file until `stop` is set. `kinds` is what is declared at the beginning."""
        read: object = None
        last: object = None
        while not stop.wait(LOOK_SECONDS):
            seen = _seen(self.path)
            if seen == last and seen != read:
                read = seen
                try:
                    kinds = self._read(kinds)
                except ConfigError as error:
                    put(TablesDeclared(kinds, str(error)))
                else:
                    put(TablesDeclared(kinds))
            last = seen


def _seen(path: str) -> tuple[int, ...]:
    """What `stat` says of the file behind the path; empty for none."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
