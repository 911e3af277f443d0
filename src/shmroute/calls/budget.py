"""The retry budget of a process: it bounds repeated attempts, so that callers do not multiply the load of an outage."""

from __future__ import annotations

from typing import Final

STORED_SECONDS: Final = 10.0
"""Size of the bucket: the tokens that `per_second` adds in this many seconds, as by default in Finagle's RetryBudget.

With the default settings 100 repeated attempts: enough for the requests in flight to a pod that is killed.
"""


class Budget:
    """A token bucket. Each call adds `percent / 100`, each second adds `per_second`, each repeated attempt takes one.

    The bucket starts with the tokens of one second. The clock comes in as an argument, in seconds, and may stand still.

    There is no lock: two threads that take the last token at the same instant may both get it.
    """

    def __init__(self, percent: float, per_second: float, now: float) -> None:
        self._for_each_call = percent / 100
        self._per_second = per_second
        self._capacity = max(per_second * STORED_SECONDS, 1.0) if percent or per_second else 0.0
        self._tokens = min(per_second, self._capacity)
        self._updated = now

    def add_call(self) -> None:
        """Count one call."""
        self._tokens = min(self._capacity, self._tokens + self._for_each_call)

    def take(self, now: float) -> bool:
        """Take one token for a repeated attempt. Returns False if there is none: the attempt is not allowed."""
        passed = max(0.0, now - self._updated)
        self._updated = now
        self._tokens = min(self._capacity, self._tokens + passed * self._per_second)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
