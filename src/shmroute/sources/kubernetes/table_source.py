"""A table's resource as a `Source`: asks the server for its scope and kind, unless they are known, then watches it.

The built-in tables of AppModels and EndpointSlices go through here like declared ones, with one difference: their scope
is known, and nothing waits for discovery.
The definition of a custom resource may be installed long after the watcher has started. Until the server serves the
resource, only this source waits, and its state names what it waits for. A definition that was deleted may return with
another scope; the resource is then watched anew, under its new path. While it is away, the rows stay as they were
(`DeletionGuard`).
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from shmroute.backoff import Backoff
from shmroute.errors import ApiError
from shmroute.kube.abort import Abort
from shmroute.kube.discovery import find_resource, find_served, missing_because
from shmroute.sources.base import SourceState
from shmroute.sources.kubernetes.deletions import DeletionGuard
from shmroute.sources.kubernetes.several import SeveralNamespaces
from shmroute.sources.kubernetes.source import RESYNC_SECONDS, KubernetesSource
from shmroute.sources.kubernetes.timing import Timing
from shmroute.sources.threads import SupervisedThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmroute.kube.connection import Connection
    from shmroute.resources.registry import WatchedKind
    from shmroute.sources.base import Sink
    from shmroute.sources.threads import ThreadStatus

log = logging.getLogger(__name__)

STOP_SECONDS = 0.7
"""Longest wait for the source's threads at its end, in seconds: `run` returns well under 1 s after a stop."""

PAUSE_SECONDS = 0.5
"""Seconds between two checks of `stop`, and before a resource is requested in another scope: servers of one cluster
may disagree for a moment."""

MISSING_SECONDS = 10.0
"""Longest wait between two requests for a resource that is not served yet, in seconds, before jitter."""


