"""Waits of one resource's list and watch after each kind of failure. Pure: clock and dice are arguments.

Called by the reflector and by the fleet simulator. Each kind of failure has its own back-off: after an outage of a
minute, the first refusals of a restarted server do not add to a long wait.

Recorded answers of a starting kube-apiserver 1.36: it refuses connections, then answers 403 for 2 s to everybody whose
rights come from RBAC (503 with Retry-After 5 to cluster administrators), then 429 with Retry-After 1 for
0.1 s, then it serves. On a quiet resource it answers 410 to a watch from before, though nothing was lost.
"""

from __future__ import annotations

import random
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from shmroute.backoff import Backoff
from shmroute.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmroute.sources.kubernetes.timing import Timing

SHORT_WATCH = "ShortWatch"
"""Reason of the `ApiError` for a watch that ended as soon as it was open."""

RETRY_AFTER_MAX_SECONDS = 600.0
"""Longest Retry-After that we obey, in seconds: a typo in it must not blind us for a day."""

THROTTLED_JITTER_CAP_SECONDS = 10.0
"""Largest jitter added to Retry-After, in seconds: after five refusals in a row it spreads 10,000 clients to 1,000 a
second."""

STARTING_SECONDS = 60.0
"""Seconds after a failed connection during which a 403 may come from a server that has not read its roles yet."""

RECENTLY_SERVED_SECONDS = 600.0
"""Seconds since a resource was last served during which a 404 is taken as temporary: its definition is probably being
replaced."""


class Recovery:
    """One resource's back-offs. Not thread-safe; the reflector's thread owns it."""

    def __init__(
        self,
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._timing = timing
        self._clock = clock

        def backoff(cap: float, reset_after: float = timing.backoff_reset_seconds) -> Backoff:
            return Backoff(timing.backoff_first_seconds, cap, reset_after, clock=clock, dice=dice)

        again = timing.answered_reset_seconds
        self._unreachable = backoff(timing.unreachable_cap_seconds, again)
        self._throttled = backoff(THROTTLED_JITTER_CAP_SECONDS, again)
        self._starting = backoff(timing.starting_cap_seconds, again)
        self._forbidden = backoff(timing.backoff_cap_seconds)
        self._missing = backoff(timing.unreachable_cap_seconds)
        self._failing = backoff(timing.backoff_cap_seconds)
        self._short = backoff(timing.backoff_cap_seconds)
        self._gone = backoff(timing.backoff_cap_seconds)
        self._refusals = 0
        """Number of 403 answers in a row."""
        self._unreachable_at = float("-inf")
        self._served_at = float("-inf")
        self._proved = True
        """Whether a watch has worked, or the server was away, since the last list that a 410 caused."""

    def failed(self, error: Exception) -> float:
        """Count a failure; return the seconds to wait before the next attempt."""
        if not isinstance(error, ApiError):
            return self._failing.failed()
        now = self._clock()
        if error.status == HTTPStatus.FORBIDDEN:
            self._refusals += 1
            return self._after_forbidden(now)
        if error.retry_after_seconds is not None:
            if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
                self._was_away(now)
            return self._throttled.refused(min(error.retry_after_seconds, RETRY_AFTER_MAX_SECONDS))
        match error.status:
            case 0 if error.reason == SHORT_WATCH:
                return self._short.failed()
            case 0 | HTTPStatus.BAD_GATEWAY | HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.TOO_MANY_REQUESTS:
                # A load balancer answers 502 and 503 for an unavailable server.
                if error.status != HTTPStatus.TOO_MANY_REQUESTS:
                    self._was_away(now)
                return self._unreachable.failed()
            case HTTPStatus.NOT_FOUND if now - self._served_at < RECENTLY_SERVED_SECONDS:
                return self._missing.failed()
        return self._failing.failed()

    def gone(self) -> float:
        """Count a 410, or a server that went back in time; return the seconds to wait before the list.

        0 if a watch has worked since the last such list, or the server was away: every restart of the server and
        every edit of the resource's definition causes a 410, and nothing is lost. Other repeated 410s back off.
        """
        if self._proved:
            self._proved = False
            return 0.0
        return self._gone.failed()

    def opened(self) -> None:
        """Note that a watch was opened: we have the right to watch, and the resource is served."""
        self._refusals = 0
        self._starting.reset()
        self._forbidden.reset()
        self._served_at = self._clock()

    def proved(self) -> None:
        """Note that a watch has lasted or received something: its resourceVersion is good to resume from."""
        self._proved = True

    def _was_away(self, now: float) -> None:
        """Note that the server was unavailable: that explains a watch that was cut at once, and the next 410."""
        self._unreachable_at = now
        self._short.reset()
        self._proved = True

    def _after_forbidden(self, now: float) -> float:
        if now - self._unreachable_at < STARTING_SECONDS:
            return self._starting.failed()
        delay = self._forbidden.failed()
        # The first refusal may come from a server that started behind a load balancer. After a second one, only a
        # changed role helps.
        return delay if self._refusals == 1 else max(delay, self._timing.forbidden_seconds)
