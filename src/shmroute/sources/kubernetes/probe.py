"""Is the watch alive, and is the server where it was? Asked by a pair of small requests, now and then.

Run by `shmroute.sources.kubernetes.source` in a thread of its own, over connections of its own; it acts through
`Watched` and never hands out an object. Bookmarks are no heartbeat: a quiet resource gets not one byte in minutes
from a healthy server, so silence alone says nothing.

The pair, both for a name that no object can have:

* Without resourceVersion: a quorum read, the storage's revision. Less than the server has shown before means that
  it went back in time (a restored backup): everything is listed again.
* With resourceVersion=0: how far the server's cache of this resource has come. At most where we are: nothing is
  missing. It takes a healthy watch milliseconds to follow.

A cache ahead of us does *not* mean that something is missing. Revisions count the writes to *all* resources,
and a cache follows them, while a watch learns of it once a minute, by a bookmark. In a cluster where others are
busy and our resource is quiet, the cache is ahead nearly always; to reconnect on it would be to
reconnect for ever. So a *peek* decides: a second watch of 3 s, from where nothing is known to be missing,
with the same selector. A server sends it whatever happened since, at once, and a closing bookmark 2 s before its end:

* An event: something has happened. Our watch must tell it too within a grace, or it is dead: reconnect
  (from where we stand, without a list), and if it stays silent even so, list again.
* Only the bookmark: nothing has happened up to there. That is remembered, so the next peek starts there.
* Neither (a server without bookmarks, or a proxy that swallows them, too): we cannot know. Reconnect, then
  list once. While such lists show nothing new, the next one waits twice as long, up to the audit's period.

No answer at all, twice in a row, ends the watch as well: the peer is gone or frozen.

The waits are chosen so that a swallowed event is found, and the watch opened anew, within `PROBE_PERIOD_SECONDS`.
The exception is doubt that has grown rare: a proxy that swallows all of every stream, while lists show nothing new.

What a probe cannot see: one event lost among others that came, and a server that went back and has since passed the
point where it was. The audit finds both.
"""

from __future__ import annotations

import enum
import logging
import random
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from shmroute.errors import ApiError
from shmroute.sources.kubernetes.explain import explain
from shmroute.sources.kubernetes.listing import read_events
from shmroute.sources.kubernetes.sync_state import revision_of
from shmroute.sources.kubernetes.wire import Bookmark, Garbled, Listed, Removed

if TYPE_CHECKING:
    import threading

    from shmroute.kube.connection import Abort
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.sync_state import Ledger
    from shmroute.sources.kubernetes.timing import SourceStats, Timing

