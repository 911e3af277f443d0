"""Which endpoints are left out for a while because they keep failing: Envoy's outlier detection, per process.

Pure: the clock comes in as an argument, in seconds. Without locks: a lost update of two threads costs one more failed
attempt at most, and nothing that must hold depends on a count (what may be left out is computed at each pick).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

from shmroute.calls.settings import Settings

__all__ = ["EVERYTHING", "Outliers", "View"]

CALLS_FOR_EACH_PROBE: Final = 100
"""Calls of an app between two that probe one and the same ejected endpoint: at most 1 in 100 finds it still dead.

Fewer calls than that in `max_ejection_time` do not delay a probe beyond that time.
"""

CAUTION_SECONDS: Final = 3.0
"""How much later a call that cannot be repeated probes an endpoint that failed after it had taken a request.

Such an endpoint accepts connections and may swallow the request. So calls that can be repeated are given time to find
that out; where there are none, the endpoint is in use again after 10 s + 3 s, within the 15 s that are promised.
"""

CALLS_FOR_EACH_PROBE_IN_PANIC: Final = 10
"""The same below the panic threshold, for all failing endpoints of an app together.

Each costs a repeated attempt if the endpoint is still dead: 10 % of the calls, half of the default budget.
"""

Ejected = Callable[[Hashable, str, int, float], None]
"""Called with app, address, failures in a row and the seconds for which the endpoint is left out."""

Returned = Callable[[Hashable, str, float], None]
"""Called with app, address and the seconds for which the endpoint had been left out."""


class View(NamedTuple):
    """What a pick must know of an app's endpoints."""

    left_out: frozenset[str]
    """Addresses to pick only if there is no other."""
    probe: str | None
    """The address that this call must try, to see whether it is back."""


EVERYTHING: Final = View(frozenset(), None)
"""No endpoint fails."""


class _Health:
    """Record of an endpoint that has failed lately. Times are in seconds."""

    __slots__ = ("after_sent", "calls", "ejections", "failures", "out", "probing", "returned", "since", "tried")

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.after_sent = False
        """Whether the last failure came after the endpoint had taken a request."""
        self.out = False
        """Whether it is ejected: left out, unless too many others are."""
        self.ejections = 0
        """In a row, failed probes included."""
        self.since = 0.0
        """When it was ejected."""
        self.tried = 0.0
        """When it was ejected, or probed last."""
        self.calls = 0
        """Calls of the app until then."""
        self.probing = False
        """Whether the outcome of the last probe has still to come. It may never come."""
        self.returned = 0.0
        """When it answered after the last ejection."""


class _App:
    """The endpoints of an app, some of which have failed lately."""

    __slots__ = ("calls", "endpoints", "health", "probed")

    def __init__(self) -> None:
        self.calls = 0
        """First attempts, counted while an endpoint fails."""
        self.probed = 0
        """How many they were at the last probe."""
        self.endpoints: Sequence[object] | Mapping[str, object] = ()
        """As of the last pick. When the row changes, this is another object."""
        self.health: dict[str, _Health] = {}


