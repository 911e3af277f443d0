"""The requests of a source for its one resource: pages, watches, probes, discovery.

Called by the reflector, the probe, the comparison and the audit. It knows paths and parameters; it never retries,
decides nothing and keeps no state.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shmroute.kube.connection import path_of
from shmroute.kube.discovery import find_served
from shmroute.sources.kubernetes import wire
from shmroute.sources.kubernetes.sync_state import revision_of

if TYPE_CHECKING:
    from shmroute.kube.abort import Abort
    from shmroute.kube.connection import Connection, Stream
    from shmroute.kube.discovery import Served
    from shmroute.resources.key import ObjectKey
    from shmroute.resources.registry import WatchedKind
    from shmroute.sources.kubernetes.timing import Timing

PAGE_OBJECTS = 500
"""Objects per page; client-go's value. An answer has some 0.5 MB, which every proxy passes."""

PAGE_MAX_BYTES = 1 << 28
"""Largest page, in bytes: a server's cache may answer with all objects at once, such as 250,000 AppModels of 1 KiB."""

PAGES_MAX = 10_000
"""Maximum number of pages in one list: 5,000,000 objects, far beyond what an API server holds."""

PROBE_NAME = "-probe-"
"""A name that no object can have (names begin with a letter or digit): the answer is a bare resourceVersion."""

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""Accept header for a list of metadata; a server that cannot do this sends whole objects."""


class ResourceApi:
    """One resource, in one namespace or (None) in all, under one label selector ("" for everything)."""

    def __init__(
        self, connection: Connection, kind: WatchedKind, namespace: str | None, selector: str, timing: Timing
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        scope = ("namespaces", namespace) if namespace else ()
        self._path = path_of(*kind.api_path, *scope, kind.plural)
        self._connection = connection
        self._timing = timing
        self._selector = {"labelSelector": selector} if selector else {}
        if kind.field_selector:
            self._selector["fieldSelector"] = kind.field_selector
        table = "" if kind.name == kind.plural else f"table {kind.name}"
        self.prefix = f"{table}: " if table else ""
        """Prefix for log lines that name only the resource, since several tables may follow the same one."""
        self.what = f"{kind.plural} of {connection.host}{self._path}{f' ({table})' if table else ''}"

    def page(self, resource_version: str, token: str, *, accept: str = "application/json", abort: Abort) -> bytes:
        """Return the body of one page of a list; `token` is "" for the first page, `accept` the Accept header.

        `resource_version` is "" for a quorum read, "0" for whatever the server's cache holds, else the oldest state
        that the list may show. Only a quorum read comes in pages: limits make a server bypass its cache.
        """
        query = dict(self._selector)
        if token:
            query |= {"limit": str(PAGE_OBJECTS), "continue": token}
        elif resource_version in ("", "0"):
            query |= {"limit": str(PAGE_OBJECTS)}
            query |= {"resourceVersion": resource_version} if resource_version else {}
        else:
            query |= {"resourceVersion": resource_version, "resourceVersionMatch": "NotOlderThan"}
        silence = self._timing.list_silence_seconds
        deadline = time.monotonic() + self._timing.page_seconds
        stream = self._connection.open(
            self._path, query, read_timeout_seconds=silence, answer_timeout_seconds=silence, accept=accept, abort=abort
        )
        with stream:
            return stream.read_all(f"GET {self.what}", PAGE_MAX_BYTES, deadline)

    def identities(self, resource_version: str, *, abort: Abort) -> tuple[str, dict[ObjectKey, int]]:
        """Return a complete list: its resourceVersion, and each object's key and identity.

        `resource_version` as for `page`. Requests metadata only, a tenth of the bytes. Raises `ApiError` and `Garbled`.
        """
        found: dict[ObjectKey, int] = {}
        tokens: set[str] = set()
        token = ""
        while True:
            body = self.page(resource_version, token, accept=METADATA_ONLY, abort=abort)
            shown, token, identities = wire.decode_identities(self.kind, body, self.what)
            found |= identities
            if not token:
                return shown, found
            check_token(token, tokens, self.what)

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
        """Open a watch from a resourceVersion; with `initial_events` a streaming list."""
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
        """Return the newest revision of the storage (`quorum`), or of the server's cache of this resource."""
        query = {"fieldSelector": f"metadata.name={PROBE_NAME}"}
        if not quorum:
            query["resourceVersion"] = "0"
        answer = self._connection.request("GET", self._path, query, timeout_seconds=timeout_seconds, abort=abort)
        return revision_of(wire.decode_identities(self.kind, answer.data, self.what)[0])

    def served(self, *, timeout_seconds: float, abort: Abort) -> Served | None:
        """Return what discovery says about this resource, to explain a 404; None if the server does not answer."""
        kind = self.kind
        return find_served(
            self._connection, kind.group, kind.version, kind.plural, timeout_seconds=timeout_seconds, abort=abort
        )


def check_token(token: str, seen: set[str], what: str) -> None:
    """Note the token of a list's next page. Raises `Garbled` if a page repeats or the list has too many pages."""
    if token in seen:
        raise wire.Garbled(f"{what}: the server has sent the same page of the list twice")
    seen.add(token)
    if len(seen) >= PAGES_MAX:
        raise wire.Garbled(f"{what}: a list of more than {PAGES_MAX} pages")
