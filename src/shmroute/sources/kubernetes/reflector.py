"""List, then watch, and resume after every failure: what client-go's reflector does, over raw bytes.

Run by `shmroute.sources.kubernetes.source` in the source's own thread; the probe and the audit call `reconnect` and
`relist`. The rules (each has its row in docs/failures.md):

* The first list is at resourceVersion 0, later ones at the last one seen. A list at "" (a quorum read) is made once,
  at once, after 410 or "too large", and when the probe or the audit has found us out of step.
* A list counts once all of it has arrived; until then nothing is sent.
* A watch that was cut resumes at its resourceVersion, without a list. The resourceVersion moves only after the
  event has been sent.
* Bytes that no API server sends end the stream without moving the resourceVersion. After `GARBLED_ATTEMPTS` such
  streams at one resourceVersion, a list in pages skips it.
* A 410 is not a failure: every restart of a server causes one. Repeated lists that each lead to a 410 are.
* After every failure the reflector waits; the kind of failure decides how long (see `recovery`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from shmroute.errors import ApiError
from shmroute.kube.abort import Abort
from shmroute.sources.base import Changed, Deleted, Replaced
from shmroute.sources.kubernetes.explain import explain, is_out_of_range
from shmroute.sources.kubernetes.listing import Lister, read_events
from shmroute.sources.kubernetes.recovery import SHORT_WATCH, Recovery
from shmroute.sources.kubernetes.sync_state import revision_of
from shmroute.sources.kubernetes.wire import Bookmark, Garbled, Listed, Removed, Skipped

if TYPE_CHECKING:
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.base import Event, Phase
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.sync_state import SyncState
    from shmroute.sources.kubernetes.timing import SourceStats, Timing
    from shmroute.sources.kubernetes.wire import WatchEvent

log = logging.getLogger(__name__)

GARBLED_ATTEMPTS = 3
"""Unreadable streams in a row from one resourceVersion after which everything is listed: otherwise the server would
send the unreadable event again for ever."""


class ReflectorListener(Protocol):
    """Receives a reflector's events and its state."""

    def put(self, event: Event) -> None: ...

    def in_step(self, contact_ns: int) -> None:
        """Note the monotonic time, in nanoseconds, at which we were last in step with the server."""

    def report(
        self, phase: Phase, reason: str = "", backoff_seconds: float = 0.0, *, missing: bool = False
    ) -> None: ...

    def listed(self) -> None:
        """Note that a complete list was sent."""

    def heard(self, *, bookmark: bool) -> None:
        """Note that the watch has received an event or a bookmark."""

    def broken(self) -> None:
        """Note that the watch has resumed after a broken connection."""

    def rescoped(self) -> None:
        """Note that the resource has another scope than it had: its path leads nowhere any more."""

    def kept(self) -> int | None:
        """Return the number of objects that the owner has; None before the first list."""


class _WentBackError(Exception):
    """The server sent an event that is older than one it had already sent."""


