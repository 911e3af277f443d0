"""How long to wait before the next attempt after one kind of failure. Pure: clock and dice are arguments.

Used by `shmroute.sources.kubernetes.recovery`, which has one `Backoff` for each kind of failure. It waits for nothing
itself.
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
"""client-go's number: with the jitter, a server that keeps failing is asked about once in 45 seconds."""

RESET_AFTER_SECONDS = 120.0
"""Seconds without such a failure after which the next one counts as the first; client-go's number."""


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

    def failed(self) -> float:
        """Count one failure; returns the seconds to wait."""
        delay = self._step()
        delay *= 1 + self._dice()
        self._until = self._clock() + delay
        return delay

    def refused(self, seconds: float) -> float:
        """Count one refusal that says when to come back, after `seconds`; returns the seconds to wait.

        Never less than `seconds`. The jitter on top doubles with each refusal in a row, so that many clients that
        were told the same come back ever further apart.
        """
        delay = seconds + self._step() * self._dice()
        self._until = self._clock() + delay
        return delay

    def reset(self) -> None:
        """Make the next failure the first again."""
        self._delay = self._first

    def _step(self) -> float:
        if self._clock() - self._until >= self._reset_after:
            self._delay = self._first
        delay = self._delay
        self._delay = min(delay * 2, self._cap)
        return delay
