"""The numbers of the policy. Where Envoy has the same setting, the name is Envoy's."""

from __future__ import annotations

import msgspec

from shmroute.errors import ConfigError


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of retries and of outlier detection. Times are in seconds.

    Raises:
        ConfigError: a number is out of its range.
    """

    attempts: int = 3
    """Maximum number of attempts of one call."""

    attempt_timeout: float | None = None
    """Longest time until an attempt's answer begins (Envoy: per_try_timeout), while another attempt may follow.

    None: half of the time left to the call's deadline, so that the next attempt has as much. No deadline: no limit.
    """

    connect_timeout: float = 1.0
    """Longest time for connecting while another endpoint is left to try. Linux sends a lost SYN again after 1 s."""

    consecutive_failures: int = 3
    """Failures in a row after which an endpoint is ejected, which means left out. Envoy's default is 5."""

    base_ejection_time: float = 1.0
    """Time of the first ejection; multiplied by the number of ejections in a row, as in Envoy."""

    max_ejection_time: float = 10.0
    """Longest time for which an endpoint is left out."""

    max_ejection_percent: int = 50
    """Largest share of an app's endpoints that may be left out at a time, in percent."""

    healthy_panic_threshold: int = 50
    """Panic threshold: if fewer percent of the endpoints than this are healthy, none is ejected.

    While at least one endpoint is healthy, the failing ones then get 1 call in 10; if none is, all are used alike.
    """

    retriable_status_codes: frozenset[int] = frozenset({502, 503, 504})
    """Status codes that count as failures of the endpoint, and after which an idempotent request is sent again.

    By these three a proxy or a server says that the fault is its own, not the request's (Envoy: gateway-error).
    """

    budget_percent: float = 20.0
    """Largest share of repeated attempts, in percent of the process's calls (Envoy: retry_budget.budget_percent)."""

    min_retries_per_second: float = 10.0
    """Repeated attempts per second allowed in addition to that share, so that a process with few calls has some."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("attempts", 1, 100),
            ("consecutive_failures", 1, 1_000_000),
            ("max_ejection_percent", 0, 100),
            ("healthy_panic_threshold", 0, 100),
            ("budget_percent", 0, 10_000),
            ("min_retries_per_second", 0, 1_000_000),
            ("connect_timeout", 0.001, 3600),
            ("base_ejection_time", 0.001, 3600),
            ("max_ejection_time", self.base_ejection_time, 3600),
            ("attempt_timeout", 0.001, 86_400),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value!r}: it must be at least {low:g} and at most {high:g}")
