"""Is the watch alive, and is the server where it was? Asked by small requests, now and then.

Run by `shmroute.sources.kubernetes.source` in a thread of its own, over connections of its own; it acts through
`Watched` and never hands out an object. `schedule` says when what is due; this module makes the requests and draws
the conclusions. Bookmarks are no heartbeat: a quiet resource gets not one byte in minutes from a healthy server, so
silence alone says nothing.

Two requests, both for a name that no object can have:

* With resourceVersion=0: how far the server's cache of this resource has come. At most where we are: nothing is
  missing. No answer, twice in a row: the peer is gone or frozen, and the watch is opened anew.
* Without resourceVersion: a quorum read, the storage's revision. Less than the server has shown before means that
  it went back in time (a restored backup): everything is listed again. No answer: the storage is away, while the watch
  may be alive.

A cache ahead of us does *not* mean that something is missing. Revisions count the writes to *all* resources, and a
cache follows them, while a watch learns of it once a minute, by a bookmark. Where it does not for a while, a *peek*
decides: a second watch of 3 s, from where nothing is known to be missing, with the same selector. A server sends it
whatever happened since, at once, and a closing bookmark 2 s before its end:

* An event: something has happened. Our watch must bring it too within a grace, or it is dead: reconnect (from where
  it was, without a list), and if it stays silent even so, list again.
* Only the bookmark: nothing has happened up to there. That is remembered, so the next peek starts there.
* Neither (a server without bookmarks, or a proxy that swallows them, too): we cannot know. One comparison with the
  server's metadata settles it. While such looks find nothing, the next one comes twice as late.

After a broken connection the watch goes on where it was, and its events are served at once. It may have missed
something without a trace: a server that was restored from a backup and has passed the old revision since. So one
comparison is made before the source says that it is in step.

What a probe cannot see: one event lost among others that came. The audit finds it.
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
from shmroute.sources.kubernetes.audit import KEYS_TOLD, compare
from shmroute.sources.kubernetes.explain import explain, is_out_of_range
from shmroute.sources.kubernetes.listing import read_events
from shmroute.sources.kubernetes.schedule import Due, Schedule
from shmroute.sources.kubernetes.sync_state import revision_of
from shmroute.sources.kubernetes.wire import Bookmark, Garbled, Listed, Removed

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmroute.kube.connection import Abort
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.sync_state import Ledger
    from shmroute.sources.kubernetes.timing import SourceStats, Timing

__all__ = ["Liveness", "Topic", "Watched"]

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Reconnect after two unanswered probes in a row: one may be lost by chance."""

TURN_SECONDS = 1.0
"""Longest sleep: what the reflector plans meanwhile (a comparison) is seen after that."""

IDLE_SECONDS = 0.01
"""Shortest sleep: bounds the rate of turns whatever the schedule says."""

UNWATCHED_SECONDS = 0.2
"""Shortest sleep while there is no watch: what is due must wait for it."""


class Topic(enum.Enum):
    """What a problem is about; each has a note of its own, taken back by its own success."""

    CACHE = "cache"
    STORAGE = "storage"
    PEEK = "peek"
    COMPARISON = "comparison"


class Watched(Protocol):
    """The watch that is looked after."""

    @property
    def watching(self) -> bool:
        """Whether there is a watch at all, open or about to be."""

    def reconnect(self, reason: str, *, broken: bool = False) -> None: ...

    def relist(self, reason: str) -> None: ...

    def in_step(self, contact_ns: int) -> None:
        """At that monotonic time the server's cache has answered."""

    def confirmed(self, confirmed_ns: int) -> None:
        """At that monotonic time the storage has answered, and had not gone back."""

    def note(self, topic: Topic, problem: str) -> None:
        """Something cannot be asked, or is not known yet; "" takes that back."""


class _Peek(enum.Enum):
    NOTHING = enum.auto()
    UNKNOWN = enum.auto()


