"""Hands the index's announcements to handlers, in a thread of its own.

A slow handler delays nobody else: announcements wait here, at most one for each AppModel (the newest, with the state
the handler knows as `old`), so that memory is bounded by what exists. A handler that raises is logged and counted; the
object comes again with the next resync.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence

from shmroute.resources.appmodel import AppModel
from shmroute.resources.key import ObjectKey
from shmroute.tables import Announcement, Handler

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)


class Dispatcher:
    """Calls `handlers`, in order, for each announcement. Started by `start`, ended by `stop`."""

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self._handlers = tuple(handlers)
        self._waiting: dict[ObjectKey, tuple[AppModel | None, AppModel | None]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="handlers", daemon=True)

    def start(self) -> None:
        """Begin to call the handlers."""
        if self._handlers:
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Call nobody any more; waits at most `timeout` seconds for a handler that is at work."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def put(self, announcements: Iterable[Announcement]) -> None:
        """Have the announcements handed on. Never waits."""
        if not self._handlers:
            return
        with self._changed:
            for announcement in announcements:
                newest = announcement.new or announcement.old
                assert newest is not None  # noqa: S101 - one of them is there
                known = self._waiting.pop(newest.key, (announcement.old, None))[0]
                if known is not None or announcement.new is not None:
                    self._waiting[newest.key] = (known, announcement.new)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                key = next(iter(self._waiting))
                old, new = self._waiting.pop(key)
            for handler in self._handlers:
                try:
                    _call(handler, old, new)
                except Exception:  # noqa: BLE001 - users' code
                    self.failures += 1
                    _log.exception(
                        "handler %r failed for AppModel %s; it comes again with the next resync", handler, key
                    )


def _call(handler: Handler, old: AppModel | None, new: AppModel | None) -> None:
    if new is None:
        assert old is not None  # noqa: S101
        handler.on_delete(old)
    elif old is None:
        handler.on_add(new)
    else:
        handler.on_update(old, new)
