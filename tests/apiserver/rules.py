"""The active faults, and their effects on requests and watches.

`Faults` adds to them; the server asks them: `shape` about every request, the other hooks about
every watch and every line of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from . import status
from .encoding import Object
from .reply import Aborted, Reply
from .request import Request
from .status import PHRASES, REASONS, ApiError
from .store import Event
from .watches import POLL_SECONDS, Watch


@dataclass(eq=False)
class Fault:
    """One active fault: which requests it affects, how often or for how long."""

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()


class Rules:
    """All active faults of one server, in the order of their injection."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._pages: dict[str, int] = {}

    def add(self, fault: Fault) -> Fault:
        fault.on_cancel = self._wake
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            fault.cancel()

    def shape(self, request: Request, reply: Reply) -> None:
        """Apply the faults to a request before it is answered. Raises the error of a fault."""
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
        if fault := self._take("starting", request):
            raise _starting(request, admin=fault.options["admin"])
        if request.verb in ("list", "watch") and self._take("reinitializing", request):
            raise status.reinitializing()
        if fault := self._take("fail", request, page):
            raise _failure(fault, request)
        if "sendInitialEvents" in request.query and self._take("no_streaming_http", request):
            text = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            name = "sendInitialEvents"
            raise status.invalid_options("ListOptions", name, "FieldValueForbidden", text)

    def _page(self, request: Request) -> int:
        """Return which page of a list a request is for, counted from 1."""
        if request.verb != "list":
            return 0
        with self._lock:
            page = self._pages.get(request.resource, 0) + 1 if "continue" in request.query else 1
            self._pages[request.resource] = page
            return page

    def _take(self, action: str, request: Request, page: int = 0) -> Fault | None:
        return self._take_for(action, request.verb, request.resource, page)

    def _take_for(self, action: str, verb: str, resource: str, page: int = 0) -> Fault | None:
        """Return the first fault of an action that fits; counts as a hit."""
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

    def opens(self, watch: Watch) -> bool:
        """Apply the faults to a watch that opens. Returns False if the watch must end properly at once."""
        plural = watch.table.kind.plural
        if fault := self._take_for("end", "watch", plural):
            if fault.options["cut"]:
                raise Aborted
            return False
        if self._take_for("gone", "watch", plural):
            raise status.too_old(watch.asked_revision, watch.table.last_revision)
        if watch.streaming_list and self._take_for("no_streaming", "watch", plural):
            raise status.no_watch_progress()
        if fault := self._take_for("cut_lines", "watch", plural):
            watch.lines_left = fault.options["lines"]
        return True

    def is_paused(self, watch: Watch) -> bool:
        plural = watch.table.kind.plural
        return any(each.action == "freeze" and each.covers("watch", plural) for each in self._faults)

    def let_through(self, watch: Watch, event_type: str, event: Event | None) -> bool:
        if not self._faults:
            return True
        plural = watch.table.kind.plural
        with self._lock:
            return not any(
                self._silences(fault, plural, event_type) or self._drops(fault, plural, event_type, event)
                for fault in self._faults
            )

    def _silences(self, fault: Fault, plural: str, event_type: str) -> bool:
        if fault.action != "silence" or not fault.covers("watch", plural):
            return False
        if event_type == "BOOKMARK" and fault.options["bookmarks"]:
            return False
        fault.hits += 1
        return True

    def _drops(self, fault: Fault, plural: str, event_type: str, event: Event | None) -> bool:
        if fault.action != "drop" or event is None or fault.cancelled:
            return False
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


def _starting(request: Request, *, admin: bool) -> ApiError:
    """Return what a server answers that has just started: it has read no roles yet, and knows no resource of a
    definition."""
    if admin:
        text = "the request has been made before all known HTTP paths have been installed, please try again"
        details: Object = {"retryAfterSeconds": 5}
        return ApiError(503, text, "ServiceUnavailable", details=details, headers=[("Retry-After", "5")])
    if not request.verb:
        return ApiError(403, f'forbidden: User "viewer" cannot get path "{request.path}"', "Forbidden")
    group, plural, namespace = request.group, request.resource, request.namespace or ""
    return status.forbidden("viewer", request.verb, group, plural, namespace, request.name)


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
