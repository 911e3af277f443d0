"""Tells deleted objects from those that go because their CustomResourceDefinition is being deleted.

Used by `TableSource`, between a source and its owner. When a definition is deleted, the API server first deletes every
object and sends a DELETED for each, as if its users had. A table that followed would be empty at once, although nobody
took an object away; it must be served as it was, since the definition may be installed again in a moment.

Discovery tells the two apart: of a resource whose definition is being deleted it lists `deletecollection` and not
`create` (apiextensions-apiserver's `customresource_discovery_controller`), and everybody who is authenticated may read
it. A read-only API of another server lists neither.
So deletions of custom resources, and lists with fewer objects than before, wait until discovery has been read. A
resource that stays away is served as it was last; a complete list after it is there again counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from shmroute.sources.base import Changed, Deleted, Replaced, SourceState

if TYPE_CHECKING:
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.base import Event, Sink

__all__ = ["DeletionGuard"]

log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.1
"""Seconds from a deletion to the request to discovery, which follows a definition within milliseconds."""

RETRY_SECONDS: Final = 0.5
"""Seconds between two requests while discovery does not answer."""

MOST_SECONDS: Final = 10.0
"""Longest wait of deletions for discovery, in seconds. After it they are believed."""

AWAY_SECONDS: Final = 2.0
"""Seconds between two checks whether a resource whose definition is deleted is served again."""


class DeletionGuard:
    """A sink that holds deletions back until `goes_away` has been asked. `run` belongs to a thread of its own.

    Args:
        sink: gets the events that are believed.
        goes_away: returns why the resource itself is being deleted, "" if it stays, None if that is unknown.
        relist: makes the source list everything again.
    """

    def __init__(self, sink: Sink, goes_away: Callable[[], str | None], relist: Callable[[], None]) -> None:
        self._sink = sink
        self._goes_away = goes_away
        self._relist = relist
        self._changed = threading.Condition()
        """Guards what follows, and the order in which events reach the sink."""
        self._keys: set[ObjectKey] = set()
        """The objects that the sink has."""
        self._held: dict[ObjectKey, Deleted] = {}
        self._held_list: Replaced | None = None
        self._since = 0.0
        """Monotonic time of the oldest deletion that is held back, in seconds; 0 for none."""
        self._reason = ""
        """Reason why the resource is being deleted; "" if it is not. Meanwhile its deletions are dropped."""
        self._away_ns = 0
        """Monotonic time at which the source was last in step before that, in nanoseconds."""
        self._state: SourceState | None = None

    def put(self, event: Event) -> None:
        """Take an event of the source. Never waits."""
        with self._changed:
            match event:
                case Replaced():
                    self._held.clear()
                    self._held_list = event
                    if self._keys <= {item.key for item in event.items} and not self._reason:
                        self._believe()
                    else:
                        self._hold()
                case Deleted(key=key):
                    self._held[key] = event
                    self._hold()
                case Changed(item=item):
                    self._held.pop(item.key, None)
                    self._keys.add(item.key)
                    if self._held_list is not None:  # which is older, and comes later
                        items = (*self._held_list.items, item)
                        self._held_list = msgspec.structs.replace(self._held_list, items=items)
                    self._sink.put(event)
                case SourceState():
                    self._state = event
                    self._tell()
                case _:
                    self._sink.put(event)

    def run(self, stop: threading.Event) -> None:
        """Ask discovery about the deletions that are held back, until `stop` is set and `wake` called."""
        while not stop.is_set():
            with self._changed:
                while not (self._since or self._reason or stop.is_set()):
                    self._changed.wait()
                since, away = self._since, bool(self._reason)
            if stop.wait(AWAY_SECONDS if away else SETTLE_SECONDS):
                return
            reason = self._goes_away()
            if reason is None and (away or time.monotonic() - since < MOST_SECONDS):
                stop.wait(RETRY_SECONDS)
                continue
            with self._changed:
                if reason:
                    self._drop(reason)
                else:
                    listed = self._held_list is not None
                    self._believe()
            if away and not reason and not listed:
                self._relist()  # what was dropped meanwhile may be true

    def wake(self) -> None:
        """Make `run` check its `stop`."""
        with self._changed:
            self._changed.notify_all()

    def _hold(self) -> None:
        self._since = self._since or time.monotonic()
        self._changed.notify_all()

    def _believe(self) -> None:
        """Pass on the deletions that are held back. The caller holds the lock."""
        self._since, self._reason = 0.0, ""
        if self._held_list is not None:
            self._keys = {item.key for item in self._held_list.items}
            self._sink.put(self._held_list)
        for key, event in self._held.items():
            self._keys.discard(key)
            self._sink.put(event)
        self._held, self._held_list = {}, None
        self._tell()

    def _drop(self, reason: str) -> None:
        """Forget the deletions that are held back. The caller holds the lock."""
        if not self._reason and self._state is not None:
            self._away_ns = self._state.contact_ns
            table = self._state.resource
            log.warning("table %s: %s; its last rows are served (objects: %d)", table, reason, len(self._keys))
        self._since, self._reason = 0.0, reason
        self._held, self._held_list = {}, None
        self._tell()

    def _tell(self) -> None:
        """Report the source's state: not in step while the resource is being deleted."""
        state = self._state
        if state is None:
            return
        if self._reason:
            reason = f"{self._reason}; the last state is served"
            state = msgspec.structs.replace(state, contact_ns=self._away_ns, reason=reason)
        self._sink.put(state)
