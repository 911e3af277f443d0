"""Watches the tables file while the watcher runs, and reports its declarations whenever they change.

Each check is a `stat` of the file, which notices every way of writing it: in place, by renaming another file over it,
and by the renamed link with which a kubelet swaps a mounted ConfigMap. The file is read once two checks in a row agree,
so that a file is not read while it is being written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.resources.table import TableKind
from shmroute.watcher.tables_file import former_tables, read_tables

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.25
"""Seconds between two checks: a change is reported after 0.25 to 0.5 s. A check costs a few microseconds."""


class TablesDeclared(msgspec.Struct, frozen=True):
    """The current declarations of a tables file."""

    kinds: tuple[TableKind, ...]
    """The tables of the file's last valid content."""
    problem: str = ""
    """Reason why the current content cannot be used, with the line; "" if it can."""


class TablesFollower:
    """Reads the tables file again whenever it has changed.

    Args:
        path: path of the file.
        simple: values of `--table`, which are followed too.
        problem: reason why the file cannot be used as it is at the start; "" if it can.
        several_namespaces: whether the watcher watches several namespaces.
    """

    def __init__(self, path: str, simple: tuple[str, ...], problem: str, several_namespaces: bool) -> None:
        self.path = path
        self._simple = simple
        self._problem = problem
        self._several_namespaces = several_namespaces

    def at_start(self, former: bytes | None, kinds: tuple[TableKind, ...]) -> TablesDeclared:
        """Return what is declared at the start, given the definitions of a former watcher, if there are any.

        A file that cannot be used leaves the last good declarations in force, as it does later. Without any, the tables
        in `kinds` are followed: those that the file declares without a mistake.
        """
        if self._problem and former is not None:
            try:
                kinds = former_tables(former, self._simple, several_namespaces=self._several_namespaces, current=kinds)
            except ConfigError as error:
                _log.warning("%s", error)
        return TablesDeclared(kinds, self._problem)

    def run(self, kinds: tuple[TableKind, ...], put: Callable[[TablesDeclared], None], stop: threading.Event) -> None:
        """Follow the file until `stop` is set. `kinds` are the tables declared at the beginning."""
        read: object = None
        last: object = None
        while not stop.wait(LOOK_SECONDS):
            seen = _seen(self.path)
            if seen == last and seen != read:
                read = seen
                try:
                    kinds = read_tables(
                        self.path, self._simple, several_namespaces=self._several_namespaces, current=kinds
                    )
                except ConfigError as error:
                    put(TablesDeclared(kinds, str(error)))
                else:
                    put(TablesDeclared(kinds))
            last = seen


def _seen(path: str) -> tuple[int, ...]:
    """Return the `stat` fields that change with the file; empty if there is no file."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