class Liveness:
    """The probe's loop and what it remembers. `run` is for one thread; the rest is for the reflector's."""

    def __init__(
        self,
        api: ResourceApi,
        ledger: Ledger,
        watched: Watched,
        timing: Timing,
        stats: SourceStats,
        stop: threading.Event,
        abort: Abort,
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._watched = watched
        self._timing = timing
        self._stats = stats
        self._stop = stop
        self._abort = abort
        self._clock = clock
        self._lock = threading.Lock()
        """Guards the schedule."""
        self._schedule = Schedule(timing, clock(), dice)
        self._topic = Topic.CACHE
        """What the newest request was about."""
        self._problems: dict[Topic, str] = {}

    # -- what the reflector tells -----------------------------------------------------------------

    def heard(self, *, bookmark: bool = False) -> None:
        """The watch has brought an event or a bookmark."""
        self._schedule.heard(self._clock())
        if bookmark:
            self._schedule.bookmarked()

    def broken(self) -> None:
        """The watch has resumed after a broken connection: a comparison is due before it is in step."""
        now = self._clock()
        with self._lock:
            self._schedule.broken(now)
            seconds = max(0.0, self._schedule.compare_at - now)
        self._note(
            Topic.COMPARISON,
            f"the connection broke: events are followed again, and compared with the server within {seconds:.0f} s",
        )

    def listed(self) -> None:
        """A complete list was handed out."""
        with self._lock:
            self._schedule.listed()
        self._note(Topic.COMPARISON, "")

    @property
    def comparing(self) -> bool:
        """Whether a comparison is due before we are in step."""
        return self._schedule.comparing

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what is due until `stop`; `abort` ends a request under way."""
        while True:
            with self._lock:
                _, at = self._schedule.next()
            shortest = IDLE_SECONDS if self._watched.watching else UNWATCHED_SECONDS
            if self._stop.wait(min(TURN_SECONDS, max(shortest, at - self._clock()))):
                return
            try:
                self.turn()
            except (ApiError, Garbled) as error:
                if self._stop.is_set():
                    return
                self._failed(error)

    def turn(self) -> None:
        """Do what is due now, if anything is. Raises `ApiError` and `Garbled` where it was not answered."""
        now = self._clock()
        with self._lock:
            self._schedule.reached(self._ledger.known)
            due, at = self._schedule.next()
            if at > now:
                return
            watching = self._watched.watching
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
                self._compare(self._ledger.resource_version, "compared")

    def probe(self, *, confirm: bool) -> None:
        """Ask the cache, and the storage too."""
        asked_ns = time.monotonic_ns()
        highest = self._ledger.highest
        self._topic = Topic.CACHE
        cache = self._ask(quorum=False)
        self._stats.probes += 1
        self._answered(Topic.CACHE)
        if cache > self._ledger.known:
            with self._lock:
                self._schedule.ahead(cache, self._clock())
        self._watched.in_step(asked_ns)
        if not confirm:
            return
        self._topic = Topic.STORAGE
        storage = self._ask(quorum=True)
        self._stats.confirmations += 1
        self._answered(Topic.STORAGE)
        with self._lock:
            self._schedule.confirmed(self._clock())
        if storage < highest:
            log.warning("%s: the storage is at %d, after %d: it went back in time", self._api.what, storage, highest)
            self._watched.relist("rewound")
            return
        self._ledger.saw(storage)
        self._watched.confirmed(asked_ns)

    # -- inside -----------------------------------------------------------------------------------

    def _ask(self, *, quorum: bool) -> int:
        """One request of a probe; a second attempt, on a fresh connection, where there is no answer."""
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
        """The watch has stayed behind the cache for too long: find out whether it misses something."""
        asked_ns = time.monotonic_ns()
        behind = self._schedule.behind
        self._topic = Topic.PEEK
        found = self._peek(self._ledger.known, behind)
        self._answered(Topic.PEEK)
        now = self._clock()
        if found is _Peek.UNKNOWN:
            with self._lock:
                self._schedule.looked_in_vain(now)
            self._compare(str(behind), "doubt")
            return
        with self._lock:
            self._schedule.looked()
        if found is _Peek.NOTHING:
            self._ledger.prove(behind)
            self._schedule.bookmarked()
            self._watched.in_step(asked_ns)
        elif self._ledger.wait_past(found, self._timing.grace_seconds, self._stop):
            self._watched.in_step(asked_ns)
        else:
            self._revive(found)

    def _peek(self, after: int, until: int) -> int | _Peek:
        """Whether anything happened in (after, until]: the revision of the first event, or what is known."""
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
                return until  # so much has happened that the server has forgotten where we are
            if error.status:
                raise
        except Garbled:
            log.info("%s: a peek made no sense", self._api.what)
        return _Peek.UNKNOWN

    def _revive(self, happened: int) -> None:
        """The watch has not brought what a peek has."""
        log.warning("%s: the watch is silent while the resource moves: reconnecting", self._api.what)
        self._watched.reconnect("silent")
        if not self._ledger.wait_past(happened, self._timing.grace_seconds, self._stop):
            self._watched.relist("silent")

    def _compare(self, resource_version: str, reason: str) -> None:
        """Compare with the server's metadata, and list everything again where that differs."""
        asked_ns = time.monotonic_ns()
        self._topic = Topic.COMPARISON
        try:
            _, differing, problem = compare(
                self._api,
                self._ledger,
                self._timing,
                resource_version,
                lambda: self._watched.watching,
                self._stop,
                self._abort,
            )
        except ApiError as error:
            if not is_out_of_range(error):
                raise
            log.warning("%s: the server is not as far as we are: %s", self._api.what, error.message)
            with self._lock:
                self._schedule.compared(self._clock())
            self._watched.relist("rewound")
            return
        now = self._clock()
        if problem:
            if self._schedule.comparing:
                with self._lock:
                    self._schedule.compare_again(self._timing.compare_retry_seconds, now)
            return
        with self._lock:
            self._schedule.compared(now)
        self._stats.comparisons += 1
        if differing:
            keys = ", ".join(map(str, sorted(differing)[:KEYS_TOLD]))
            log.error("%s: %d objects differ from the server's: %s", self._api.what, len(differing), keys)
            self._watched.relist(reason)
            return
        self._answered(Topic.COMPARISON)
        self._watched.in_step(asked_ns)

    def _failed(self, error: ApiError | Garbled) -> None:
        """A request got no answer, or a refusal."""
        topic = self._topic
        now = self._clock()
        with self._lock:
            if topic is Topic.PEEK:
                self._schedule.looked_in_vain(now)
            elif topic is Topic.COMPARISON and self._schedule.comparing:
                self._schedule.compare_again(self._timing.compare_retry_seconds, now)
            if isinstance(error, ApiError) and error.retry_after_seconds:
                self._schedule.wait_for(error.retry_after_seconds, now)
        # Without a thread nothing was asked: that says nothing about the peer.
        unanswered = isinstance(error, ApiError) and error.status == 0 and error.reason != "NoThread"
        dead = topic is Topic.CACHE and unanswered
        problem = f"{_FAILS[topic]}: {self._explain(error, topic)}"
        if dead:
            log.warning("%s: no answer to the probe (%s): reconnecting", self._api.what, error.reason)  # type: ignore[union-attr]
        elif problem != self._problems.get(topic):
            log.warning("%s: the open watch goes on", problem)
        self._note(topic, problem)
        if dead:
            self._watched.reconnect("unreachable", broken=True)

    def _explain(self, error: ApiError | Garbled, topic: Topic) -> str:
        if isinstance(error, Garbled):
            return f"the answer makes no sense: {error}"
        return explain(error, "watch" if topic is Topic.PEEK else "list", self._api)

    def _answered(self, topic: Topic) -> None:
        """What was asked about that topic was granted."""
        if self._problems.get(topic) and topic is not Topic.COMPARISON:
            log.info("%s: the %s is answered again", self._api.what, topic.value)
        self._note(topic, "")

    def _note(self, topic: Topic, problem: str) -> None:
        self._problems[topic] = problem
        self._watched.note(topic, problem)


_FAILS = {
    Topic.CACHE: "the probe fails",
    Topic.STORAGE: "the storage is not confirmed",
    Topic.PEEK: "it cannot be seen whether the watch misses something",
    Topic.COMPARISON: "the state after a broken connection cannot be compared with the server",
}
