"""Calling a model: which of its app's endpoints is tried, and what follows when one fails.

The policy alone, without I/O and without an HTTP library; the adapters in `shmroute.contrib` (httpx, aiohttp, requests)
and `Route.attempts` apply it.

* A connection that is refused or times out leads to the next endpoint, for a request of any kind. After the request may
  have reached the pod, it is sent again only if it is idempotent.
* Attempts are bounded for each call (`Settings.attempts`), for the process (`Budget`), and by the call's deadline.
* An endpoint that fails several times in a row is left out for a while (`Outliers`).

What a process learns of an endpoint stays in that process.
"""

from shmroute.calls.attempts import Attempt, Attempts, Outcome
from shmroute.calls.budget import Budget
from shmroute.calls.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Counters,
    EndpointEjected,
    EndpointReturned,
    Event,
)
from shmroute.calls.joined import joined
from shmroute.calls.outliers import Outliers
from shmroute.calls.policy import Policy, default_policy
from shmroute.calls.settings import Settings

__all__ = [
    "Attempt",
    "AttemptFailed",
    "AttemptStarted",
    "AttemptSucceeded",
    "Attempts",
    "Budget",
    "Counters",
    "EndpointEjected",
    "EndpointReturned",
    "Event",
    "Outcome",
    "Outliers",
    "Policy",
    "Settings",
    "default_policy",
    "joined",
]