class TableSource:
    """Lists and watches the objects of `kind` once the server serves them. Call `run` once.

    Args:
        connection: the connection to the API server.
        kind: the table's kind.
        namespaces: the namespaces to watch if the resource is namespaced; None for all.
        selector: the label selector, "" for everything; None for the kind's own.
        scope_known: whether `kind` has the right scope and `kind`; otherwise the server is asked for them.
        resync_seconds: as for `KubernetesSource`.
        timing: durations; tests make them short.
    """

    def __init__(
        self,
        connection: Connection,
        kind: WatchedKind,
        *,
        namespaces: tuple[str, ...] | None,
        selector: str | None = None,
        scope_known: bool = False,
        resync_seconds: float = RESYNC_SECONDS,
        timing: Timing | None = None,
    ) -> None:
        self.kinds: tuple[WatchedKind, ...] = (kind,)
        self._connection = connection
        self._namespaces = namespaces
        self._name = kind.name if kind.name == kind.plural else f"table {kind.name}"
        """What log lines call the resource."""
        self._selector = kind.selector if selector is None else selector
        self._scope_known = scope_known
        self._resync_seconds = resync_seconds
        self._timing = timing
        self._source: KubernetesSource | SeveralNamespaces | None = None
        self._guard: DeletionGuard | None = None
        self._threads = SupervisedThreads()
        self._discovery_refused = False

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Find the resource, then list and watch it, until `stop` is set."""
        pause = 0.0
        while not stop.wait(pause):
            kind = self._find(sink, stop)
            if kind is not None:
                self._follow(kind, sink, stop)
            pause = PAUSE_SECONDS

    def _follow(self, kind: WatchedKind, sink: Sink, stop: threading.Event) -> None:
        """List and watch until `stop` is set or, where it may have a definition, the resource has another scope.

        Raises `RuntimeError` if the source ends before that.
        """
        ended = threading.Event() if kind.may_have_definition else stop
        rescoped = ended.set if not (ended is stop or self._scope_known) else lambda: None
        namespaces = self._namespaces if kind.namespaced else None
        if namespaces is not None and len(namespaces) > 1:
            self._source = SeveralNamespaces({name: self._watch(kind, name, rescoped) for name in namespaces})
        else:
            self._source = self._watch(kind, namespaces[0] if namespaces else None, rescoped)
        if ended is stop:
            self._source.run(sink, stop)
            return
        abort = Abort()
        source, name = self._source, self._name
        guard = DeletionGuard(name, sink, lambda: self._goes_away(kind, abort, rescoped), self._relist)
        self._guard = guard
        self._threads = threads = SupervisedThreads()
        threads.start(f"{kind.name} deletions", lambda: guard.run(ended), restartable=True)
        threads.start(f"{kind.name} source", lambda: source.run(guard, ended), restartable=False)
        try:
            while not (ended.is_set() or stop.wait(PAUSE_SECONDS)):
                threads.check()
                if threads.lost and not ended.is_set():
                    raise RuntimeError(threads.lost)
        finally:
            ended.set()
            abort.set()
            guard.wake()
            threads.join(STOP_SECONDS)

    def _relist(self) -> None:
        if self._source is not None:
            self._source.relist("returned")

    def _goes_away(self, kind: WatchedKind, abort: Abort, rescoped: Callable[[], None]) -> str | None:
        """Return why the resource is deleted or about to be; "" if it stays, None if the server does not say."""
        try:
            found = find_resource(self._connection, kind.api_path, kind.plural, abort=abort)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return self._missing(kind, abort)
            if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                self._warn_refused(kind, error)
                return ""
            refused = HTTPStatus.BAD_REQUEST <= error.status < HTTPStatus.INTERNAL_SERVER_ERROR
            return "" if refused and error.status != HTTPStatus.TOO_MANY_REQUESTS else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if found is None:
            return self._missing(kind, abort)
        if found.namespaced != kind.namespaced:
            rescoped()
            return f"the definition of {kind.full_name} has another scope now"
        going = "create" not in found.verbs and "deletecollection" in found.verbs
        return f"the definition of {kind.full_name} is being deleted" if going else ""

    def _missing(self, kind: WatchedKind, abort: Abort) -> str:
        """Return why discovery does not know the resource."""
        served = find_served(self._connection, kind.group, kind.version, kind.plural, abort=abort)
        if served is not None and served.namespaced is not None:
            return f"the definition of {kind.full_name} was deleted and is installed anew"
        return missing_because(served, kind.group, kind.version, kind.plural, namespaced=kind.namespaced)

    def _warn_refused(self, kind: WatchedKind, error: ApiError) -> None:
        if not self._discovery_refused:
            log.warning(
                "%s: discovery is refused (%s): should the definition of %s be deleted, its objects go with it",
                self._name,
                error,
                kind.full_name,
            )
        self._discovery_refused = True

    @property
    def restarts(self) -> Mapping[str, int]:
        """Number of restarts of lists and watches, by reason."""
        return self._source.restarts if self._source is not None else {}

    def _watch(self, kind: WatchedKind, namespace: str | None, rescoped: Callable[[], None]) -> KubernetesSource:
        def kept() -> int | None:
            return self._guard.count(namespace) if self._guard is not None else None

        return KubernetesSource(
            self._connection,
            kind,
            namespace=namespace,
            selector=self._selector,
            resync_seconds=self._resync_seconds,
            timing=self._timing,
            rescoped=rescoped,
            kept=kept if kind.may_have_definition else None,
        )

    def threads(self) -> tuple[ThreadStatus, ...]:
        """Return the helper threads, once there are any."""
        own = tuple(each for each in self._threads.status() if each.name.endswith("deletions"))
        return (*(self._source.threads() if self._source is not None else ()), *own)

    def audit_now(self) -> None:
        """Start an audit, unless one is running."""
        if self._source is not None:
            self._source.audit_now()

    def _find(self, sink: Sink, stop: threading.Event) -> WatchedKind | None:
        """Return the kind, completed by discovery; None if `stop` was set first.

        Where they are known, discovery may be forbidden, and nothing waits for it.
        """
        kind = self.kinds[0]
        if self._scope_known:
            return kind
        backoff = Backoff(cap=MISSING_SECONDS)
        said = ""
        while not stop.is_set():
            try:
                found = find_resource(self._connection, kind.api_path, kind.plural)
                if found is not None:
                    if said:
                        log.info("%s: the API server serves %s now", self._name, kind.full_name)
                    return msgspec.structs.replace(kind, kind=found.kind or kind.kind, namespaced=found.namespaced)
                missing, reason = True, f"{kind.api_version} has no resource {kind.plural}"
            except ApiError as error:
                missing = error.status == HTTPStatus.NOT_FOUND
                reason = f"{kind.api_version} is not served" if missing else str(error)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                missing = False
                reason = f"the discovery of {kind.api_version} cannot be read: {error}"
            reason = f"waiting for {kind.full_name}: {reason}{'; is its definition installed?' if missing else ''}"
            if reason != said:
                log.warning("%s: %s", self._name, reason)
            said = reason
            seconds = backoff.failed()
            sink.put(SourceState(kind.name, "backing-off", 0, reason, backoff_seconds=seconds, missing=missing))
            stop.wait(seconds)
        return None
