"""List, then watch, and never lose the thread: what client-go's reflector does, over raw bytes.

Run by `shmroute.sources.kubernetes.source` in the source's own thread; the probe and the audit reach in through
`reconnect` and `relist`. The rules (each has its row in the table of faults):

* The first list is at resourceVersion 0, later ones at the last one seen, and at "" (a quorum read) only after
  410 or "too large", then at once and one time, and where the probe or the audit has found us out of step.
* A list counts when all of it has come; until then nothing is handed out.
* A watch that was cut resumes where it stood, without a list. The resourceVersion moves only after the
  event has been put.
* Whatever no API server would send ends the stream without moving the resourceVersion.
* Every failure waits: 0.8 s and doubling, at least as long as Retry-After says.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from shmroute.errors import ApiError
from shmroute.kube.connection import Abort
from shmroute.sources.backoff import Backoff
from shmroute.sources.base import Changed, Deleted, Replaced
from shmroute.sources.kubernetes.explain import explain, is_out_of_range
from shmroute.sources.kubernetes.listing import Lister, read_events
from shmroute.sources.kubernetes.sync_state import revision_of
from shmroute.sources.kubernetes.wire import Bookmark, Garbled, Listed, Removed, Skipped

if TYPE_CHECKING:
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.base import Event, Phase, Resource
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.sync_state import Ledger
    from shmroute.sources.kubernetes.timing import SourceStats, Timing
    from shmroute.sources.kubernetes.wire import WatchEvent

__all__ = ["Outlet", "Reflector"]

log = logging.getLogger(__name__)


class Outlet(Protocol):
    """Where a reflector's events go, and who is told how it stands."""

    def put(self, event: Event) -> None: ...

    def in_step(self, contact_ns: int) -> None:
        """The monotonic time at which we were last known to be in step with the server."""

    def report(self, phase: Phase, reason: str = "", backoff_seconds: float = 0.0) -> None: ...


class _WentBackError(Exception):
    """The server sent an event from before what it had sent already."""


