"""How long to wait before the next attempt, as client-go's reflector does. Pure: clock and dice are arguments.

Called by `shmroute.sources.kubernetes.source`; it waits for nothing itself.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff"]

FIRST_SECONDS = 0.8
"""client-go's number: long enough to spare a server that restarts, short enough not to be noticed."""

CAP_SECONDS = 30.0
"""client-go's number: with the jitter, a server is asked at least once a minute whether it is back."""

RESET_AFTER_SECONDS = 120.0
"""Health that long since the last failure makes the next one the first again."""

RETRY_AFTER_MAX_SECONDS = 600.0
"""A server that asks for more than this is asked again all the same: a typo there must not blind us for a day."""


class Backoff:
    """Delays that double from `first` to `cap`, each drawn from [d, 2d); all in seconds."""

    def __init__(
        self,
        first: float = FIRST_SECONDS,
        cap: float = CAP_SECONDS,
        reset_after: float = RESET_AFTER_SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._cap = cap
        self._reset_after = reset_after
        self._clock = clock
        self._dice = dice
        self._delay = first
        self._until = float("-inf")
        """When the wait for the last failure was over: health is counted from there."""

    def failed(self, *, at_least: float = 0.0, retry_after: float | None = None) -> float:
        """Count one failure; returns the seconds to wait.

        `at_least` is for failures that waiting seldom mends. `retry_after` is what the server asked for; it is
        obeyed, and jittered upwards so that all who were told the same do not come back together.
        """
        now = self._clock()
        if now - self._until >= self._reset_after:
            self._delay = self._first
        delay = max(self._delay, at_least) * (1 + self._dice())
        self._delay = min(self._delay * 2, self._cap)
        if retry_after is not None:
            asked = min(retry_after, RETRY_AFTER_MAX_SECONDS)
            delay = max(delay, asked + self._first * self._dice())
        self._until = now + delay
        return delay