class Outliers:
    """The endpoints that fail, of all apps that this process calls.

    Args:
        settings: see there.
        ejected: called when an endpoint is ejected, and again when a probe has failed.
        returned: called when an endpoint that was ejected has answered.
    """

    def __init__(self, settings: Settings, ejected: Ejected, returned: Returned) -> None:
        self._settings = settings
        self._ejected = ejected
        self._returned = returned
        self._apps: dict[Hashable, _App] = {}
        """Only apps of which an endpoint has failed lately: the others cost one look into this dict."""

    def knows(self, app: Hashable) -> bool:
        """Whether an endpoint of the app has failed lately; else every view of it is `EVERYTHING`."""
        return app in self._apps

    def view(
        self,
        app: Hashable,
        addresses: Mapping[str, object],
        now: float,
        *,
        first: bool,
        repeatable: bool,
        only: str | None = None,
    ) -> View:
        """Which endpoints the next attempt of a call may use.

        Below the panic threshold no endpoint is ejected: while others are healthy, the failing ones get 1 call in 10
        and attempts that find no other; if none is healthy, all are used alike.

        Args:
            app: what identifies the app.
            addresses: its addresses in the row of this moment. What is known of any other address is forgotten.
            now: seconds.
            first: whether it is the call's first attempt: only those probe.
            repeatable: whether the call can be repeated after its request may have been processed.
            only: the one address that this call may probe.
        """
        known = self._apps.get(app)
        if known is None:
            return EVERYTHING
        known.calls += first
        if known.endpoints is not addresses:
            known.health = {address: health for address, health in known.health.items() if address in addresses}
            known.endpoints = addresses
        # The one that was tried longest ago first: the next probe is its.
        out = sorted((health.tried, address) for address, health in known.health.items() if health.out)
        failing = [address for _, address in out]
        if not failing:
            self._tidy(app, known, now)
            return EVERYTHING
        settings, count = self._settings, len(addresses)
        healthy = count - len(failing)
        panic = healthy * 100 < settings.healthy_panic_threshold * count
        left_out = failing if panic and healthy else failing[: count * settings.max_ejection_percent // 100]
        if panic and not healthy:
            return EVERYTHING
        due = (
            each
            for each in failing
            if first and only in (None, each) and self._is_due(known, each, now, panic, repeatable)
        )
        probe = next(due, None)
        if probe is not None:  # no other call is to probe it for a while, whatever becomes of this one
            health = known.health[probe]
            health.probing, health.tried, health.calls = True, now, known.calls
            known.probed = known.calls
        return View(frozenset(left_out), probe)

    def succeeded(self, app: Hashable, address: str, now: float) -> None:
        """Note that an endpoint has answered."""
        known = self._apps.get(app)
        health = known and known.health.get(address)
        if not health:
            return
        health.failures = 0
        if health.out:
            health.out = False
            health.returned = now
            self._returned(app, address, now - health.since)

    def failed(self, app: Hashable, address: str, started: float, now: float, *, after_sent: bool) -> None:
        """Note that an attempt which began at `started` has failed; `after_sent`: after the request was sent."""
        known = self._apps.setdefault(app, _App())
        health = known.health.setdefault(address, _Health())
        health.failures += 1
        health.after_sent = after_sent
        if health.out:
            if health.probing and started >= health.tried:  # attempts from before the probe say nothing new
                self._eject(app, known, address, health, now)
        elif health.failures >= self._settings.consecutive_failures:
            if now - health.returned > self._settings.max_ejection_time:
                health.ejections = 0
            health.out = True
            health.since = now
            self._eject(app, known, address, health, now)

    def failing(self, app: Hashable) -> frozenset[str]:
        """Addresses of the app that fail at present."""
        known = self._apps.get(app)
        return frozenset(address for address, health in known.health.items() if health.out) if known else frozenset()

    def _eject(self, app: Hashable, known: _App, address: str, health: _Health, now: float) -> None:
        health.ejections += 1
        health.probing = False
        health.tried = now
        health.calls = known.calls
        self._ejected(app, address, health.failures, self._wait(health))

    def _wait(self, health: _Health) -> float:
        """Seconds until an ejected endpoint may be probed."""
        settings = self._settings
        return min(settings.max_ejection_time, settings.base_ejection_time * health.ejections)

    def _is_due(self, known: _App, address: str, now: float, panic: bool, repeatable: bool) -> bool:
        """Whether a call shall probe the endpoint."""
        health = known.health[address]
        waited = now - health.tried - (CAUTION_SECONDS if health.after_sent and not repeatable else 0.0)
        if panic and waited >= 0 and known.calls - known.probed >= CALLS_FOR_EACH_PROBE_IN_PANIC:
            return True
        rare = known.calls - health.calls >= CALLS_FOR_EACH_PROBE
        return waited >= self._settings.max_ejection_time or (rare and waited >= self._wait(health))

    def _tidy(self, app: Hashable, known: _App, now: float) -> None:
        """Forget endpoints that have been back for long enough, and the app with the last of them."""
        kept = {
            address: health
            for address, health in known.health.items()
            if health.failures or now - health.returned <= self._settings.max_ejection_time
        }
        known.health = kept
        if not kept:
            self._apps.pop(app, None)
