"""Watches: each is a stream of events from the log for one client.

A `Watch` runs in the thread of its connection. Tests reach into it, through the registry, to
inject bytes, to end it, or to swallow what it would say. All its state is guarded by the store's
lock; bytes are sent outside of it.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from . import status
from .encoding import dumps
from .lists import Lister, parse_number
from .reply import Aborted
from .selectors import Selector
from .status import ApiError
from .store import Event, Item, Store, Table, event_line

#: How often a waiting watch looks whether its client has gone, in seconds.
POLL_SECONDS = 0.1

#: The server's own end of a watch that names no timeout, in seconds.
DEFAULT_TIMEOUT_SECONDS = 1800.0

#: The last bookmark comes this long before the end.
LAST_CALL_SECONDS = 2.0

#: The event's type ("" for injected bytes), the event it comes from if any, and its bytes.
Line = tuple[str, Event | None, bytes]

INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


@dataclass
class Settings:
    """Settings of all watches of a server; a test may change them at any time."""

    #: A bookmark this often, in seconds (a real server: about every minute).
    bookmark_every: float = 60.0
    #: Streaming lists work. If not, they get the in-stream ERROR 500 of an old etcd.
    streaming_lists: bool = True
    #: The clock that timeouts and bookmarks go by; a test may turn it.
    clock: Callable[[], float] = time.monotonic
    #: Send bookmarks even where no event has come since the start, as a real server does not.
    quiet_bookmarks: bool = False
    #: Synthetic events come in this generator's order instead of the storage's.
    shuffle: random.Random | None = None


@dataclass(eq=False)
class Watch:
    """One open watch. `send` writes lines to the client; `alive` says whether it is connected."""

    table: Table
    selector: Selector
    query: Mapping[str, str]
    send: Callable[[list[bytes]], None]
    alive: Callable[[], bool]
    lines_sent: int = 0
    #: Set from outside, under the lock.
    ended: bool = False
    aborted: Aborted | None = None
    bookmark_wanted: bool = False
    injected: deque[bytes] = field(default_factory=deque)
    #: End the stream after this many more lines.
    lines_left: int | None = None
    revision: int = 0

    @property
    def asked_revision(self) -> int:
        return parse_number(self.query, "resourceVersion") or 0

    @property
    def bookmarks(self) -> bool:
        return self.query.get("allowWatchBookmarks", "") in ("1", "true")

    @property
    def streaming_list(self) -> bool:
        return self.query.get("sendInitialEvents", "") in ("1", "true")


class Watches:
    """All open watches of a server, and their common settings."""

    def __init__(self, store: Store, lister: Lister, settings: Settings) -> None:
        self.store = store
        self.lister = lister
        self.settings = settings
        self.open: list[Watch] = []
        self.opened = 0
        #: Asked about every watch that opens; False ends it at once, properly.
        self.opens: Callable[[Watch], bool] = lambda _watch: True
        #: Asked about every line before it is sent; False swallows it for good.
        self.let_through: Callable[[Watch, str, Event | None], bool] = lambda _w, _t, _e: True
        #: Whether a watch holds back what it has to say, to say it later.
        self.is_paused: Callable[[Watch], bool] = lambda _w: False

    def check(self, query: Mapping[str, str]) -> None:
        """Raise ApiError if the options are refused before a stream is opened."""
        parse_number(query, "resourceVersion")
        parse_number(query, "timeoutSeconds")
        match = query.get("resourceVersionMatch", "")
        forbidden = "FieldValueForbidden"
        if "sendInitialEvents" in query and match != "NotOlderThan":
            text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise status.invalid_options("ListOptions", "resourceVersionMatch", forbidden, text)
        if match and "sendInitialEvents" not in query:
            text = "Forbidden: resourceVersionMatch is forbidden for watch unless "
            text += "sendInitialEvents is provided"
            raise status.invalid_options("ListOptions", "resourceVersionMatch", forbidden, text)

    def wake(self) -> None:
        """Let every watch look again at what it should do."""
        with self.store.lock:
            for table in {id(each.table): each.table for each in self.open}.values():
                table.changed.notify_all()

    def matching(self, table: Table | None) -> list[Watch]:
        return [each for each in self.open if table is None or each.table is table]

    def run(self, watch: Watch) -> None:
        """Send the stream until it ends; Aborted or OSError where it ends badly."""
        with self.store.lock:
            self.open.append(watch)
            self.opened += 1
            watch.table.changed.notify_all()
        try:
            if self.opens(watch):
                self._run(watch)
        except ApiError as error:
            self._send(watch, [("ERROR", None, event_line("ERROR", dumps(error.status)))])
        finally:
            with self.store.lock:
                self.open.remove(watch)
                watch.table.changed.notify_all()

    def _run(self, watch: Watch) -> None:
        timeout = parse_number(watch.query, "timeoutSeconds") or DEFAULT_TIMEOUT_SECONDS
        clock = self.settings.clock
        deadline = clock() + timeout
        last_call = deadline - LAST_CALL_SECONDS
        next_bookmark = clock() + self.settings.bookmark_every
        if clock() < last_call < next_bookmark:
            next_bookmark = last_call
        self._send(watch, self._initial(watch))
        bookmarked = watch.revision if watch.streaming_list else 0
        while True:
            lines: list[Line] = []
            with self.store.lock:
                until = min(deadline, next_bookmark, clock() + POLL_SECONDS)
                if not self._pending(watch):
                    watch.table.changed.wait(max(0.0, until - clock()))
                if watch.aborted is not None:
                    raise watch.aborted
                paused = self.is_paused(watch)
                if not paused:
                    lines = self._live(watch)
                now = clock()
                wanted, watch.bookmark_wanted = watch.bookmark_wanted, False
                if wanted and watch.bookmarks:
                    lines.append(self._bookmark(watch))
                elif now >= next_bookmark:
                    every = now + self.settings.bookmark_every
                    next_bookmark = last_call if now < last_call < every else every
                    if not paused and self._may_bookmark(watch, bookmarked):
                        lines.append(self._bookmark(watch))
                        bookmarked = watch.revision
                ended = watch.ended or watch.table.closed
            self._send(watch, lines)
            if ended or clock() >= deadline or not watch.alive():
                return

    def _pending(self, watch: Watch) -> bool:
        if watch.aborted is not None or watch.ended or watch.table.closed:
            return True
        if self.is_paused(watch):
            return False
        behind = watch.table.last_revision > watch.revision
        return behind or bool(watch.injected) or watch.bookmark_wanted

    def _live(self, watch: Watch) -> list[Line]:
        lines: list[Line] = []
        while watch.injected:
            lines.append(("", None, watch.injected.popleft()))
        for event in watch.table.events_after(watch.revision):
            watch.revision = event.revision
            event_type = classify(event, watch.selector)
            if event_type:
                lines.append((event_type, event, event.line(event_type)))
        return lines

    def _may_bookmark(self, watch: Watch, bookmarked: int) -> bool:
        """Whether a bookmark is due that says more than the last one."""
        table = watch.table
        if not watch.bookmarks or not (table.seen_event or self.settings.quiet_bookmarks):
            return False
        caught_up = table.last_revision <= watch.revision <= table.cache_revision
        return caught_up and table.cache_revision > bookmarked

    def _bookmark(self, watch: Watch) -> Line:
        revision = watch.revision = max(watch.revision, watch.table.cache_revision)
        return "BOOKMARK", None, event_line("BOOKMARK", watch.table.kind.bookmark(revision))

    def _initial(self, watch: Watch) -> list[Line]:
        """Check the revision at which the stream starts, and return its synthetic events, if any."""
        table = watch.table
        text = watch.query.get("resourceVersion", "")
        revision = watch.asked_revision
        with self.store.lock:
            if watch.streaming_list:
                if not (self.settings.streaming_lists and self.lister.progress):
                    raise status.no_watch_progress()
                if text != "0":
                    self.lister.wait_until_fresh(table, revision or self.store.revision)
            elif revision:
                if revision < table.floor:
                    raise status.too_old(revision, table.floor)
                watch.revision = revision
                return []
            elif not text and self.lister.progress:
                table.cache_revision = self.store.revision
            if watch.query.get("sendInitialEvents") in ("0", "false"):
                watch.revision = table.cache_revision
                return []
            watch.revision = table.cache_revision
            items = self._matching_items(table, watch.selector)
            if self.settings.shuffle and not watch.streaming_list:
                self.settings.shuffle.shuffle(items)
        lines: list[Line] = [("ADDED", None, event_line("ADDED", table.kind.whole(item.element))) for item in items]
        if watch.streaming_list and watch.bookmarks:
            end = table.kind.bookmark(watch.revision, INITIAL_EVENTS_END)
            lines.append(("BOOKMARK", None, event_line("BOOKMARK", end)))
        return lines

    def _matching_items(self, table: Table, selector: Selector) -> list[Item]:
        state = table.state_at(table.cache_revision)
        low, high = state.bounds(selector.namespace)
        return [item for item in state.items[low:high] if selector.matches(item.namespace, item.name, item.labels)]

    def _send(self, watch: Watch, lines: Iterable[Line]) -> None:
        with self.store.lock:
            chosen = [line for kind, event, line in lines if self.let_through(watch, kind, event)]
        cut = watch.lines_left is not None and len(chosen) >= watch.lines_left
        if cut:
            chosen = chosen[: watch.lines_left]
        if chosen:
            watch.send(chosen)
            watch.lines_sent += len(chosen)
        if watch.lines_left is not None:
            watch.lines_left -= len(chosen)
        if cut:
            raise Aborted


def classify(event: Event, selector: Selector) -> str:
    """Return what an event is to a selector: an object that stops matching is DELETED to it."""

    def matches(item: Item | None) -> bool:
        return item is not None and selector.matches(item.namespace, item.name, item.labels)

    before, after = matches(event.before), matches(event.after)
    if before and after:
        return "MODIFIED"
    if after:
        return "ADDED"
    return "DELETED" if before else ""
