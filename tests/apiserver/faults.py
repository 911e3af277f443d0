"""Faults on demand: what a test can make the server do wrong.

Every fault is one method. Those that last return a `Fault`, which can be cancelled, counts its
hits, and works as a context manager; `clear` ends them all. `verb` and `resource` narrow a fault
("list", "watch", "get", ...; "appmodels", "endpointslices"); left out, it hits every request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from . import status
from .encoding import Object, dumps
from .http import HttpServer
from .reply import Aborted, Reply
from .request import Request
from .status import PHRASES, REASONS, ApiError
from .store import Backup, Event, Store, event_line
from .watches import POLL_SECONDS, Watch, Watches


@dataclass(eq=False)
class Fault:
    """One fault at work: which requests it hits, how often or how long."""

    action: str
    verb: str | None = None
    resource: str | None = None
    #: Hits left; None: no limit.
    times: int | None = None
    #: Monotonic end; None: until cancelled.
    until: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    hits: int = 0
    cancelled: bool = False
    on_cancel: Callable[[], None] = lambda: None

    @property
    def active(self) -> bool:
        if self.cancelled or (self.times is not None and self.times <= 0):
            return False
        return self.until is None or time.monotonic() < self.until

    def covers(self, verb: str, resource: str) -> bool:
        return self.active and self.verb in (None, verb) and self.resource in (None, resource)

    def cancel(self) -> None:
        self.cancelled = True
        self.on_cancel()

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()


class Faults:
    """All faults of one server. Methods may be called from any thread, at any time."""

    def __init__(self, http: HttpServer, store: Store, watches: Watches) -> None:
        self._http = http
        self._store = store
        self._watches = watches
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._pages: dict[str, int] = {}
        watches.opens = self._opens
        watches.let_through = self._let_through
        watches.is_paused = self._is_paused

    def clear(self) -> None:
        """End every fault, accept connections again."""
        self.clear_rules()
        self.accept()

    def clear_rules(self) -> None:
        """End every fault but a refused port."""
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            fault.cancel()

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
        """Answer with this HTTP code, for the next so many requests, or for so long."""
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
        """429 with Retry-After."""
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
        """503 with Retry-After."""
        return self.fail(503, times, seconds, retry_after=retry_after, verb=verb, resource=resource)

    def unauthorized(self, times: int | None = None, *, verb: str | None = None) -> Fault:
        """401 whatever the token. To refuse only an old one, rotate: `api.auth.rotate()`."""
        return self.fail(401, times, verb=verb)

    def forbidden(
        self, times: int | None = None, *, verb: str | None = None, resource: str | None = None
    ) -> Fault:
        """403 with the server's own words."""
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
        """Close the connection after so many bytes of the body; page counts from 1."""
        options = {"after_bytes": after_bytes, "page": page}
        return self._add("cut", verb, resource, times, None, **options)

    def fail_page(
        self, page: int, code: int = 500, *, times: int | None = 1, resource: str | None = None
    ) -> Fault:
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
        """Cut bodies and streams into chunks of this size, wherever that falls."""
        return self._add("chunk", verb, resource, times, None, chunk_bytes=chunk_bytes)

    # -- watches ----------------------------------------------------------------------------

    def silence(
        self,
        resource: str | None = None,
        *,
        seconds: float | None = None,
        bookmarks: bool = False,
    ) -> Fault:
        """Watches stay open and say nothing; what they would have said is lost.

        With bookmarks, only events are lost and bookmarks still come.
        """
        return self._add("silence", "watch", resource, None, seconds, bookmarks=bookmarks)

    def freeze(self, resource: str | None = None, *, seconds: float | None = None) -> Fault:
        """Watches hold back everything until the fault ends, then say it."""
        return self._add("freeze", "watch", resource, None, seconds)

    def drop_event(
        self,
        times: int = 1,
        *,
        resource: str | None = None,
        name: str | None = None,
        event_type: str | None = None,
    ) -> Fault:
        """Lose the next event that fits, in every watch open when it comes."""
        options = {"name": name, "event_type": event_type, "dropped": set()}
        return self._add("drop", "watch", resource, times, None, **options)

    def end_streams(self, resource: str | None = None) -> int:
        """End open watches properly, now; returns how many."""
        return self._each(resource, lambda watch: setattr(watch, "ended", True))

    def cut_streams(self, resource: str | None = None, *, reset: bool = False) -> int:
        """Close open watches' connections without a proper end; reset: with a TCP reset."""
        return self._each(resource, lambda watch: setattr(watch, "aborted", Aborted(reset)))

    def end_at_once(
        self,
        times: int | None = None,
        seconds: float | None = None,
        *,
        resource: str | None = None,
        cut: bool = False,
    ) -> Fault:
        """Watches end as soon as they are open; cut: without a proper end."""
        return self._add("end", "watch", resource, times, seconds, cut=cut)

    def cut_after_lines(
        self, lines: int, times: int | None = 1, *, resource: str | None = None
    ) -> Fault:
        """Watches opened from now on are cut after so many lines, initial events included."""
        return self._add("cut_lines", "watch", resource, times, None, lines=lines)

    def gone(
        self, times: int | None = 1, *, http: bool = False, resource: str | None = None
    ) -> Fault:
        """New watches are told 410: as an ERROR event, or as the HTTP status."""
        if http:
            return self.fail(410, times, verb="watch", resource=resource)
        return self._add("gone", "watch", resource, times, None)

    def refuse_streaming_lists(
        self, times: int | None = None, *, http: bool = False, resource: str | None = None
    ) -> Fault:
        """sendInitialEvents is refused: in the stream (500, old etcd), or with HTTP 422."""
        action = "no_streaming_http" if http else "no_streaming"
        return self._add(action, "watch", resource, times, None)

    def inject(self, data: bytes, resource: str | None = None) -> int:
        """Write raw bytes into every open watch; returns into how many."""
        return self._each(resource, lambda watch: watch.injected.append(data))

    def inject_garbage(self, resource: str | None = None) -> int:
        """A line that is no JSON."""
        return self.inject(b"<html>502 Bad Gateway</html>\n", resource)

    def inject_blank_line(self, resource: str | None = None) -> int:
        return self.inject(b"\n", resource)

    def inject_half_line(self, resource: str | None = None) -> int:
        """The first half of an event, then the proper end of the stream."""
        self.inject(b'{"type":"MODIFIED","object":{"apiVersion":"iidp', resource)
        return self.end_streams(resource)

    def inject_bad_utf8(self, resource: str | None = None) -> int:
        line = b'{"type":"ADDED","object":{"metadata":{"name":"\xff\xfe","resourceVersion":"1"}}}\n'
        return self.inject(line, resource)

    def inject_unknown_type(self, resource: str | None = None) -> int:
        return self.inject(b'{"type":"EXPLODED","object":{"metadata":{}}}\n', resource)

    def inject_error(
        self,
        code: int | None = None,
        reason: str | None = None,
        message: str = "injected",
        resource: str | None = None,
    ) -> int:
        """An ERROR event; without a code, as some proxies and old servers send it."""
        obj: Object = ApiError(code or 0, message, reason).status
        if code is None:
            del obj["code"]
        return self.inject(event_line("ERROR", dumps(obj)), resource)

    # -- storage ----------------------------------------------------------------------------

    def compact(self, revision: int | None = None) -> int:
        """Forget history up to a revision (default: all): older tokens and watches expire."""
        return self._store.compact(revision)

    def backup(self) -> Backup:
        """The store as it is, for a later `rewind`."""
        return self._store.backup()

    def rewind(self, backup: Backup, *, end_streams: bool = False) -> None:
        """Restore a backup: objects and resourceVersions go back in time, watches stay open."""
        self._store.restore(backup)
        if end_streams:
            self.cut_streams()
        self._watches.wake()

    # -- called by the server ---------------------------------------------------------------

    def shape(self, request: Request, reply: Reply) -> None:
        """Everything that happens to a request before it is answered. Raises what it must."""
        page = self._page(request)
        if fault := self._take("delay", request):
            self._wait(fault, reply, fault.options["delay_seconds"])
        if fault := self._take("hang", request):
            if fault.options["after_head"]:
                reply.start()
            self._wait(fault, reply, None)
            raise Aborted
        if fault := self._take("chunk", request):
            reply.shape.chunk_bytes = fault.options["chunk_bytes"]
        if fault := self._take("trickle", request):
            reply.shape.trickle_bytes = fault.options["piece_bytes"]
            reply.shape.trickle_seconds = fault.options["pause_seconds"]
        if fault := self._take("cut", request, page):
            reply.shape.cut_after_bytes = fault.options["after_bytes"]
        if fault := self._take("fail", request, page):
            raise _failure(fault, request)
        if "sendInitialEvents" in request.query:
            if fault := self._take("no_streaming_http", request):
                text = (
                    "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList "
                    "feature gate is enabled"
                )
                name = "sendInitialEvents"
                raise status.invalid_options("ListOptions", name, "FieldValueForbidden", text)

    def _page(self, request: Request) -> int:
        """Which page of a list a request is for, counted from 1."""
        if request.verb != "list":
            return 0
        with self._lock:
            page = self._pages.get(request.resource, 0) + 1 if "continue" in request.query else 1
            self._pages[request.resource] = page
            return page

    def _add(
        self,
        action: str,
        verb: str | None,
        resource: str | None,
        times: int | None,
        seconds: float | None,
        **options: Any,
    ) -> Fault:
        until = None if seconds is None else time.monotonic() + seconds
        fault = Fault(action, verb, resource, times, until, options)
        fault.on_cancel = self._watches.wake
        with self._lock:
            self._faults.append(fault)
        return fault

    def _take(self, action: str, request: Request, page: int = 0) -> Fault | None:
        return self._take_for(action, request.verb, request.resource, page)

    def _take_for(self, action: str, verb: str, resource: str, page: int = 0) -> Fault | None:
        """The first fault of an action that fits; counts as a hit."""
        with self._lock:
            for fault in self._faults:
                if fault.action != action or not fault.covers(verb, resource):
                    continue
                if fault.options.get("page") not in (None, page):
                    continue
                _hit(fault)
                return fault
        return None

    def _wait(self, fault: Fault, reply: Reply, seconds: float | None) -> None:
        """Wait, but no longer than the fault, the server and the client are there."""
        end = None if seconds is None else time.monotonic() + seconds
        while not fault.cancelled and reply.alive():
            left = POLL_SECONDS if end is None else min(POLL_SECONDS, end - time.monotonic())
            if left <= 0 or (fault.until is not None and time.monotonic() > fault.until):
                return
            if reply.stopping.wait(left):
                raise Aborted

    def _each(self, resource: str | None, change: Callable[[Watch], None]) -> int:
        with self._store.lock:
            chosen = [
                each for each in self._watches.open if resource in (None, each.table.kind.plural)
            ]
            for watch in chosen:
                change(watch)
        self._watches.wake()
        return len(chosen)

    def _opens(self, watch: Watch) -> bool:
        """What happens to a watch as it opens; False ends it properly, at once."""
        plural = watch.table.kind.plural
        if fault := self._take_for("end", "watch", plural):
            if fault.options["cut"]:
                raise Aborted
            return False
        if self._take_for("gone", "watch", plural):
            raise status.too_old(watch.asked_revision, self._store.revision)
        if watch.streaming_list and self._take_for("no_streaming", "watch", plural):
            raise status.no_watch_progress()
        if fault := self._take_for("cut_lines", "watch", plural):
            watch.lines_left = fault.options["lines"]
        return True

    def _is_paused(self, watch: Watch) -> bool:
        plural = watch.table.kind.plural
        return any(
            each.action == "freeze" and each.covers("watch", plural) for each in self._faults
        )

    def _let_through(self, watch: Watch, event_type: str, event: Event | None) -> bool:
        if not self._faults:
            return True
        plural = watch.table.kind.plural
        with self._lock:
            for fault in self._faults:
                if fault.action == "silence" and fault.covers("watch", plural):
                    if event_type != "BOOKMARK" or not fault.options["bookmarks"]:
                        fault.hits += 1
                        return False
                if fault.action == "drop" and event is not None and not fault.cancelled:
                    if self._drops(fault, plural, event_type, event):
                        return False
        return True

    def _drops(self, fault: Fault, plural: str, event_type: str, event: Event) -> bool:
        dropped: set[Event] = fault.options["dropped"]
        if event in dropped:
            return True
        wanted = (
            fault.covers("watch", plural)
            and fault.options["name"] in (None, event.item.name)
            and fault.options["event_type"] in (None, event_type)
        )
        if wanted:
            _hit(fault)
            dropped.add(event)
        return wanted


def _hit(fault: Fault) -> None:
    fault.hits += 1
    if fault.times is not None:
        fault.times -= 1


def _failure(fault: Fault, request: Request) -> ApiError:
    code: int = fault.options["code"]
    retry_after = fault.options.get("retry_after")
    message = fault.options.get("message")
    headers = [("Retry-After", str(retry_after))] if retry_after is not None else []
    if message is None and code == 401:
        return status.unauthorized()
    if message is None and code == 403:
        namespace = request.namespace or ""
        group, plural = request.group, request.resource
        return status.forbidden("admin", request.verb, group, plural, namespace, request.name)
    if message is None and code == 410:
        return status.too_old(int(request.query.get("resourceVersion") or 0), 0)
    if message is None and code == 429:
        # The server's flow control answers in plain text.
        headers.append(("X-Content-Type-Options", "nosniff"))
        text = "Too many requests, please try again later.\n"
        return ApiError(429, text, headers=headers, plain=True)
    details: Object | None = None
    if retry_after is not None:
        details = {"retryAfterSeconds": retry_after}
    text = message or PHRASES.get(code, "error").lower()
    return ApiError(code, text, REASONS.get(code), details=details, headers=headers)
