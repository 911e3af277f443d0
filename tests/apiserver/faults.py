"""Faults that a test can inject into the server.

Every fault is one method. Those that last return a `Fault`, which can be cancelled, counts its
hits, and works as a context manager; `clear` ends them all. `verb` and `resource` narrow a fault
("list", "watch", "get", ...; "appmodels", "endpointslices"); left out, it hits every request.
"""

from __future__ import annotations

import time

from .http import HttpServer
from .rules import Fault
from .store import Backup, Store
from .watches import Watches
from .watchfaults import WatchFaults


class Faults(WatchFaults):
    """All faults of one server. Methods may be called from any thread, at any time."""

    def __init__(self, http: HttpServer, store: Store, watches: Watches) -> None:
        super().__init__(watches)
        self._http = http
        self._store = store

    def clear(self) -> None:
        """End every fault, accept connections again."""
        self.rules.clear()
        self.accept()

    # -- connections ------------------------------------------------------------------------

    def refuse(self, drop: bool = True) -> None:
        """Refuse connections on the same port; drop also closes those that are open."""
        self._http.refuse()
        if drop:
            self._http.drop_connections()

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._http.listen()

    def drop_connections(self) -> int:
        """Close every open connection, idle or not; returns how many."""
        return self._http.drop_connections()

    # -- responses --------------------------------------------------------------------------

    def fail(
        self,
        code: int,
        times: int | None = None,
        seconds: float | None = None,
        *,
        retry_after: int | None = None,
        verb: str | None = None,
        resource: str | None = None,
        message: str | None = None,
    ) -> Fault:
        """Answer with this HTTP code, for the next `times` requests or for `seconds`."""
        options = {"code": code, "retry_after": retry_after, "message": message}
        return self._add("fail", verb, resource, times, seconds, **options)

    def too_many_requests(
        self,
        times: int | None = None,
        seconds: float | None = None,
        *,
        retry_after: int | None = 1,
        verb: str | None = None,
        resource: str | None = None,
    ) -> Fault:
        """Answer 429 with Retry-After."""
        return self.fail(429, times, seconds, retry_after=retry_after, verb=verb, resource=resource)

    def unavailable(
        self,
        times: int | None = None,
        seconds: float | None = None,
        *,
        retry_after: int | None = 1,
        verb: str | None = None,
        resource: str | None = None,
    ) -> Fault:
        """Answer 503 with Retry-After."""
        return self.fail(503, times, seconds, retry_after=retry_after, verb=verb, resource=resource)

    def unauthorized(self, times: int | None = None, *, verb: str | None = None) -> Fault:
        """Answer 401 to every token. To refuse only an old one, rotate: `api.auth.rotate()`."""
        return self.fail(401, times, verb=verb)

    def forbidden(self, times: int | None = None, *, verb: str | None = None, resource: str | None = None) -> Fault:
        """Answer 403 with the text of a real server."""
        return self.fail(403, times, verb=verb, resource=resource)

    def cut_body(
        self,
        after_bytes: int,
        *,
        page: int | None = None,
        times: int | None = 1,
        verb: str | None = "list",
        resource: str | None = None,
    ) -> Fault:
        """Close the connection after this number of bytes of the body; `page` counts from 1."""
        options = {"after_bytes": after_bytes, "page": page}
        return self._add("cut", verb, resource, times, None, **options)

    def fail_page(self, page: int, code: int = 500, *, times: int | None = 1, resource: str | None = None) -> Fault:
        """Answer the request for this page of a list with an error."""
        return self._add("fail", "list", resource, times, None, code=code, page=page)

    def hang(
        self,
        times: int | None = None,
        seconds: float | None = None,
        *,
        after_head: bool = False,
        verb: str | None = None,
        resource: str | None = None,
    ) -> Fault:
        """Take requests and never answer, until cancelled; after_head sends "200 OK" first."""
        return self._add("hang", verb, resource, times, seconds, after_head=after_head)

    def delay(
        self,
        delay_seconds: float,
        times: int | None = None,
        *,
        verb: str | None = None,
        resource: str | None = None,
    ) -> Fault:
        """Wait before each answer."""
        return self._add("delay", verb, resource, times, None, delay_seconds=delay_seconds)

    def trickle(
        self,
        piece_bytes: int = 1,
        pause_seconds: float = 0.01,
        times: int | None = None,
        *,
        verb: str | None = None,
        resource: str | None = None,
    ) -> Fault:
        """Send bodies and streams a few bytes at a time."""
        options = {"piece_bytes": piece_bytes, "pause_seconds": pause_seconds}
        return self._add("trickle", verb, resource, times, None, **options)

    def chunk(
        self,
        chunk_bytes: int,
        times: int | None = None,
        *,
        verb: str | None = None,
        resource: str | None = None,
    ) -> Fault:
        """Cut bodies and streams into chunks of this size, at any place."""
        return self._add("chunk", verb, resource, times, None, chunk_bytes=chunk_bytes)

    # -- storage ----------------------------------------------------------------------------

    def compact(self, revision: int | None = None) -> int:
        """Forget history up to a revision (default: all): older tokens and watches expire."""
        return self._store.compact(revision)

    def backup(self) -> Backup:
        """Return the current state of the store, for a later `rewind`."""
        return self._store.backup()

    # -- the whole server -------------------------------------------------------------------

    def restart(
        self,
        down_seconds: float = 0.12,
        *,
        starting_seconds: float = 2.0,
        initializing_seconds: float = 0.1,
        admin: bool = False,
        restore: Backup | None = None,
        writes: int = 0,
    ) -> float:
        """Kill the server and start it again, as a kube-apiserver 1.36.2 was recorded to start; etcd stays.

        Connections are reset and refused for `down_seconds`; then for `starting_seconds` everybody is forbidden
        everything (`admin`: told 503 with Retry-After 5, as cluster administrators are); then for
        `initializing_seconds` lists and watches get 429 with Retry-After 1; then all is served, and watches from
        before are too old on a quiet resource. With `restore`, etcd is restored from that backup meanwhile, and
        `writes` revisions more are written before the server answers. Returns the monotonic time of its first 200.
        """
        self._http.refuse()
        self.cut_streams(reset=True)
        self._http.drop_connections()
        if restore is not None:
            self._store.restore(restore)
        self._store.bump(writes + 1)  # the server's own leases, if nothing else
        self._store.reinitialize()
        time.sleep(down_seconds)
        ready = time.monotonic() + starting_seconds + initializing_seconds
        self._add("starting", None, None, None, starting_seconds, admin=admin)
        self._add("reinitializing", None, None, None, starting_seconds + initializing_seconds)
        self._http.listen()
        return ready

    def redefine(self, resource: str, initializing_seconds: float = 0.1) -> None:
        """Change the definition of a custom resource by something that changes no object (a printer column).

        Its watches end cleanly within a second, lists and watches get 429 for a moment, and all earlier
        resourceVersions are too old.
        """
        table = self._store.find(resource)
        self._add("reinitializing", None, resource, None, initializing_seconds)
        self._store.bump()
        self._store.reinitialize(table)
        self.end_streams(resource)

    def rewind(self, backup: Backup, *, end_streams: bool = False) -> None:
        """Restore a backup: objects and resourceVersions go back in time, watches stay open."""
        self._store.restore(backup)
        if end_streams:
            self.cut_streams()
        self._watches.wake()
