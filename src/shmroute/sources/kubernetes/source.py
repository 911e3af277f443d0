"""One kind of objects of a cluster as a `Source`, kept in step with the API server.

Made by the watcher, one for each kind. This module holds the threads together and says how the source
stands; the work is in `reflector` (list and watch), `liveness` (the probe), `audit`, over `resource_api`, `wire` and
`ledger`. It knows no index and no route, and waits for nothing its owner does.

Four threads: the caller's of `run` (list and watch), one for the probe, one that keeps the time (resync, audits,
and ending everything when `stop` is set), and one for an audit while it lasts.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from shmroute.kube.connection import Abort
from shmroute.sources.base import Resync, SourceState
from shmroute.sources.kubernetes.api import ResourceApi
from shmroute.sources.kubernetes.audit import audit
from shmroute.sources.kubernetes.probe import Liveness
from shmroute.sources.kubernetes.reflector import Reflector
from shmroute.sources.kubernetes.sync_state import Ledger
from shmroute.sources.kubernetes.timing import SourceStats, Timing

if TYPE_CHECKING:
    from shmroute.kube.connection import Connection
    from shmroute.resources.registry import WatchedKind
    from shmroute.sources.base import Event, Phase, Sink

__all__ = ["RESYNC_SECONDS", "KubernetesSource"]

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0
"""Between resyncs, which cost the API server nothing; what a handler failed at is tried again that often."""

AUDIT_JITTER = 0.2
"""Of the time between audits, to both sides: pods started together must not list together."""


class KubernetesSource:
    """Lists and watches the objects of `kind` until it is told to stop.

    `namespace` None means all; `selector` is a label selector, "" for everything; `resync_seconds` 0 means
    never. `stats` counts what happened. `run` is for one thread, once.
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
    ) -> None:
        self.kinds: tuple[WatchedKind, ...] = (kind,)
        self.stats = SourceStats()
        self._resource = kind.name
        self._resync_seconds = resync_seconds
        self._timing = timing or Timing()
        self._api = ResourceApi(connection, kind, namespace, selector)
        self._ledger = Ledger()
        self._reflector = Reflector(self._resource, self._api, self._ledger, self, self._timing, self.stats)
        self._abort = Abort()
        self._auditing = threading.Lock()
        self._lock = threading.Lock()
        """Guards what follows, and the order in which the threads' events reach the sink."""
        self._sink: Sink | None = None
        self._stop: threading.Event | None = None
        self._phase: Phase = "starting"
        self._reason = ""
        self._problem = ""
        self._backoff_seconds = 0.0
        self._contact_ns = 0
        self._told_ns = 0

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """List and watch until `stop` is set; returns well under 1 s after that."""
        self._sink, self._stop = sink, stop
        self.report("starting")
        liveness = Liveness(self._api, self._ledger, self, self._timing, self.stats, stop=stop, abort=self._abort)
        helpers = [
            threading.Thread(target=work, name=f"shmroute-{self._resource}-{name}", daemon=True)
            for name, work in (("time", lambda: self._keep_time(stop)), ("probe", liveness.run))
        ]
        for helper in helpers:
            helper.start()
        self._reflector.run(stop)
        deadline = time.monotonic() + self._timing.stop_seconds
        for helper in helpers:
            helper.join(max(0.0, deadline - time.monotonic()))
        self.report("stopped")
        with self._lock:
            self._sink = None

    def audit_now(self) -> None:
        """Begin an audit, unless one is under way; an `AuditResult` follows. For any thread, while `run` runs."""
        if self._auditing.acquire(blocking=False):
            threading.Thread(target=self._audit, name=f"shmroute-{self._resource}-audit", daemon=True).start()

    # -- what the reflector and the probe tell (Outlet, Watched) --------------------------------

    def put(self, event: Event) -> None:
        """Hand an event to the owner; nothing once the source has stopped."""
        with self._lock:
            if self._sink is not None:
                self._sink.put(event)

    def report(self, phase: Phase, reason: str = "", backoff_seconds: float = 0.0) -> None:
        """The reflector's phase has changed."""
        with self._lock:
            self._phase, self._reason, self._backoff_seconds = phase, reason, backoff_seconds
            if phase == "watching":
                self._problem = ""  # of the wire that was; the next probe tells of this one
            self._tell()

    def in_step(self, contact_ns: int) -> None:
        """At that monotonic time we were in step with the server. Told at most every second."""
        with self._lock:
            self._contact_ns = max(self._contact_ns, contact_ns)
            if time.monotonic_ns() - self._told_ns >= self._timing.contact_report_seconds * 1e9:
                self._tell()

    def note(self, problem: str) -> None:
        """What keeps us from proving that we are in step; "" takes it back."""
        with self._lock:
            if problem != self._problem:
                self._problem = problem
                self._tell()

    @property
    def watching(self) -> bool:
        """Whether a watch is open or about to be."""
        return self._reflector.watching

    def reconnect(self, reason: str) -> None:
        """Open the watch again where it stands."""
        self._reflector.reconnect(reason)

    def relist(self, reason: str) -> None:
        """List everything again, by a quorum read."""
        self._reflector.relist(reason)

    # -- inside -------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Put the state; the lock is held."""
        if self._sink is None:
            return
        self._told_ns = time.monotonic_ns()
        self._sink.put(
            SourceState(
                self._resource,
                self._phase,
                self._contact_ns,
                self._reason or self._problem,
                sum(self.stats.restarts.values()),
                self.stats.lists,
                self._backoff_seconds,
            )
        )

    def _keep_time(self, stop: threading.Event) -> None:
        """Resync and audit when they are due; end whatever waits once `stop` is set."""
        never = float("inf")
        now = time.monotonic()
        resync = now + self._resync_seconds if self._resync_seconds else never
        next_audit = now + self._audit_period()
        while not stop.wait(max(0.0, min(resync, next_audit) - now)):
            now = time.monotonic()
            if now >= resync:
                resync = now + self._resync_seconds
                if self._ledger.resource_version:
                    self.put(Resync(self._resource))
            if now >= next_audit:
                next_audit = now + self._audit_period()
                self.audit_now()
        self._abort.set()
        self._reflector.interrupt()
        self._ledger.wake()

    def _audit_period(self) -> float:
        spread = random.uniform(1 - AUDIT_JITTER, 1 + AUDIT_JITTER)  # noqa: S311 - spreads load, guards nothing
        return self._timing.audit_seconds * spread

    def _audit(self) -> None:
        try:
            if self._stop is None:
                return
            result = audit(
                self._resource,
                self._api,
                self._ledger,
                self._timing,
                watching=lambda: self._reflector.watching,
                stop=self._stop,
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
        finally:
            self._auditing.release()
