"""The requests a source makes for its one resource: pages, watches, and the two halves of a probe.

Called by the reflector, the probe and the audit. It knows paths and parameters; it decides nothing,
retries nothing and keeps no state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmroute.kube.connection import path_of
from shmroute.sources.kubernetes import wire
from shmroute.sources.kubernetes.sync_state import revision_of

if TYPE_CHECKING:
    from shmroute.kube.connection import Abort, Connection, Stream
    from shmroute.resources.registry import WatchedKind

__all__ = ["ResourceApi"]

PAGE_OBJECTS = 500
"""client-go's page: a request of some 0.5 MB, which no proxy minds."""

PROBE_NAME = "-probe-"
"""A name no object can have (names begin with a letter or digit), so the answer is the bare resourceVersion."""


class ResourceApi:
    """One resource, in one namespace or (None) in all, under one label selector ("" for everything)."""

    def __init__(self, connection: Connection, kind: WatchedKind, namespace: str | None, selector: str) -> None:
        self.kind = kind
        self.namespace = namespace
        scope = ("namespaces", namespace) if namespace else ()
        self._path = path_of(*kind.api_path, *scope, kind.plural)
        self._connection = connection
        self._selector = {"labelSelector": selector} if selector else {}
        self.what = f"{kind.plural} of {connection.host}{self._path}"

    def page(self, resource_version: str, token: str, *, silence_seconds: float, abort: Abort) -> bytes:
        """The body of one page of a list; `token` is "" for the first.

        `resource_version` is "" for a quorum read, "0" for whatever the server's cache holds, else the least
        that it must show. Only a quorum read comes in pages: limits make a server leave its cache.
        """
        query = dict(self._selector)
        if token:
            query |= {"limit": str(PAGE_OBJECTS), "continue": token}
        elif resource_version in ("", "0"):
            query |= {"limit": str(PAGE_OBJECTS)}
            query |= {"resourceVersion": resource_version} if resource_version else {}
        else:
            query |= {"resourceVersion": resource_version, "resourceVersionMatch": "NotOlderThan"}
        stream = self._connection.open(self._path, query, read_timeout_seconds=silence_seconds, abort=abort)
        with stream:
            return b"".join(iter(stream.read, b""))

    def watch(
        self,
        resource_version: str,
        seconds: float,
        *,
        answer_seconds: float,
        silence_seconds: float,
        abort: Abort,
        initial_events: bool = False,
    ) -> Stream:
        """A watch from a resourceVersion; with `initial_events` a streaming list."""
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(max(1, round(seconds)))}
        if initial_events:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        if resource_version:
            query["resourceVersion"] = resource_version
        return self._connection.open(
            self._path,
            query | self._selector,
            read_timeout_seconds=silence_seconds,
            answer_timeout_seconds=answer_seconds,
            abort=abort,
        )

    def revision(self, *, quorum: bool, timeout_seconds: float, abort: Abort) -> int:
        """How far the server is: its storage (a quorum read), or its cache of this resource."""
        query = {"fieldSelector": f"metadata.name={PROBE_NAME}"}
        if not quorum:
            query["resourceVersion"] = "0"
        answer = self._connection.request("GET", self._path, query, timeout_seconds=timeout_seconds, abort=abort)
        return revision_of(wire.decode_identities(self.kind, answer.data, self.what)[0])
