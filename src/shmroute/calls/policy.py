"""`Policy`: the settings, knowledge and counters that the calls of a process share."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from typing import Any

from shmroute.calls.budget import Budget
from shmroute.calls.events import Counters, EndpointEjected, EndpointReturned, Event
from shmroute.calls.outliers import Outliers
from shmroute.calls.settings import Settings


class Policy:
    """Settings, endpoints left out, retry budget, counters and listeners, for all calls that share it.

    Args:
        settings: by default `Settings()`.
        clock: returns the time in seconds.
        dice: returns a random number from 0 to 1.

    Threads and tasks may share a policy. After a fork the child starts with a copy of what the parent knew.
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
        """Functions called with each event, in the call's thread or task. They must not block. Errors are logged."""

    def tell(self, event: Event) -> None:
        """Call all listeners with an event."""
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
    """Return the policy shared by all calls that are given no other, so that one call's dead pod spares the others.

    The policy is made at the first call, with the default settings.
    """
    if not _default:
        _default.append(Policy())
    return _default[0]
