"""Events of calls, for logs and traces, and counters of calls, for metrics. Plain data."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import msgspec


class AttemptStarted(msgspec.Struct, frozen=True, tag=True):
    """An attempt begins, in the thread or task of the call."""

    model: str
    app: str
    endpoint: str
    """Address of the endpoint, as ``host:port``."""
    number: int
    """Number of the attempt within the call, from 1."""


class AttemptSucceeded(msgspec.Struct, frozen=True, tag=True):
    """The pod has answered: its response has begun."""

    model: str
    app: str
    endpoint: str
    number: int
    seconds: float


class AttemptFailed(msgspec.Struct, frozen=True, tag=True):
    """An attempt has failed. Another one follows, or the call fails."""

    model: str
    app: str
    endpoint: str
    number: int
    seconds: float
    outcome: str
    """One of `shmroute.calls.Outcome`."""
    said: str
    """Error text of the HTTP library or the operating system."""
    sent: bool
    """Whether the request may have reached the pod."""


class EndpointEjected(msgspec.Struct, frozen=True, tag=True):
    """An endpoint has failed several times in a row, or has failed its probe, and is left out for `seconds`."""

    app: str
    """`namespace/name` of the AppModel."""
    endpoint: str
    failures: int
    seconds: float


class EndpointReturned(msgspec.Struct, frozen=True, tag=True):
    """An endpoint that was left out has answered and is used again."""

    app: str
    """`namespace/name` of the AppModel."""
    endpoint: str
    seconds: float
    """Time for which the endpoint had been left out, in seconds."""


Event: TypeAlias = AttemptStarted | AttemptSucceeded | AttemptFailed | EndpointEjected | EndpointReturned


class Counters:
    """Counters of this process since it started. They only grow.

    `shmroute.contrib.prometheus` exposes them as metrics.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """Calls that ended, by app and result. The result is "answered" or the name of the `CallFailed` class."""
        self.attempts: Counter[tuple[str, str]] = Counter()
        """Attempts that ended, by app and outcome. The outcome is "ok" or one of `Outcome`, with " after sending" added
        where the request may have reached the pod."""
        self.ejections: Counter[str] = Counter()
        """Ejections, failed probes included, by `namespace/name` of the AppModel."""
        self.returns: Counter[str] = Counter()
        """Returns of ejected endpoints, by `namespace/name` of the AppModel."""
        self.out_of_budget = 0
        """Calls that were not repeated because the retry budget was used up."""
