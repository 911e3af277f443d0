"""Calls one handler with the tables' announcements, in a thread of its own.

A slow handler delays nobody else: announcements wait here, at most one for each object, so the number of objects bounds
the memory. The one kept has the newest state, and as `old` the last state that the handler knows. If a handler raises,
the error is logged and counted; the handler gets the object again with the next resync.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from shmroute.resources.appmodel import AppModel
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS
from shmroute.resources.table_parser import TableObject
from shmroute.tables import Announcement, Handler, TableHandler, TableItem

_Object: TypeAlias = AppModel | TableObject

_log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 1.0
"""Longest single wait for an announcement. Each announcement wakes the thread at once."""


class Dispatcher:
    """Calls `handler` for each announcement, in order. `run` belongs to a thread of its own, until `stop`.

    Args:
        handler: a `Handler`, or a `TableHandler` if a table is named.
        table: the declared table whose objects it is called for; "" for AppModels.
    """

    def __init__(self, handler: Handler | TableHandler, table: str = "") -> None:
        self._handler: Any = handler
        self._table = table
        self._waiting: dict[ObjectKey, tuple[_Object | None, _Object | None]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self.failures = 0
        self.name = f"handler {type(handler).__name__}{f' of {table}' if table else ''}"

    def stop(self) -> None:
        """Stop calling the handler. Does not wait for a call under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def put(self, announcements: Iterable[Announcement]) -> None:
        """Queue the announcements of the handler's table. Never waits."""
        with self._changed:
            for announcement in announcements:
                if announcement.table != self._table:
                    continue
                newest = announcement.new or announcement.old
                assert newest is not None  # noqa: S101 - one of both is set
                known = self._waiting.pop(newest.key, (announcement.old, None))[0]
                if known is not None or announcement.new is not None:
                    self._waiting[newest.key] = (known, announcement.new)
            self._changed.notify()

    def run(self) -> None:
        """Call the handler until `stop`, which does not interrupt a call under way."""
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait(IDLE_SECONDS)
                if self._stopped:
                    return
                key = next(iter(self._waiting))
                old, new = self._waiting.pop(key)
            try:
                self._call(old, new)
            except BaseException:  # noqa: BLE001 - users' code, which may call sys.exit
                self.failures += 1
                _log.exception(
                    "handler %r failed for %s %s; it comes again with the next resync",
                    self._handler,
                    self._table or APPMODELS.kind,
                    key,
                )

    def _call(self, old: _Object | None, new: _Object | None) -> None:
        before = self._given(old)
        after = before if new is old else self._given(new)
        if new is None:
            self._handler.on_delete(before)
        elif old is None:
            self._handler.on_add(after)
        else:
            self._handler.on_update(before, after)

    def _given(self, item: _Object | None) -> AppModel | TableItem | None:
        """Return the object in the form that the handler gets."""
        return TableItem.of(self._table, item) if isinstance(item, TableObject) else item
