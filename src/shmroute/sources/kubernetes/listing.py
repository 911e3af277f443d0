"""Complete lists of a resource: a streaming list if the server supports it, else pages.

Called by the reflector, in its thread. A list is all or nothing: it counts once its last page, or the bookmark that
closes a streaming list, has arrived. This module remembers what the server does not support. It sends no events.

Each exchange has a deadline, a byte limit and a page limit: a server or proxy that sends one byte a second, or never
ends, is a failure like any other.
"""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from shmroute.errors import ApiError
from shmroute.sources.kubernetes.api import check_token
from shmroute.sources.kubernetes.wire import (
    Bookmark,
    Lines,
    Listed,
    Removed,
    Skipped,
    decode_event,
    decode_object,
    decode_page,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from shmroute.kube.abort import Abort
    from shmroute.kube.connection import Stream
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.timing import SourceStats, Timing
    from shmroute.sources.kubernetes.wire import WatchEvent

log = logging.getLogger(__name__)

NOT_SUPPORTED = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.NOT_ACCEPTABLE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.NOT_IMPLEMENTED,
    }
)
"""Statuses of a server without streaming lists: 422 without the feature, 500 in the stream on an old etcd."""

STREAMING_ATTEMPTS = 2
"""Streaming lists in a row without a closing bookmark after which only pages are requested."""

OBJECTS_PER_LOOK = 4096
"""Objects decoded between two checks of `stop`: a page from a server's cache may hold a million."""

LIST_MAX_BYTES = 1 << 29
"""Largest list, in bytes, over all pages or the whole stream: 500,000 objects of 1 KiB."""


class CompleteList(msgspec.Struct, frozen=True):
    """All objects at one resourceVersion; `received_ns` is the monotonic time at which the last byte arrived."""

    resource_version: str
    objects: list[Listed | Skipped]
    received_ns: int


class Lister:
    """Makes complete lists; remembers whether this server supports streaming ones."""

    def __init__(self, api: ResourceApi, timing: Timing, stats: SourceStats) -> None:
        self._api = api
        self._timing = timing
        self._stats = stats
        self._streaming = True
        self._unfinished = 0
        self.verb = "list"
        """The RBAC verb that the newest request needed: a streaming list is a watch."""

    def list(self, at: str, *, pages_only: bool, abort: Abort, stop: threading.Event) -> CompleteList | None:
        """Return the list at resourceVersion `at` (see `ResourceApi.page`); None if `stop` was set first.

        `pages_only` avoids a streaming list, after a stream has lost events. Raises `ApiError` and `Garbled`.
        """
        if self._streaming and not pages_only:
            try:
                return self._stream(at, abort)
            except ApiError as error:
                if error.status not in NOT_SUPPORTED:
                    if error.status == 0 and not abort.is_set():
                        self._unfinished += 1
                        self._streaming = self._unfinished < STREAMING_ATTEMPTS
                    raise
                log.info("%s: no streaming lists here (%s): listing in pages", self._api.what, error.message)
                self._streaming = False
        return self._pages(at, abort, stop)

    def _stream(self, at: str, abort: Abort) -> CompleteList:
        self._stats.lists += 1
        self.verb = "watch"
        what = f"GET streaming list of {self._api.what}"
        found: dict[ObjectKey, Listed | Skipped] = {}
        silence = self._timing.list_silence_seconds
        stream = self._api.watch(
            at,
            self._timing.watch_seconds[1],
            answer_seconds=silence,
            silence_seconds=silence,
            abort=abort,
            initial_events=True,
        )
        deadline = time.monotonic() + self._timing.list_seconds
        read = self._stats.bytes
        with stream:
            for event, received in read_events(stream, self._api, self._stats, what, deadline):
                if self._stats.bytes - read > LIST_MAX_BYTES:
                    raise _too_large(what)
                match event:
                    case Listed():
                        found[event.key] = event
                    case Removed():
                        found.pop(event.key, None)
                    case Bookmark(resource_version, True):
                        self._unfinished = 0
                        return CompleteList(resource_version, list(found.values()), received)
                    case Skipped():
                        self._skip(event)
                        if event.key is not None:
                            found[event.key] = event
                    case Bookmark():
                        pass
        raise ApiError(what, 0, "CutShort", "it ended before its closing bookmark")

    def _pages(self, at: str, abort: Abort, stop: threading.Event) -> CompleteList | None:
        self._stats.lists += 1
        self.verb = "list"
        objects: list[Listed | Skipped] = []
        what = f"GET {self._api.what}"
        tokens: set[str] = set()
        token = ""
        size = 0
        while True:
            body = self._api.page(at, token, abort=abort)
            self._stats.bytes += len(body)
            size += len(body)
            if size > LIST_MAX_BYTES:
                raise _too_large(what)
            received = time.monotonic_ns()
            page = decode_page(self._api.kind, body, what)
            for position, raw in enumerate(page.objects):
                if position % OBJECTS_PER_LOOK == 0 and stop.is_set():
                    return None
                each = decode_object(self._api.kind, raw)
                objects.append(each)
                if isinstance(each, Skipped):
                    self._skip(each)
            token = page.next_page
            if not token:
                return CompleteList(page.resource_version, objects, received)
            check_token(token, tokens, what)

    def _skip(self, skipped: Skipped) -> None:
        log.warning("%s: skipped %s", self._api.what, skipped.reason)


def read_events(
    stream: Stream, api: ResourceApi, stats: SourceStats, what: str, deadline: float = float("inf")
) -> Iterator[tuple[WatchEvent, int]]:
    """Yield each event of a stream and the monotonic time, in nanoseconds, at which its last byte arrived.

    Raises `ApiError` if the stream has not ended by `deadline`, on the monotonic clock.
    """
    lines = Lines()
    while data := stream.read():
        received = time.monotonic_ns()
        stats.bytes += len(data)
        for line in lines.feed(data):
            yield decode_event(api.kind, line, what), received
        if received > deadline * 1e9:
            raise ApiError(what, 0, "Timeout", "it did not reach its end in time")
    if not stream.interrupted:
        lines.end()


def _too_large(what: str) -> ApiError:
    return ApiError(what, 0, "TooLarge", f"a list of more than {LIST_MAX_BYTES} bytes: narrow it by a selector")