__all__ = ["Liveness", "Watched"]

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""One lost answer is weather; two in a row end the watch."""


class Watched(Protocol):
    """The watch that is looked after."""

    @property
    def watching(self) -> bool:
        """Whether there is a watch at all, open or about to be."""

    def reconnect(self, reason: str) -> None: ...

    def relist(self, reason: str) -> None: ...

    def in_step(self, contact_ns: int) -> None: ...

    def note(self, problem: str) -> None:
        """The probe itself cannot be made; "" takes that back."""


class _Peek(enum.Enum):
    NOTHING = enum.auto()
    UNKNOWN = enum.auto()


class Liveness:
    """The probe's loop and what it remembers. One thread."""

    def __init__(
        self,
        api: ResourceApi,
        ledger: Ledger,
        watched: Watched,
        timing: Timing,
        stats: SourceStats,
        stop: threading.Event,
        abort: Abort,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._watched = watched
        self._timing = timing
        self._stats = stats
        self._stop = stop
        self._abort = abort
        self._verb = "list"
        """The right that the newest request took."""
        self._problem = ""
        """Why the newest probe was refused."""
        self._doubt_seconds = 0.0
        self._doubt_again = 0.0

    def run(self) -> None:
        """Probe now and then until `stop`; `abort` ends a request under way.

        What a probe takes counts as a part of the wait for the next one: a peek of some seconds in every probe
        must not make a swallowed event wait longer. Where there was no answer, the whole wait comes after it.
        """
        pause = taken = 0.0
        while True:
            wait = random.uniform(*self._timing.probe_wait_seconds)  # noqa: S311 - spreads load, guards nothing
            if self._stop.wait(max(pause, wait - taken)):
                return
            pause = taken = 0.0
            if not self._watched.watching:
                continue
            began = time.monotonic()
            try:
                self.probe()
                taken = time.monotonic() - began
            except ApiError as error:
                if self._stop.is_set():
                    return
                pause = self._refused(error)
            except Garbled as error:
                self._watched.note(f"the probe's answer makes no sense: {error}")

    def probe(self) -> None:
        """One pair, and what follows from it."""
        asked_ns = time.monotonic_ns()
        highest = self._ledger.highest
        cache = self._ask(quorum=False)
        storage = self._ask(quorum=True)
        self._stats.probes += 1
        if storage < highest:
            self._answered()
            log.warning("%s: the storage is at %d, after %d: it went back in time", self._api.what, storage, highest)
            self._watched.relist("rewound")
            return
        self._ledger.saw(storage)
        known = max(self._ledger.position, self._ledger.proven)
        if cache <= known:
            self._answered()
            self._watched.in_step(asked_ns)
            return
        peek = self._peek(known, cache)
        self._answered()
        match peek:
            case _Peek.NOTHING:
                self._doubt_seconds = 0.0
                self._ledger.prove(cache)
                self._watched.in_step(asked_ns)
            case _Peek.UNKNOWN:
                self._doubt(cache)
            case happened:
                if self._ledger.wait_past(happened, self._timing.grace_seconds, self._stop):
                    self._watched.in_step(asked_ns)
                else:
                    self._revive(happened)

    def _ask(self, *, quorum: bool) -> int:
        """One half of the pair; a second attempt, on a fresh connection, where there is no answer."""
        self._verb = "list"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._api.revision(
                    quorum=quorum, timeout_seconds=self._timing.probe_timeout_seconds, abort=self._abort
                )
            except ApiError as error:
                if error.status or attempt == ATTEMPTS or self._stop.wait(self._timing.probe_retry_seconds):
                    raise
        raise AssertionError("unreachable")

    def _peek(self, after: int, until: int) -> int | _Peek:
        """Whether anything happened in (after, until]: the revision of the first event, or what is known."""
        self._stats.peeks += 1
        self._verb = "watch"
        seconds = self._timing.peek_seconds
        try:
            stream = self._api.watch(
                str(after),
                seconds,
                answer_seconds=self._timing.probe_timeout_seconds,
                silence_seconds=seconds + self._timing.probe_timeout_seconds,
                abort=self._abort,
            )
            with stream:
                for event, _ in read_events(stream, self._api, self._stats, self._api.what):
                    match event:
                        case Listed(_, version) | Removed(_, version):
                            return revision_of(version)
                        case Bookmark(version) if revision_of(version) >= until:
                            return _Peek.NOTHING
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                return until  # so much has happened that the server has forgotten where we stand
            if error.status:
                raise
        except Garbled:
            log.info("%s: a peek made no sense", self._api.what)
        return _Peek.UNKNOWN

    def _revive(self, happened: int) -> None:
        """The watch has not told what a peek was told."""
        log.warning("%s: the watch is silent while the resource moves: reconnecting", self._api.what)
        self._watched.reconnect("silent")
        if not self._ledger.wait_past(happened, self._timing.grace_seconds, self._stop):
            self._watched.relist("silent")

    def _doubt(self, cache: int) -> None:
        """Nobody tells us whether something is missing."""
        now = time.monotonic()
        if now < self._doubt_again:
            return
        self._watched.reconnect("doubt")
        if self._ledger.wait_past(cache, self._timing.grace_seconds, self._stop):
            return
        before = self._ledger.changes
        self._watched.relist("doubt")
        self._ledger.wait_past(cache, self._timing.list_silence_seconds, self._stop)
        if self._ledger.changes != before:
            self._doubt_seconds = 0.0
        else:
            longer = max(self._timing.probe_wait_seconds[1], self._doubt_seconds * 2)
            self._doubt_seconds = min(longer, self._timing.audit_seconds)
        self._doubt_again = time.monotonic() + self._doubt_seconds

    def _refused(self, error: ApiError) -> float:
        """The probe got no answer, or a refusal. Returns how long the server wants to be left alone."""
        problem = f"the probe fails: {explain(error, self._verb, self._api)}"
        if error.status == 0:
            log.warning("%s: no answer to the probe (%s): reconnecting", self._api.what, error.reason)
        elif problem != self._problem:
            log.warning("%s: the open watch goes on, and nothing proves that it misses nothing", problem)
        self._problem = problem
        self._watched.note(problem)
        if error.status == 0:
            self._watched.reconnect("unreachable")
        return error.retry_after_seconds or 0.0

    def _answered(self) -> None:
        """All that the probe asked for was granted."""
        if self._problem:
            log.info("%s: the probe is answered again", self._api.what)
        self._problem = ""
        self._watched.note("")
