"""Exponential back-off with jitter for one kind of failure. Pure: clock and dice are arguments.

Used for an API server's failures, a Redis server's, and restarts of the watcher. It only computes delays; the caller
waits.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_SECONDS = 0.8
"""First delay, in seconds; client-go's value. It spares a server that restarts, and nobody notices it."""

CAP_SECONDS = 30.0
"""Longest delay before jitter, in seconds; client-go's value. A server that keeps failing is asked about every 45 s."""

RESET_AFTER_SECONDS = 120.0
"""Seconds without a failure after which the next one counts as the first; client-go's value."""


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
        """End of the last wait, on the clock; the time without a failure is counted from there."""

    def failed(self) -> float:
        """Count one failure; return the seconds to wait."""
        delay = self._step()
        delay *= 1 + self._dice()
        self._until = self._clock() + delay
        return delay

    def refused(self, seconds: float) -> float:
        """Count one refusal with a Retry-After of `seconds`; return the seconds to wait, at least `seconds`.

        The jitter added to it doubles with each refusal in a row: this spreads many clients that got the same
        Retry-After.
        """
        delay = seconds + self._step() * self._dice()
        self._until = self._clock() + delay
        return delay

    def reset(self) -> None:
        """Make the next failure count as the first."""
        self._delay = self._first

    def _step(self) -> float:
        if self._clock() - self._until >= self._reset_after:
            self._delay = self._first
        delay = self._delay
        self._delay = min(delay * 2, self._cap)
        return delay
