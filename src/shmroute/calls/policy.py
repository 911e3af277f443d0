"""`Policy`: what a process knows and counts of its calls, and what each call asks it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from typing import Any

from shmroute.calls.budget import Budget
from shmroute.calls.events import Counters, EndpointEjected, EndpointReturned, Event
from shmroute.calls.outliers import Outliers
from shmroute.calls.settings import Settings

__all__ = ["Policy", "default_policy"]


class Policy:
    """Settings, endpoints left out, retry budget, counters and listeners, for all calls that share it.

    Args:
        settings: by default `Settings()`.
        clock: where the time in seconds comes from.
        dice: where chance comes from: numbers from 0 to 1.

    Threads and tasks may share it. After a fork the child goes on with what the parent knew.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings or Settings()
        self.clock = clock
        self.dice = dice
        self.budget = Budget(self.settings.budget_percent, self.settings.min_retries_per_second, clock())
        self.outliers = Outliers(self.settings, self._ejected, self._returned)
        self.counters = Counters()
        self.listeners: list[Callable[[Event], Any]] = []
        """Called with each event, in the thread or task of the call. They must not block. An error in one is logged."""

    def tell(self, event: Event) -> None:
        """Give an event to all listeners."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                import logging

                logging.getLogger(__name__).exception("a listener of calls failed with %r", event)

    def _ejected(self, app: Hashable, endpoint: str, failures: int, seconds: float) -> None:
        self.counters.ejections[str(app)] += 1
        if self.listeners:
            self.tell(EndpointEjected(str(app), endpoint, failures, seconds))

    def _returned(self, app: Hashable, endpoint: str, seconds: float) -> None:
        self.counters.returns[str(app)] += 1
        if self.listeners:
            self.tell(EndpointReturned(str(app), endpoint, seconds))


_default: list[Policy] = []


def default_policy() -> Policy:
    """The policy of this process, for all calls that are given no other: what one learns of a dead pod spares the rest.

    Made at the first call, with the default settings.
    """
    if not _default:
        _default.append(Policy())
    return _default[0]
