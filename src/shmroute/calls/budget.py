"""How many attempts a process may repeat, so that an outage is not multiplied by its callers."""

from __future__ import annotations

from typing import Final

__all__ = ["Budget"]

STORED_SECONDS: Final = 10.0
"""The budget stores what `per_second` gives in this time, as Finagle's RetryBudget does by default.

100 repeated attempts with the default settings: what the requests under way to a pod need when it is killed.
"""


class Budget:
    """A token bucket. Each call adds `percent / 100`, each second adds `per_second`, each repeated attempt takes one.

    It begins with the tokens of one second. The clock comes in as an argument, in seconds; it may stand still.

    Without a lock: two threads that take the last token at the same instant may both get it.
    """

    __slots__ = ("_capacity", "_for_each_call", "_per_second", "_tokens", "_updated")

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
        """Whether one more attempt may be repeated; counts it if so."""
        passed = max(0.0, now - self._updated)
        self._updated = now
        self._tokens = min(self._capacity, self._tokens + passed * self._per_second)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
