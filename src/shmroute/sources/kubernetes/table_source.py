"""A declared table's resource as a `Source`: asks the server for its scope and kind, then watches it like any other.

The definition of a custom resource may be installed long after the watcher has started. Until the server serves the
resource, only this source waits, and its state names what it waits for.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from shmroute.errors import ApiError
from shmroute.kube.connection import Abort, path_of
from shmroute.sources.backoff import Backoff
from shmroute.sources.base import SourceState
from shmroute.sources.kubernetes.several import SeveralNamespaces
from shmroute.sources.kubernetes.source import RESYNC_SECONDS, KubernetesSource
from shmroute.sources.kubernetes.timing import SourceStats, Timing

if TYPE_CHECKING:
    import threading

    from shmroute.kube.connection import Connection
    from shmroute.resources.registry import WatchedKind
    from shmroute.sources.base import Sink

__all__ = ["TableSource"]

log = logging.getLogger(__name__)

DISCOVERY_SECONDS = 10.0
"""Longest wait for one discovery document, in seconds."""

MISSING_SECONDS = 10.0
"""Longest wait between two requests for a resource that is not served yet, in seconds, before jitter."""


class _Resource(msgspec.Struct):
    name: str
    kind: str = ""
    namespaced: bool = True


class _Resources(msgspec.Struct):
    resources: list[_Resource] = []


_decode = msgspec.json.Decoder(_Resources).decode


class TableSource:
    """Lists and watches the objects of `kind` once the server serves them. Call `run` once.

    Args:
        connection: the connection to the API server.
        kind: the declared table's kind; the server is asked for its scope and `kind` unless both are declared.
        namespaces: the namespaces to watch if the resource is namespaced; None for all.
        resync_seconds: as for `KubernetesSource`.
        timing: durations; tests make them short.
    """

    def __init__(
        self,
        connection: Connection,
        kind: WatchedKind,
        *,
        namespaces: tuple[str, ...] | None,
        scope_known: bool = False,
        resync_seconds: float = RESYNC_SECONDS,
        timing: Timing | None = None,
    ) -> None:
        self.kinds: tuple[WatchedKind, ...] = (kind,)
        self._connection = connection
        self._namespaces = namespaces
        self._scope_known = scope_known
        self._resync_seconds = resync_seconds
        self._timing = timing
        self._source: KubernetesSource | SeveralNamespaces | None = None

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Find the resource, then list and watch it, until `stop` is set."""
        kind = self.kinds[0] if self._scope_known else self._find(sink, stop)
        if kind is None:
            return
        namespaces = self._namespaces if kind.namespaced else None
        if namespaces is not None and len(namespaces) > 1:
            self._source = SeveralNamespaces({name: self._watch(kind, name) for name in namespaces})
        else:
            self._source = self._watch(kind, namespaces[0] if namespaces else None)
        self._source.run(sink, stop)

    @property
    def stats(self) -> SourceStats:
        """Counters since the start."""
        return self._source.stats if self._source is not None else SourceStats()

    def _watch(self, kind: WatchedKind, namespace: str | None) -> KubernetesSource:
        return KubernetesSource(
            self._connection,
            kind,
            namespace=namespace,
            selector=kind.selector,
            resync_seconds=self._resync_seconds,
            timing=self._timing,
        )

    def audit_now(self) -> None:
        """Start an audit, unless one is running."""
        if self._source is not None:
            self._source.audit_now()

    def _find(self, sink: Sink, stop: threading.Event) -> WatchedKind | None:
        """Return the kind, completed by discovery; None if `stop` was set first."""
        kind = self.kinds[0]
        backoff = Backoff(cap=MISSING_SECONDS)
        abort = Abort()
        said = ""
        while not stop.is_set():
            try:
                answer = self._connection.request(
                    "GET", path_of(*kind.api_path), timeout_seconds=DISCOVERY_SECONDS, abort=abort
                )
                found = next((each for each in _decode(answer.data).resources if each.name == kind.plural), None)
                if found is not None:
                    if said:
                        log.info("table %s: the API server serves %s now", kind.name, kind.full_name)
                    return msgspec.structs.replace(kind, kind=found.kind or kind.kind, namespaced=found.namespaced)
                reason = f"{kind.api_version} has no resource {kind.plural}"
            except ApiError as error:
                missing = error.status == 404
                reason = f"{kind.api_version} is not served" if missing else str(error)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                reason = f"the discovery of {kind.api_version} cannot be read: {error}"
            reason = f"waiting for {kind.full_name}: {reason}; is its definition installed?"
            if reason != said:
                log.warning("table %s: %s", kind.name, reason)
            said = reason
            seconds = backoff.failed()
            sink.put(SourceState(kind.name, "backing-off", 0, reason, backoff_seconds=seconds))
            stop.wait(seconds)
        return None
