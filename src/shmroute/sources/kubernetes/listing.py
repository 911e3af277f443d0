"""Complete lists of a resource: a streaming list where the server can, else pages.

Called by the reflector, in its thread. A list is all or nothing: it counts when its last page, or the bookmark that
closes a streaming list, has come. What a server cannot do is remembered. It hands nothing out.
"""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from shmroute.errors import ApiError
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

    from shmroute.kube.connection import Abort, Stream
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.timing import SourceStats, Timing
    from shmroute.sources.kubernetes.wire import WatchEvent

__all__ = ["CompleteList", "Lister", "read_events"]

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
"""How a server says that it has no streaming lists: 422 without the feature, 500 in the stream on an old etcd."""

STREAMING_ATTEMPTS = 2
"""So many streaming lists in a row that never reach their closing bookmark, and only pages are asked for."""

OBJECTS_PER_LOOK = 4096
"""A page out of a server's cache may hold a million objects: so often it is looked whether they are still wanted."""


class CompleteList(msgspec.Struct, frozen=True):
    """All objects at one resourceVersion; `received_ns` is the monotonic time at which the last byte was there."""

    resource_version: str
    objects: list[Listed | Skipped]
    received_ns: int


class Lister:
    """Remembers between lists whether this server has streaming ones."""

    def __init__(self, api: ResourceApi, timing: Timing, stats: SourceStats) -> None:
        self._api = api
        self._timing = timing
        self._stats = stats
        self._streaming = True
        self._unfinished = 0
        self.verb = "list"
        """The right that the newest request took: a streaming list is a watch."""

    def list(self, at: str, *, pages_only: bool, abort: Abort, stop: threading.Event) -> CompleteList | None:
        """The list at resourceVersion `at` (see `ResourceApi.page`); None where `stop` came first.

        `pages_only` is for when streams are what is doubted. Raises `ApiError` and `Garbled`.
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
        with stream:
            for event, received in read_events(stream, self._api, self._stats, what):
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
        token = ""
        while True:
            body = self._api.page(at, token, silence_seconds=self._timing.list_silence_seconds, abort=abort)
            self._stats.bytes += len(body)
            received = time.monotonic_ns()
            page = decode_page(body, f"GET {self._api.what}")
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

    def _skip(self, skipped: Skipped) -> None:
        self._stats.skipped += 1
        log.warning("%s: skipped %s", self._api.what, skipped.reason)


def read_events(stream: Stream, api: ResourceApi, stats: SourceStats, what: str) -> Iterator[tuple[WatchEvent, int]]:
    """Each event of a stream with the monotonic time in ns at which its last byte was there."""
    lines = Lines()
    while data := stream.read():
        received = time.monotonic_ns()
        stats.bytes += len(data)
        for line in lines.feed(data):
            yield decode_event(api.kind, line, what), received
    if not stream.interrupted:
        lines.end()
