"""One kind of objects of a cluster as a `Source`, kept in step with the API server.

Created by the watcher, one for each kind and namespace. This module owns the threads and reports the source's state;
`reflector` (list and watch), `probe` and `audit` do the work, over `api`, `wire` and `sync_state`. It knows no
table and no route, and never waits for its owner.

Threads: the caller's of `run`, which looks after the others; one that lists and watches, one for the probe, and one
that keeps the time (resync and audits). A thread that ends is started again, and the state says so.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from shmroute.kube.abort import Abort
from shmroute.sources.base import AuditResult, Resync, SourceState
from shmroute.sources.kubernetes.api import ResourceApi
from shmroute.sources.kubernetes.audit import audit
from shmroute.sources.kubernetes.probe import Liveness, Topic
from shmroute.sources.kubernetes.reflector import Reflector
from shmroute.sources.kubernetes.schedule import audit_wait
from shmroute.sources.kubernetes.sync_state import SyncState
from shmroute.sources.kubernetes.timing import SourceStats, Timing
from shmroute.sources.threads import CHECK_SECONDS, SupervisedThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmroute.kube.connection import Connection
    from shmroute.resources.registry import WatchedKind
    from shmroute.sources.base import Event, Phase, Sink
    from shmroute.sources.threads import ThreadStatus

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0
"""Seconds between two resyncs, which cost the API server nothing; handlers retry failed objects that often."""


class KubernetesSource:
    """Lists and watches the objects of `kind` until it is stopped.

    `namespace` None means all; `selector` is a label selector, "" for everything; `resync_seconds` 0 means
    never. `rescoped` is called when the resource has another scope than `kind` says. `kept` returns how many objects
    the sink has where that may differ from what was sent. `stats` counts lists, events, failures and restarts. Call
    `run` once.
    """

    def __init__(
        self,
        connection: Connection,
        kind: WatchedKind,
        *,
        namespace: str | None,
        selector: str = "",
        resync_seconds: float = RESYNC_SECONDS,
        timing: Timing | None = None,
        rescoped: Callable[[], None] = lambda: None,
        kept: Callable[[], int | None] | None = None,
    ) -> None:
        self.kinds: tuple[WatchedKind, ...] = (kind,)
        self.stats = SourceStats()
        self.rescoped = rescoped
        self.kept = kept or self._sent
        self._resource = kind.name
        self._resync_seconds = resync_seconds
        self._timing = timing or Timing()
        self._api = ResourceApi(connection, kind, namespace, selector, self._timing)
        self._sync = SyncState()
        self._abort = Abort()
        self._reflector = Reflector(self._api, self._sync, self, self._timing, self.stats)
        self._liveness = Liveness(self._api, self._sync, self._reflector, self, self._timing, self.stats, self._abort)
        self._audit_asked = threading.Event()
        self._lock = threading.Lock()
        """Guards the fields below, and the order in which the threads' events reach the sink."""
        self._sink: Sink | None = None
        self._phase: Phase = "starting"
        self._reason = ""
        self._problems: dict[str, str] = {}
        self._backoff_seconds = 0.0
        self._missing = False
        self._contact_ns = 0
        self._confirmed_ns = 0
        self._told_ns = 0
        self._threads = SupervisedThreads(ended=lambda name: self.stats.restarted(f"{name.split()[-1]}-thread"))

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """List and watch until `stop` is set; returns well under 1 s after that."""
        self._sink = sink
        self.report("starting")
        self._threads.start(f"{self._resource} time", lambda: self._keep_time(stop), restartable=True)
        self._threads.start(f"{self._resource} probe", lambda: self._liveness.run(stop), restartable=True)
        self._threads.start(f"{self._resource} watch", lambda: self._reflector.run(stop), restartable=True)
        while not stop.wait(CHECK_SECONDS):
            self._threads.check()
            for each in self._threads.status():
                problem = f"the {each.name} thread failed and was started again: {each.problem}"
                self._note(f"{each.name} thread", problem if each.problem else "")
        self._end()
        self._threads.join(self._timing.stop_seconds)
        self.report("stopped")
        with self._lock:
            self._sink = None

    def threads(self) -> tuple[ThreadStatus, ...]:
        """Return the helper threads, by names that begin with the resource's. Any thread."""
        return self._threads.status()

    def audit_now(self) -> None:
        """Start an audit, unless one is running; an `AuditResult` follows. For any thread, while `run` runs."""
        self._audit_asked.set()

    @property
    def restarts(self) -> Mapping[str, int]:
        """Number of restarts of lists and watches, by reason."""
        return self.stats.restarts

    # -- called by the reflector and the probe (ReflectorListener, ProbeListener) -------------------------------

    def put(self, event: Event) -> None:
        """Send an event to the owner; drop it once the source has stopped."""
        with self._lock:
            if self._sink is not None:
                self._sink.put(event)

    def report(self, phase: Phase, reason: str = "", backoff_seconds: float = 0.0, *, missing: bool = False) -> None:
        """Report a new phase of the reflector. `missing`: the server does not serve the resource."""
        with self._lock:
            self._phase, self._reason, self._backoff_seconds = phase, reason, backoff_seconds
            if phase in ("watching", "backing-off"):
                self._missing = missing
            if phase == "watching":
                self._problems.pop(Topic.CACHE.value, None)  # it was about the previous connection
            self._tell()

    def listed(self) -> None:
        """Note that a complete list was sent."""
        self._liveness.listed()

    def heard(self, *, bookmark: bool) -> None:
        """Note that the watch has received an event or a bookmark."""
        self._liveness.heard(bookmark=bookmark)

    def broken(self) -> None:
        """Note that the watch has resumed after a broken connection: a comparison must show that it is in step."""
        self._liveness.broken()

    def in_step(self, contact_ns: int) -> None:
        """Note an answer of the server at `contact_ns`; ignored while a comparison is due. Reported once a second."""
        if self._liveness.comparing:
            return
        with self._lock:
            self._contact_ns = max(self._contact_ns, contact_ns)
            self._tell_soon()

    def confirmed(self, confirmed_ns: int) -> None:
        """Note that the storage answered at `confirmed_ns` and had not gone back in time."""
        with self._lock:
            self._confirmed_ns = max(self._confirmed_ns, confirmed_ns)
            self._tell_soon()

    def note(self, topic: Topic, problem: str) -> None:
        """Report a problem that may hide changes from us; "" ends the problem of that topic."""
        self._note(topic.value, problem)

    def relist(self, reason: str) -> None:
        """List everything again, by a quorum read."""
        self._reflector.relist(reason)

    # -- inside -------------------------------------------------------------------------------

    def _sent(self) -> int | None:
        """Return the number of objects that were sent and not deleted; None before the first list."""
        return len(self._sync) if self._sync.resource_version else None

    def _note(self, topic: str, problem: str) -> None:
        with self._lock:
            if problem != self._problems.get(topic, ""):
                self._problems[topic] = problem
                self._tell()

    def _tell_soon(self) -> None:
        """Send the state unless it was sent within `contact_report_seconds`; the caller holds the lock."""
        if time.monotonic_ns() - self._told_ns >= self._timing.contact_report_seconds * 1e9:
            self._tell()

    def _tell(self) -> None:
        """Send the state; the caller holds the lock."""
        if self._sink is None:
            return
        self._told_ns = time.monotonic_ns()
        self._sink.put(
            SourceState(
                self._resource,
                self._phase,
                self._contact_ns,
                self._reason or "; ".join(filter(None, self._problems.values())),
                sum(self.stats.restarts.values()),
                self.stats.lists,
                self._backoff_seconds,
                self._confirmed_ns,
                self._missing,
            )
        )

    def _keep_time(self, stop: threading.Event) -> None:
        """Resync and audit when they are due."""
        never = float("inf")
        now = time.monotonic()
        resync = now + self._resync_seconds if self._resync_seconds else never
        next_audit = now + audit_wait(self._timing, random.random)
        while not stop.is_set():
            asked = self._audit_asked.wait(min(CHECK_SECONDS, max(0.0, min(resync, next_audit) - now)))
            now = time.monotonic()
            if now >= resync:
                resync = now + self._resync_seconds
                if self._sync.resource_version:
                    self.put(Resync(self._resource))
            if (asked or now >= next_audit) and not stop.is_set():
                next_audit = now + audit_wait(self._timing, random.random)
                self._audit(stop)
                self._audit_asked.clear()

    def _end(self) -> None:
        """Interrupt every wait for the server."""
        self._abort.set()
        self._reflector.interrupt()
        self._sync.wake()
        self._audit_asked.set()

    def _audit(self, stop: threading.Event) -> None:
        try:
            result = audit(
                self._api,
                self._sync,
                self._timing,
                watching=lambda: self._reflector.watching,
                stop=stop,
                abort=self._abort,
            )
            if result.error:
                log.info("%s: the audit was not completed: %s", self._api.what, result.error)
            else:
                self.stats.audits += 1
                self.stats.audit_differences += result.differences
            self.put(result)
            if result.differences:
                keys = ", ".join(map(str, result.keys))
                log.error("%s: the audit found %d lost: %s", self._api.what, result.differences, keys)
                self.relist("audit")
        except Exception as error:
            log.exception("the audit of %s failed in a way nobody thought of", self._api.what)
            self.put(AuditResult(self._resource, 0, 0, error=f"the audit failed: {error!r}"[:200]))
