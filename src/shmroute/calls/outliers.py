"""Outlier detection as in Envoy, per process: endpoints that keep failing are left out for a while.

Pure: the clock comes in as an argument, in seconds. There are no locks: if two threads lose an update, at most one more
attempt fails. No guarantee depends on a counter, since each pick computes again what may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

from shmroute.calls.settings import Settings

CALLS_FOR_EACH_PROBE: Final = 100
"""Calls of an app between two probes of the same ejected endpoint, so that at most 1 call in 100 finds it dead.

With fewer calls than this in `max_ejection_time`, a call probes once that time has passed.
"""

CAUTION_SECONDS: Final = 3.0
"""Seconds by which a call that cannot be repeated delays its probe of an endpoint that failed after taking a request.

Such an endpoint accepts connections and may swallow the request. The delay lets calls that can be repeated probe first;
without such calls the endpoint is in use again after 10 s + 3 s, within the promised 15 s.
"""

CALLS_FOR_EACH_PROBE_IN_PANIC: Final = 10
"""Calls between two probes below the panic threshold, for all failing endpoints of an app together.

A probe of a dead endpoint costs a repeated attempt: 10 % of the calls, half of the default budget.
"""

Ejected = Callable[[Hashable, str, int, float], None]
"""Takes the app, the address, the failures in a row, and the seconds for which the endpoint is left out."""

Returned = Callable[[Hashable, str, float], None]
"""Takes the app, the address, and the seconds for which the endpoint had been left out."""


class View(NamedTuple):
    """The endpoints that the next attempt should avoid, and the one that it must probe."""

    left_out: frozenset[str]
    """Addresses to pick only if there is no other."""
    probe: str | None
    """The address that this attempt must use, to find out whether the endpoint answers again."""


EVERYTHING: Final = View(frozenset(), None)
"""The view of an app without failing endpoints: all may be used."""


class _Health:
    """State of an endpoint that has failed lately. Times are in seconds."""

    def __init__(self) -> None:
        self.failures = 0
        """Number of failures in a row."""
        self.after_sent = False
        """Whether the last failure came after the endpoint had taken a request."""
        self.out = False
        """Whether the endpoint is ejected: left out, unless too many others are."""
        self.ejections = 0
        """Number of ejections in a row, failed probes included."""
        self.since = 0.0
        """Time of the ejection."""
        self.tried = 0.0
        """Time of the ejection or, if later, of the last probe."""
        self.calls = 0
        """Value of the app's call counter at the time `tried`."""
        self.probing = False
        """Whether a probe is under way. Its outcome may never come."""
        self.returned = 0.0
        """Time of the first answer after the last ejection."""


class _App:
    """State of an app of which at least one endpoint has failed lately."""

    def __init__(self) -> None:
        self.calls = 0
        """Number of calls (first attempts only), counted while an endpoint fails."""
        self.probed = 0
        """Value of `calls` at the last probe."""
        self.endpoints: Sequence[object] | Mapping[str, object] = ()
        """The app's addresses at the last call of `view`. Compared by identity: a changed row gives another object."""
        self.health: dict[str, _Health] = {}


class Outliers:
    """Failing endpoints of all apps that this process calls.

    Args:
        settings: thresholds and times of the policy.
        ejected: called when an endpoint is ejected, and again after each failed probe.
        returned: called when an ejected endpoint has answered.
    """

    def __init__(self, settings: Settings, ejected: Ejected, returned: Returned) -> None:
        self._settings = settings
        self._ejected = ejected
        self._returned = returned
        self._apps: dict[Hashable, _App] = {}
        """Only apps with an endpoint that has failed lately: a call to any other app costs one look-up in this dict."""

    def knows(self, app: Hashable) -> bool:
        """Return whether an endpoint of the app has failed lately; if none has, the app's view is `EVERYTHING`."""
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
        """Return which endpoints the next attempt of a call should avoid, and which one it must probe.

        Below the panic threshold no endpoint is ejected: while others are healthy, the failing ones get 1 call in 10
        and attempts that find no other; if none is healthy, all are used alike.

        Args:
            app: identifies the app.
            addresses: the app's current addresses. Any other address is forgotten.
            now: the time in seconds.
            first: whether this is the call's first attempt. Only first attempts probe.
            repeatable: whether the call may be repeated after its request may have been processed.
            only: the one address that this call may probe; None: any.
        """
        known = self._apps.get(app)
        if known is None:
            return EVERYTHING
        known.calls += first
        if known.endpoints is not addresses:
            known.health = {address: health for address, health in known.health.items() if address in addresses}
            known.endpoints = addresses
        # The endpoint tried longest ago comes first and is probed next.
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
        if probe is not None:  # no other call probes it for a while, however this call ends
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
            if health.probing and started >= health.tried:  # an attempt that began before the probe is no news
                self._eject(app, known, address, health, now)
        elif health.failures >= self._settings.consecutive_failures:
            if now - health.returned > self._settings.max_ejection_time:
                health.ejections = 0
            health.out = True
            health.since = now
            self._eject(app, known, address, health, now)

    def failing(self, app: Hashable) -> frozenset[str]:
        """Return the app's addresses that are ejected now."""
        known = self._apps.get(app)
        return frozenset(address for address, health in known.health.items() if health.out) if known else frozenset()

    def _eject(self, app: Hashable, known: _App, address: str, health: _Health, now: float) -> None:
        health.ejections += 1
        health.probing = False
        health.tried = now
        health.calls = known.calls
        self._ejected(app, address, health.failures, self._wait(health))

    def _wait(self, health: _Health) -> float:
        """Return the seconds that an ejected endpoint waits for its probe."""
        settings = self._settings
        return min(settings.max_ejection_time, settings.base_ejection_time * health.ejections)

    def _is_due(self, known: _App, address: str, now: float, panic: bool, repeatable: bool) -> bool:
        """Return whether a call must probe the endpoint."""
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
