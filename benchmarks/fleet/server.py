"""The API server of the simulation: its answers by time, and counters of its requests."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from shmroute.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Request", "Scenario", "Server"]

STARTING_SECONDS = 2.0
"""Seconds of 403 for everybody after a start, as recorded on a kube-apiserver 1.36.2."""

INITIALIZING_SECONDS = 0.1
"""Seconds of 429 with Retry-After 1 after that, as recorded."""


class Request(Enum):
    """The kinds of requests."""

    LIST = "list"
    """A complete list, streaming or not."""
    WATCH = "watch"
    CACHE = "cache probe"
    QUORUM = "quorum probe"
    COMPARE = "comparison"
    """A list of metadata, from the server's cache."""
    AUDIT = "audit"
    """A list of metadata, by a quorum read."""
    REFUSED = "refused"
    """Answered by 403 or 429."""


class Scenario(msgspec.Struct, frozen=True):
    """The events in a fleet's life. Times in seconds from the beginning; infinite if an event does not happen."""

    watchers: int
    """Number of watchers; one for each pod or for each node."""
    resources: int = 2
    """Number of resources that each watcher follows."""
    seconds: float = 1_350.0
    start_seconds: float = 60.0
    """Seconds within which all watchers start."""
    objects: int = 200
    object_bytes: int = 970
    """Bytes of one object in a list; an event has 150 more."""
    changes_a_second: float = 1.0
    """Changes of each resource per second, evenly distributed."""
    others_a_second: float = 10.0
    """Writes to other resources per second, which move the server's cache ahead of quiet watches."""
    restart_at: float = 400.0
    restart_seconds: float = 5.0
    """Seconds from the server's end until it listens again."""
    split_at: float = 650.0
    split_seconds: float = 60.0
    split_share: float = 1 / 3
    """Fraction of watchers whose packets are lost during the split."""
    rollout_at: float = 900.0
    rollout_seconds: float = 300.0
    """Seconds within which all watchers are replaced by new ones, at an even rate."""
    seats: int = 400
    """Lists that the server works on at once: kube-apiserver's `--max-requests-inflight`. Beyond it answers 429 with
    Retry-After 1."""
    list_megabytes_a_second: float = 100.0
    """Megabytes per second at which a list is made and sent."""

    @property
    def list_bytes(self) -> int:
        return self.objects * self.object_bytes

    @property
    def metadata_bytes(self) -> int:
        """Bytes of a list of metadata: 390 for each object, as recorded."""
        return self.objects * 390

    @property
    def list_seconds(self) -> float:
        """Seconds for which a list occupies a seat of the server."""
        return 0.005 + self.list_bytes / (self.list_megabytes_a_second * 1e6)


class Server:
    """Answers and counts requests. Each call passes the simulation's time."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.requests: dict[Request, Counter[int]] = {kind: Counter() for kind in Request}
        """Number of requests by kind and second."""
        self.bytes: Counter[int] = Counter()
        self.open = 0
        self.most_open = 0
        self.peak_lists = 0
        self._lists: list[float] = []
        """End times of the running lists."""

    def phase_error(self, now: float) -> ApiError | None:
        """Return why nothing is answered properly now; None while all is."""
        since = now - self.scenario.restart_at
        if not 0 <= since < self.scenario.restart_seconds + STARTING_SECONDS + INITIALIZING_SECONDS:
            return None
        if since < self.scenario.restart_seconds:
            return ApiError("GET", 0, "NewConnectionError", "refused")
        if since < self.scenario.restart_seconds + STARTING_SECONDS:
            return ApiError("GET", 403, "Forbidden", "no roles read yet")
        return _busy("storage is (re)initializing")

    def ask(self, kind: Request, now: float) -> ApiError | None:
        """Make one request; return the error if the server refuses it."""
        error = self.phase_error(now)
        if error is None and kind in (Request.LIST, Request.COMPARE, Request.AUDIT):
            self._lists = [end for end in self._lists if end > now]
            if len(self._lists) >= self.scenario.seats:
                error = _busy("too many requests")
            else:
                self._lists.append(now + self.scenario.list_seconds)
                self.peak_lists = max(self.peak_lists, len(self._lists))
        if error is None:
            self.count(kind, now)
        elif error.status:
            self.count(Request.REFUSED, now)
        return error

    def count(self, kind: Request, now: float) -> None:
        """Count one answered request."""
        second = int(now)
        self.requests[kind][second] += 1
        self.bytes[second] += _BYTES.get(kind) or self._list_bytes(kind)

    def opened(self, change: int) -> None:
        """Change the number of open watches by `change`."""
        self.open += change
        self.most_open = max(self.most_open, self.open)

    def rate(self, first: float, last: float, kinds: Iterable[Request] = Request) -> float:
        """Return the requests per second in a span of time."""
        return sum(self._in(self.requests[kind], first, last) for kind in kinds) / (last - first)

    def byte_rate(self, first: float, last: float) -> float:
        """Return the bytes per second in a span of time, without those of events."""
        return self._in(self.bytes, first, last) / (last - first)

    def peak(self, first: float, last: float) -> int:
        """Return the maximum number of requests in one second of a span of time."""
        span = range(int(first), int(last))
        return max((sum(counts[second] for counts in self.requests.values()) for second in span), default=0)

    def total(self, kind: Request) -> int:
        """Return the number of all requests of this kind."""
        return self.requests[kind].total()

    def _list_bytes(self, kind: Request) -> int:
        return self.scenario.list_bytes if kind is Request.LIST else self.scenario.metadata_bytes

    @staticmethod
    def _in(counts: Counter[int], first: float, last: float) -> int:
        return sum(counts[second] for second in range(int(first), int(last)))


_BYTES = {Request.WATCH: 200, Request.CACHE: 330, Request.QUORUM: 330, Request.REFUSED: 500}
"""Size of each kind of answer with its head, in bytes."""


def _busy(message: str) -> ApiError:
    return ApiError("GET", 429, "TooManyRequests", message, retry_after_seconds=1.0)
