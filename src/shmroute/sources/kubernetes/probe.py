"""Checks, by small periodic requests, that the watch is alive and that the server has not gone back in time.

Run by `shmroute.sources.kubernetes.source` in its own thread, over its own connections; it acts through the reflector
and never sends an object. `schedule` says when each step is due; this module makes the requests and
draws the conclusions. Bookmarks are not a heartbeat: a healthy server may send nothing for minutes about a quiet
resource, so silence alone proves nothing.

Two requests, both for a name that no object can have:

* With resourceVersion=0: the newest revision of the server's cache of this resource. If we have reached it, nothing is
  missing. Two requests in a row without an answer: the peer is gone or frozen, and the watch is reopened.
* Without resourceVersion: a quorum read, the storage's revision. If it is below one that the server has shown before,
  the server went back in time (a restored backup): everything is listed again. No answer: the storage is unavailable,
  while the watch may be alive.

A cache ahead of us does *not* mean that something is missing. Revisions count the writes to *all* resources, and a
cache follows them, while a watch learns of them once a minute, by a bookmark. If that bookmark does not come, a *peek*
decides: a second watch of 3 s with the same selector, from the last revision up to which nothing is missing. A server
sends it at once whatever happened since, and a closing bookmark 2 s before its end:

* An event: something has happened. Our watch must receive it too within a grace period, or it is dead: reconnect (at
  the same resourceVersion, without a list), and if the watch is still silent, list again.
* Only the bookmark: nothing has happened up to its revision. The next peek starts there.
* Neither (a server without bookmarks, or a proxy that drops them): unknown. One comparison with the server's metadata
  decides. While peeks show neither, the wait before the next one doubles.

After a broken connection the watch resumes where it was, and its events are served at once. It may have missed
something without a trace, if a server was restored from a backup and has passed the old revision since. So one
comparison is made before the source says that it is in step.

A probe cannot detect one event lost among others that arrived. The audit finds it.
"""

from __future__ import annotations

import enum
import logging
import random
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from shmroute.errors import ApiError
from shmroute.sources.kubernetes.audit import MAX_REPORTED_KEYS, compare
from shmroute.sources.kubernetes.explain import explain, is_out_of_range
from shmroute.sources.kubernetes.listing import read_events
from shmroute.sources.kubernetes.schedule import Due, Schedule
from shmroute.sources.kubernetes.sync_state import revision_of
from shmroute.sources.kubernetes.wire import Bookmark, Garbled, Listed, Removed

if TYPE_CHECKING:
    from shmroute.kube.abort import Abort
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.reflector import Reflector
    from shmroute.sources.kubernetes.sync_state import SyncState
    from shmroute.sources.kubernetes.timing import SourceStats, Timing

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Reconnect after two unanswered probes in a row: one may be lost by chance."""

TURN_SECONDS = 1.0
"""Longest sleep, in seconds: a comparison that the reflector plans during the sleep waits no longer than this."""

IDLE_SECONDS = 0.01
"""Shortest sleep, in seconds: limits the rate of turns, even if a step is always due."""

UNWATCHED_SECONDS = 0.2
"""Shortest sleep while there is no watch, in seconds: every due step waits for the watch."""


class Topic(enum.Enum):
    """Subject of a problem. Each has its own note, which a success on the same subject clears."""

    CACHE = "cache"
    STORAGE = "storage"
    PEEK = "peek"
    COMPARISON = "comparison"


class ProbeListener(Protocol):
    """Takes what the probe has found out."""

    def in_step(self, contact_ns: int) -> None:
        """Note that the server's cache answered at this monotonic time."""

    def confirmed(self, confirmed_ns: int) -> None:
        """Note that the storage answered at this monotonic time and had not gone back."""

    def note(self, topic: Topic, problem: str) -> None:
        """Report an unanswered or undecided question; "" clears the problem of that topic."""


class _Peek(enum.Enum):
    NOTHING = enum.auto()
    UNKNOWN = enum.auto()


