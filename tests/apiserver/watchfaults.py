"""Faults that a test can inject into watches: the part of `Faults` for streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .encoding import Object, dumps
from .reply import Aborted
from .rules import Fault, Rules
from .status import ApiError
from .store import event_line
from .watches import Watch, Watches


class WatchFaults:
    """Faults in current and future watches."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self.rules = Rules(watches.wake)
        watches.opens = self.rules.opens
        watches.let_through = self.rules.let_through
        watches.is_paused = self.rules.is_paused

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
        """Hold back everything that watches send until the fault ends, then send it."""
        return self._add("freeze", "watch", resource, None, seconds)

    def drop_event(
        self,
        times: int = 1,
        *,
        resource: str | None = None,
        name: str | None = None,
        event_type: str | None = None,
    ) -> Fault:
        """Drop the next matching event in every watch that is open at that time."""
        options: Object = {"name": name, "event_type": event_type, "dropped": set()}
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
        """End watches as soon as they are open; cut: without a proper end."""
        return self._add("end", "watch", resource, times, seconds, cut=cut)

    def cut_after_lines(self, lines: int, times: int | None = 1, *, resource: str | None = None) -> Fault:
        """Cut watches opened from now on after this number of lines, initial events included."""
        return self._add("cut_lines", "watch", resource, times, None, lines=lines)

    def gone(self, times: int | None = 1, *, http: bool = False, resource: str | None = None) -> Fault:
        """Answer 410 to new watches: as an ERROR event, or as the HTTP status."""
        if http:
            return self._add("fail", "watch", resource, times, None, code=410)
        return self._add("gone", "watch", resource, times, None)

    def refuse_streaming_lists(
        self, times: int | None = None, *, http: bool = False, resource: str | None = None
    ) -> Fault:
        """Refuse sendInitialEvents: in the stream (500, old etcd), or with HTTP 422."""
        action = "no_streaming_http" if http else "no_streaming"
        return self._add(action, "watch", resource, times, None)

    def inject(self, data: bytes, resource: str | None = None) -> int:
        """Write raw bytes into every open watch; returns into how many."""
        return self._each(resource, lambda watch: watch.injected.append(data))

    def inject_garbage(self, resource: str | None = None) -> int:
        """Send a line that is not JSON to every open watch."""
        return self.inject(b"<html>502 Bad Gateway</html>\n", resource)

    def inject_blank_line(self, resource: str | None = None) -> int:
        return self.inject(b"\n", resource)

    def inject_half_line(self, resource: str | None = None) -> int:
        """Send the first half of an event, then the proper end of the stream."""
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
        """Send an ERROR event; without a code, as some proxies and old servers do."""
        obj: Object = ApiError(code or 0, message, reason).status
        if code is None:
            del obj["code"]
        return self.inject(event_line("ERROR", dumps(obj)), resource)

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
        return self.rules.add(Fault(action, verb, resource, times, until, options))

    def _each(self, resource: str | None, change: Callable[[Watch], None]) -> int:
        with self._watches.store.lock:
            chosen = [each for each in self._watches.open if resource in (None, each.table.kind.plural)]
            for watch in chosen:
                change(watch)
        self._watches.wake()
        return len(chosen)
