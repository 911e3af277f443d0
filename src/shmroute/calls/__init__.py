"""The policy for calls of a model: it picks one of the app's endpoints, and decides on a retry when one fails.

Does no I/O and imports no HTTP library. The adapters in `shmroute.contrib` (httpx, aiohttp, requests) and
`Route.attempts` apply the policy.

* A connection that is refused or times out leads to the next endpoint, for a request of any kind. Once the request may
  have reached the pod, it is sent again only if it is idempotent.
* Attempts are bounded for each call (`Settings.attempts`), for the process (`Budget`), and by the call's deadline.
* An endpoint that fails several times in a row is ejected, which means left out for a while (`Outliers`).

`attempts` has one call, and `callee` what a call needs of a route. `policy` combines `settings`, `budget` and
`outliers`. Listeners get `events`; `urls` and `joined` help the adapters.

Each process learns about endpoints by itself; processes share none of it.
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