class Reflector:
    """`run` is one thread's; `interrupt`, `reconnect`, `relist` and `watching` may be used from any."""

    def __init__(
        self, resource: Resource, api: ResourceApi, ledger: Ledger, outlet: Outlet, timing: Timing, stats: SourceStats
    ) -> None:
        self._resource = resource
        self._api = api
        self._ledger = ledger
        self._outlet = outlet
        self._timing = timing
        self._stats = stats
        self._lister = Lister(api, timing, stats)
        self._backoff = Backoff(timing.backoff_first_seconds, timing.backoff_cap_seconds, timing.backoff_reset_seconds)
        self._forbidden = False
        """Whether the last attempt was told 403. The first may come from a server that is just starting: until it has
        read its roles it refuses everybody."""
        self._troubled = False
        """Whether a warning has been logged that is not over yet."""
        self._again_cheap_at = 0.0
        """From then on what we hold may turn out to be useless once more without a wait."""
        self._lock = threading.Lock()
        """Guards the four below."""
        self._abort = Abort()
        self._wish = ""
        """Why whatever is under way was ended on purpose: its end is no failure."""
        self._list_at: str | None = "0"
        """Where the next list must stand; None while there is nothing to list."""
        self._pages_only = False
        self.watching = False
        """Whether a watch is open or being opened: only then can a probe find it dead."""

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop` is set and `interrupt` called."""
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
                # A defect here must not end the watch for good: the last state is served, and we try again.
                log.exception("watching %s failed in a way nobody thought of", self._api.what)
                self._failed(error, stop)
            finally:
                self.watching = False
            if self._wish:
                self._stats.restarted(self._wish)

    def interrupt(self) -> None:
        """End at once whatever `run` waits for."""
        with self._lock:
            self._abort.set()

    def reconnect(self, reason: str) -> None:
        """Open the watch again where it stands, without a list. `reason` is one word, for the counters."""
        with self._lock:
            self._wish = reason
            self._abort.set()

    def relist(self, reason: str) -> None:
        """List everything again, by a quorum read in pages: a stream is what may be at fault."""
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
        """Hand out a complete list. False where it was stopped, or asked for anew while it was under way."""
        self._outlet.report("listing")
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
            self._outlet.put(Replaced(self._resource, items, found.received_ns))
        except BaseException:
            with self._lock:  # it was not handed out: a watch would go on from nowhere
                if self._list_at is None:
                    self._list_at, self._pages_only = at, pages_only
            raise
        versions = {each.key: each.resource_version for each in objects if each.key is not None}
        self._ledger.replace(found.resource_version, versions)
        self._outlet.in_step(found.received_ns)
        return True

    def _watch(self) -> None:
        self.watching = True
        self._stats.watches += 1
        low, high = self._timing.watch_seconds
        seconds = random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing
        what = f"GET watch of {self._api.what}"
        began = time.monotonic()
        stream = self._api.watch(
            self._ledger.resource_version,
            seconds,
            answer_seconds=self._timing.answer_seconds,
            # A quiet watch has nothing to say until it ends; whether it lives is the probe's business.
            silence_seconds=seconds + self._timing.list_silence_seconds,
            abort=self._abort,
        )
        with stream:
            self._forbidden = False
            if self._troubled:
                self._troubled = False
                log.info("%s: watching again", self._api.what)
            self._outlet.report("watching")
            for event, received in read_events(stream, self._api, self._stats, what):
                self._apply(event, received)
        if stream.interrupted:
            return
        lasted = time.monotonic() - began
        if lasted < self._timing.short_watch_seconds:
            raise ApiError(what, 0, "ShortWatch", f"it ended at once, after {lasted:.1f} s")
        self._stats.restarted("ended")

    def _apply(self, event: WatchEvent, received: int) -> None:
        """Hand one event out, then, and only then, move on."""
        ledger = self._ledger
        match event:
            case Listed(key, version, item):
                self._check_order(version, key)
                self._stats.events += 1
                if item is not None:
                    self._outlet.put(Changed(self._resource, item, received))
                elif key in ledger:
                    self._outlet.put(Deleted(self._resource, key, received))
                ledger.put(key, version, version)
            case Removed(key, version):
                self._check_order(version, key)
                self._stats.events += 1
                self._outlet.put(Deleted(self._resource, key, received))
                ledger.remove(key, version)
            case Bookmark(version):
                self._stats.bookmarks += 1
                ledger.advance(version)
            case Skipped(reason, key, version):
                self._stats.skipped += 1
                log.warning("%s: skipped %s", self._api.what, reason)
                if key is None:
                    return
                ledger.put(key, version, version)
        self._outlet.in_step(received)

    def _check_order(self, resource_version: str, key: ObjectKey) -> None:
        """Events come in the order of their revisions, so an older one tells that time went back."""
        if resource_version and revision_of(resource_version) < self._ledger.position:
            was = self._ledger.resource_version
            raise _WentBackError(f"{key} came at resourceVersion {resource_version}, after {was}")

    def _failed(self, error: Exception, stop: threading.Event) -> None:
        """Count a failure and wait, as long as its kind asks for."""
        if self._wish or stop.is_set():
            return
        if not isinstance(error, ApiError):
            self._stats.restarted("garbled" if isinstance(error, Garbled) else "defect")
            self._wait(str(error), self._backoff.failed(), stop)
            return
        if self.watching and is_out_of_range(error):
            stands = self._ledger.resource_version
            self._useless(stands, "gone", f"the watch cannot go on from {stands} ({error.message})", stop)
            return
        self._stats.restarted(f"http-{error.status}" if error.status else "cut")
        forbidden = error.status == HTTPStatus.FORBIDDEN
        delay = self._backoff.failed(
            at_least=self._timing.forbidden_seconds if forbidden and self._forbidden else 0.0,
            retry_after=error.retry_after_seconds,
        )
        self._forbidden = forbidden
        self._wait(explain(error, "watch" if self.watching else self._lister.verb, self._api), delay, stop)

    def _useless(self, list_at: str, counted_as: str, reason: str, stop: threading.Event) -> None:
        """What we hold is no base to go on from: list at once, but back off where that does not help."""
        with self._lock:
            self._list_at = list_at
        self._stats.restarted(counted_as)
        log.info("%s: %s: listing again", self._api.what, reason)
        now = time.monotonic()
        cheap = now >= self._again_cheap_at
        self._again_cheap_at = now + self._timing.gone_spacing_seconds
        if not cheap:
            self._wait(reason, self._backoff.failed(), stop)

    def _wait(self, reason: str, seconds: float, stop: threading.Event) -> None:
        # A probe would only find out what is known.
        self.watching = False
        self._stats.errors += 1
        self._troubled = True
        log.warning("%s: the last state stays, next attempt in %.1f s", reason, seconds)
        self._outlet.report("backing-off", reason, seconds)
        stop.wait(seconds)