class Liveness:
    """The probe's loop and state. One thread calls `run`; the reflector's thread calls the rest."""

    def __init__(
        self,
        api: ResourceApi,
        sync: SyncState,
        reflector: Reflector,
        listener: ProbeListener,
        timing: Timing,
        stats: SourceStats,
        abort: Abort,
    ) -> None:
        self._api = api
        self._sync = sync
        self._reflector = reflector
        self._listener = listener
        self._timing = timing
        self._stats = stats
        self._stop = threading.Event()
        self._abort = abort
        self._lock = threading.Lock()
        """Guards the schedule."""
        self._schedule = Schedule(timing, time.monotonic(), random.random)
        self._topic = Topic.CACHE
        """Topic of the newest request."""
        self._problems: dict[Topic, str] = {}

    # -- called by the reflector ------------------------------------------------------------------

    def heard(self, *, bookmark: bool = False) -> None:
        """Note that the watch has received an event or a bookmark."""
        self._schedule.heard(time.monotonic())
        if bookmark:
            self._schedule.bookmarked()

    def broken(self) -> None:
        """Plan a comparison: the watch has resumed after a broken connection and may not be in step."""
        now = time.monotonic()
        with self._lock:
            self._schedule.broken(now)
            seconds = max(0.0, self._schedule.compare_at - now)
        self._note(
            Topic.COMPARISON,
            f"the connection broke: events are followed again, and compared with the server within {seconds:.0f} s",
        )

    def listed(self) -> None:
        """Cancel the comparison: a complete list was sent."""
        with self._lock:
            self._schedule.listed()
        self._note(Topic.COMPARISON, "")

    @property
    def comparing(self) -> bool:
        """Whether a comparison must still show that we are in step."""
        return self._schedule.comparing

    # -- the loop ---------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Take each step when it is due, until `stop` is set; `abort` ends a running request."""
        self._stop = stop
        while True:
            with self._lock:
                _, at = self._schedule.next()
            shortest = IDLE_SECONDS if self._reflector.watching else UNWATCHED_SECONDS
            if self._stop.wait(min(TURN_SECONDS, max(shortest, at - time.monotonic()))):
                return
            try:
                self.turn()
            except (ApiError, Garbled) as error:
                if self._stop.is_set():
                    return
                self._failed(error)

    def turn(self) -> None:
        """Take the step that is due now, if any. Raises `ApiError` and `Garbled` if the server gives no good answer."""
        now = time.monotonic()
        with self._lock:
            self._schedule.reached(self._sync.known)
            due, at = self._schedule.next()
            if at > now:
                return
            watching = self._reflector.watching
            if due in (Due.PROBE, Due.CONFIRM):
                if watching and due is Due.PROBE and self._schedule.excuse(now):
                    return
                self._schedule.probed(now)
        if not watching:
            return
        match due:
            case Due.PROBE | Due.CONFIRM:
                self.probe(confirm=due is Due.CONFIRM)
            case Due.LOOK:
                self._look()
            case Due.COMPARE:
                self._compare(self._sync.resource_version, "compared")

    def probe(self, *, confirm: bool) -> None:
        """Ask the cache; with `confirm` also the storage."""
        asked_ns = time.monotonic_ns()
        highest = self._sync.highest
        self._topic = Topic.CACHE
        cache = self._ask(quorum=False)
        self._stats.probes += 1
        self._answered(Topic.CACHE)
        if cache > self._sync.known:
            with self._lock:
                self._schedule.ahead(cache, time.monotonic())
        self._listener.in_step(asked_ns)
        if not confirm:
            return
        self._topic = Topic.STORAGE
        storage = self._ask(quorum=True)
        self._stats.confirmations += 1
        self._answered(Topic.STORAGE)
        with self._lock:
            self._schedule.confirmed(time.monotonic())
        if storage < highest:
            log.warning("%s: the storage is at %d, after %d: it went back in time", self._api.what, storage, highest)
            self._reflector.relist("rewound")
            return
        self._sync.note_server(storage)
        self._listener.confirmed(asked_ns)

    # -- inside -----------------------------------------------------------------------------------

    def _ask(self, *, quorum: bool) -> int:
        """Make one request of a probe; without an answer, repeat it once on a new connection."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._api.revision(
                    quorum=quorum, timeout_seconds=self._timing.probe_timeout_seconds, abort=self._abort
                )
            except ApiError as error:
                if error.status or attempt == ATTEMPTS or self._stop.wait(self._timing.probe_retry_seconds):
                    raise
        raise AssertionError("unreachable")

    def _look(self) -> None:
        """Find out whether the watch, which has stayed behind the cache for too long, misses something."""
        asked_ns = time.monotonic_ns()
        behind = self._schedule.behind
        self._topic = Topic.PEEK
        found = self._peek(self._sync.known, behind)
        self._answered(Topic.PEEK)
        now = time.monotonic()
        if found is _Peek.UNKNOWN:
            with self._lock:
                self._schedule.looked_in_vain(now)
            self._compare(str(behind), "doubt")
            return
        with self._lock:
            self._schedule.looked()
        if found is _Peek.NOTHING:
            self._sync.note_checked(behind)
            self._schedule.bookmarked()
            self._listener.in_step(asked_ns)
        elif self._sync.wait_past(found, self._timing.grace_seconds, self._stop):
            self._listener.in_step(asked_ns)
        else:
            self._revive(found)

    def _peek(self, after: int, until: int) -> int | _Peek:
        """Return the revision of the first event in (after, until], NOTHING if there is none, or UNKNOWN."""
        self._stats.peeks += 1
        seconds = self._timing.peek_seconds
        silence = seconds + self._timing.probe_timeout_seconds
        deadline = time.monotonic() + 2 * silence
        try:
            stream = self._api.watch(
                str(after),
                seconds,
                answer_seconds=self._timing.probe_timeout_seconds,
                silence_seconds=silence,
                abort=self._abort,
            )
            with stream:
                for event, _ in read_events(stream, self._api, self._stats, self._api.what, deadline):
                    match event:
                        case Listed(resource_version=version) | Removed(resource_version=version):
                            return revision_of(version)
                        case Bookmark(version) if revision_of(version) >= until:
                            return _Peek.NOTHING
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                return until  # so much has happened that the server no longer keeps our revision
            if error.status:
                raise
        except Garbled:
            log.info("%s: a peek made no sense", self._api.what)
        return _Peek.UNKNOWN

    def _revive(self, happened: int) -> None:
        """Reconnect the watch, which has not received the event that a peek has; if that does not help, list again."""
        log.warning("%s: the watch is silent while the resource moves: reconnecting", self._api.what)
        self._reflector.reconnect("silent")
        if not self._sync.wait_past(happened, self._timing.grace_seconds, self._stop):
            self._reflector.relist("silent")

    def _compare(self, resource_version: str, reason: str) -> None:
        """Compare with the server's metadata; list everything again if something differs."""
        asked_ns = time.monotonic_ns()
        self._topic = Topic.COMPARISON
        try:
            _, differing, problem = compare(
                self._api,
                self._sync,
                self._timing,
                resource_version,
                lambda: self._reflector.watching,
                self._stop,
                self._abort,
            )
        except ApiError as error:
            if not is_out_of_range(error):
                raise
            log.warning("%s: the server is not as far as we are: %s", self._api.what, error.message)
            with self._lock:
                self._schedule.compared(time.monotonic())
            self._reflector.relist("rewound")
            return
        now = time.monotonic()
        if problem:
            if self._schedule.comparing:
                with self._lock:
                    self._schedule.compare_again(self._timing.compare_retry_seconds, now)
            return
        with self._lock:
            self._schedule.compared(now)
        self._stats.comparisons += 1
        if differing:
            keys = ", ".join(map(str, sorted(differing)[:MAX_REPORTED_KEYS]))
            log.error("%s: %d objects differ from the server's: %s", self._api.what, len(differing), keys)
            self._reflector.relist(reason)
            return
        self._answered(Topic.COMPARISON)
        self._listener.in_step(asked_ns)

    def _failed(self, error: ApiError | Garbled) -> None:
        """Handle a request that was refused or got no good answer."""
        topic = self._topic
        now = time.monotonic()
        with self._lock:
            if topic is Topic.PEEK:
                self._schedule.looked_in_vain(now)
            elif topic is Topic.COMPARISON and self._schedule.comparing:
                self._schedule.compare_again(self._timing.compare_retry_seconds, now)
            if isinstance(error, ApiError) and error.retry_after_seconds:
                self._schedule.wait_for(error.retry_after_seconds, now)
        # Without a thread no request was sent: this proves nothing about the peer.
        unanswered = isinstance(error, ApiError) and error.status == 0 and error.reason != "NoThread"
        dead = topic is Topic.CACHE and unanswered
        problem = f"{_FAILS[topic]}: {self._explain(error, topic)}"
        if dead:
            log.warning("%s: no answer to the probe (%s): reconnecting", self._api.what, error.reason)  # type: ignore[union-attr]
        elif problem != self._problems.get(topic):
            log.warning("%s%s: the open watch goes on", self._api.prefix, problem)
        self._note(topic, problem)
        if dead:
            self._reflector.reconnect("unreachable", broken=True)

    def _explain(self, error: ApiError | Garbled, topic: Topic) -> str:
        if isinstance(error, Garbled):
            return f"the answer makes no sense: {error}"
        return explain(error, "watch" if topic is Topic.PEEK else "list", self._api)

    def _answered(self, topic: Topic) -> None:
        """Clear the problem of `topic`: its request was answered."""
        if self._problems.get(topic) and topic is not Topic.COMPARISON:
            log.info("%s: the %s is answered again", self._api.what, topic.value)
        self._note(topic, "")

    def _note(self, topic: Topic, problem: str) -> None:
        self._problems[topic] = problem
        self._listener.note(topic, problem)


_FAILS = {
    Topic.CACHE: "the probe fails",
    Topic.STORAGE: "the storage is not confirmed",
    Topic.PEEK: "it cannot be seen whether the watch misses something",
    Topic.COMPARISON: "the state after a broken connection cannot be compared with the server",
}