class Reflector:
    """The list and watch of one resource. One thread calls `run`; any thread may use the other public names."""

    def __init__(
        self, api: ResourceApi, sync: SyncState, listener: ReflectorListener, timing: Timing, stats: SourceStats
    ) -> None:
        self._resource = api.kind.name
        self._api = api
        self._sync = sync
        self._listener = listener
        self._timing = timing
        self._stats = stats
        self._lister = Lister(api, timing, stats)
        self._recovery = Recovery(timing)
        self._trouble: str | None = None
        """Reason of the last wait, as long as the problem is not over: one that lasts is logged as a warning once."""
        self._broken = False
        """Whether the connection broke after the last complete list or the last request for a comparison."""
        self._garbled = ("", 0)
        """The resourceVersion of the last unreadable stream, and the number of such streams in a row."""
        self._lock = threading.Lock()
        """Guards the five fields below."""
        self._abort = Abort()
        self._wish = ""
        """Reason why the running request was ended on purpose, which does not count as a failure; "" if it was not."""
        self._wish_broken = False
        self._list_at: str | None = "0"
        """The resourceVersion that the next list must show; None if no list is due."""
        self._pages_only = False
        self.watching = False
        """Whether a watch is open or being opened: only then can a probe find it dead."""

    def run(self, stop: threading.Event) -> None:
        """List and watch until `stop` is set and `interrupt` is called."""
        while not stop.is_set():
            with self._lock:
                self._wish, self._abort = "", Abort()
            if stop.is_set():  # `interrupt` may have come before the new Abort
                return
            try:
                self._list_and_watch(stop)
            except (ApiError, Garbled) as error:
                self._failed(error, stop)
            except _WentBackError as error:
                self._useless("", "rewound", f"the server went back in time: {error}", stop)
            except Exception as error:
                # A defect here must not end the watch for good: the last state stays served, and we retry.
                log.exception("watching %s failed in a way nobody thought of", self._api.what)
                self._failed(error, stop)
            finally:
                self.watching = False
            if self._wish:
                self._stats.restarted(self._wish)
                with self._lock:
                    self._broken = self._broken or self._wish_broken
                    self._wish_broken = False

    def interrupt(self) -> None:
        """End the request that `run` waits for, at once."""
        with self._lock:
            self._abort.set()

    def reconnect(self, reason: str, *, broken: bool = False) -> None:
        """Reopen the watch at its resourceVersion, without a list. `reason` is one word, for the counters.

        `broken`: the connection has not answered, so a comparison must follow.
        """
        with self._lock:
            self._wish = reason
            self._wish_broken = broken
            self._abort.set()

    def relist(self, reason: str) -> None:
        """List everything again, by a quorum read in pages: a stream may have been the cause."""
        with self._lock:
            self._list_at, self._pages_only = "", True
            self._wish = reason
            self._abort.set()

    def _list_and_watch(self, stop: threading.Event) -> None:
        with self._lock:
            at, pages_only = self._list_at, self._pages_only
        if at is None or self._list(at, pages_only, stop):
            self._watch()

    def _list(self, at: str, pages_only: bool, stop: threading.Event) -> bool:
        """Send a complete list. False if it was stopped, or if a new one was requested meanwhile."""
        self._listener.report("listing")
        try:
            found = self._lister.list(at, pages_only=pages_only, abort=self._abort, stop=stop)
        except ApiError as error:
            if not is_out_of_range(error):
                raise
            log.info("%s: %s: listing everything again", self._api.what, error.message or error.reason)
            self._stats.restarted("gone")
            with self._lock:
                self._list_at = ""
            found = self._lister.list("", pages_only=pages_only, abort=self._abort, stop=stop)
        with self._lock:
            if found is None or self._wish:
                return False
            self._list_at, self._pages_only = None, False
        objects = found.objects
        items = tuple(each.item for each in objects if isinstance(each, Listed) and each.item is not None)
        try:
            self._listener.put(Replaced(self._resource, items, found.received_ns))
        except BaseException:
            with self._lock:  # the list was not sent: no watch may resume from it
                if self._list_at is None:
                    self._list_at, self._pages_only = at, pages_only
            raise
        identities = {each.key: each.identity for each in objects if each.key is not None}
        first = not self._sync.resource_version
        self._sync.replace(found.resource_version, identities)
        if first and not identities:
            # A namespace that does not exist lists as 200 and empty.
            log.info(
                "%s: the list is empty; if that is a surprise, look at the namespace and the labels", self._api.what
            )
        self._broken = False
        self._listener.listed()
        self._listener.in_step(found.received_ns)
        return True

    def _watch(self) -> None:
        self.watching = True
        self._stats.watches += 1
        low, high = self._timing.watch_seconds
        seconds = random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing
        # A quiet watch receives nothing until it ends; the probe finds out whether it is alive.
        silence = seconds + self._timing.list_silence_seconds
        what = f"GET watch of {self._api.what}"
        stream = self._api.watch(
            self._sync.resource_version,
            seconds,
            answer_seconds=self._timing.answer_seconds,
            silence_seconds=silence,
            abort=self._abort,
        )
        opened = time.monotonic()
        cut: ApiError | None = None
        try:
            with stream:
                self._opened()
                for event, received in read_events(stream, self._api, self._stats, what, opened + silence):
                    self._apply(event, received)
        except ApiError as error:
            if error.status or stream.interrupted:
                raise
            cut = error
        lasted = time.monotonic() - opened
        if lasted >= self._timing.short_watch_seconds:
            self._recovery.proved()
        elif not stream.interrupted:
            self._broken = self._broken or cut is not None
            raise ApiError(what, 0, SHORT_WATCH, f"it ended at once, after {lasted:.1f} s") from cut
        if cut is not None:
            raise cut
        if not stream.interrupted:
            self._stats.restarted("ended")

    def _opened(self) -> None:
        self._recovery.opened()
        if self._trouble is not None:
            self._trouble = None
            log.info("%s: watching again", self._api.what)
        self._listener.report("watching")
        if self._broken:
            self._broken = False
            self._listener.broken()

    def _apply(self, event: WatchEvent, received: int) -> None:
        """Send one event; move the resourceVersion only after that."""
        sync = self._sync
        match event:
            case Listed(key, version, item, identity):
                self._check_order(version, key)
                if item is not None:
                    self._listener.put(Changed(self._resource, item, received))
                elif key in sync:
                    self._listener.put(Deleted(self._resource, key, received))
                sync.put(key, identity, version)
            case Removed(key, version):
                self._check_order(version, key)
                self._listener.put(Deleted(self._resource, key, received))
                sync.remove(key, version)
            case Bookmark(version):
                self._stats.bookmarks += 1
                sync.advance(version)
            case Skipped(reason, key, version, identity):
                log.warning("%s: skipped %s", self._api.what, reason)
                if key is None:
                    return
                sync.put(key, identity, version)
        self._recovery.proved()
        self._listener.heard(bookmark=isinstance(event, Bookmark))
        self._listener.in_step(received)

    def _check_order(self, resource_version: str, key: ObjectKey) -> None:
        """Raise `_WentBackError` for an event older than the last one: a server sends them in order of revision."""
        if resource_version and revision_of(resource_version) < self._sync.position:
            was = self._sync.resource_version
            raise _WentBackError(f"{key} came at resourceVersion {resource_version}, after {was}")

    def _failed(self, error: Exception, stop: threading.Event) -> None:
        """Count a failure and wait; its kind decides how long."""
        if self._wish or stop.is_set():
            return
        if not isinstance(error, ApiError):
            self._broken = True
            self._stats.restarted("garbled" if isinstance(error, Garbled) else "defect")
            if self.watching and isinstance(error, Garbled):
                self._count_garbled()
            self._wait(str(error), self._recovery.failed(error), stop)
            return
        if self.watching and is_out_of_range(error):
            was = self._sync.resource_version
            self._useless(was, "gone", f"the watch cannot go on from {was} ({error.message})", stop)
            return
        if error.reason != SHORT_WATCH and (error.status == 0 or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR):
            self._broken = True
        self._stats.restarted(f"http-{error.status}" if error.status else "cut")
        served = None
        if error.status == HTTPStatus.NOT_FOUND:
            served = self._api.served(timeout_seconds=self._timing.answer_seconds, abort=self._abort)
            if served is not None and served.namespaced is (not self._api.kind.namespaced):
                self._listener.rescoped()
        reason = explain(error, "watch" if self.watching else self._lister.verb, self._api, served)
        self._wait(reason, self._recovery.failed(error), stop, missing=error.status == HTTPStatus.NOT_FOUND)

    def _count_garbled(self) -> None:
        """Count an unreadable stream; after several from one resourceVersion, plan a list of everything."""
        at = self._sync.resource_version
        count = self._garbled[1] + 1 if self._garbled[0] == at else 1
        self._garbled = (at, count)
        if count >= GARBLED_ATTEMPTS:
            self._garbled = ("", 0)
            with self._lock:
                self._list_at, self._pages_only = at, True

    def _useless(self, list_at: str, counted_as: str, reason: str, stop: threading.Event) -> None:
        """Plan a new list: the watch cannot resume from our state. List at once, but back off if that does not help."""
        with self._lock:
            self._list_at = list_at
        self._stats.restarted(counted_as)
        log.info("%s: %s: listing again", self._api.what, reason)
        seconds = self._recovery.gone()
        if seconds:
            self._wait(reason, seconds, stop)

    def _wait(self, reason: str, seconds: float, stop: threading.Event, *, missing: bool = False) -> None:
        # A probe would only find the failure that is already known.
        self.watching = False
        self._stats.errors += 1
        count = self._listener.kept()
        held = "nothing was listed yet" if count is None else f"{count} objects stay as last seen"
        level = logging.DEBUG if reason == self._trouble else logging.WARNING
        self._trouble = reason
        log.log(level, "%s%s: %s, next attempt in %.1f s", self._api.prefix, reason, held, seconds)
        self._listener.report("backing-off", reason, seconds, missing=missing)
        stop.wait(seconds)
