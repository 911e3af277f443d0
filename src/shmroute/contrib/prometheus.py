"""Metrics of a worker's calls for prometheus_client.

    from prometheus_client import REGISTRY
    REGISTRY.register(shmroute.contrib.prometheus.CallsCollector())

The numbers are those of one process. The multiprocess mode of prometheus_client ignores custom collectors: with it, let
each worker expose or push these metrics itself.
"""

from __future__ import annotations

from collections.abc import Iterator

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
except ImportError as error:
    raise ImportError("shmroute.contrib.prometheus needs prometheus_client: pip install prometheus_client") from error

from shmroute.calls import Policy, default_policy

__all__ = ["CallsCollector"]


class CallsCollector:
    """Collects the counters of a policy at each scrape.

    Args:
        policy: by default that of the whole process.

    Metrics, by app (no label names a model):
        shmroute_calls_total: calls that ended, by `result`.
        shmroute_call_attempts_total: attempts that ended, by `outcome`; " after sending" is added where the request may
            have reached the pod.
        shmroute_call_ejections_total: times an endpoint was left out.
        shmroute_call_returns_total: times an endpoint answered again after that.
        shmroute_call_endpoints_ejected: endpoints that are ejected now.
        shmroute_calls_out_of_budget_total: calls that were not repeated because the retry budget was used up.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or default_policy()

    def describe(self) -> list[Metric]:
        """Return the metrics without samples, so that registering them collects nothing."""
        return list(self._metrics())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        calls, attempts, ejections, returns, ejected, budget = self._metrics()
        counters, outliers = self._policy.counters, self._policy.outliers
        for (app, result), count in list(counters.calls.items()):
            calls.add_metric([app, result], count)
        for (app, outcome), count in list(counters.attempts.items()):
            attempts.add_metric([app, outcome], count)
        for app, count in list(counters.ejections.items()):
            ejections.add_metric([app], count)
            ejected.add_metric([app], len(outliers.failing(app)))
        for app, count in list(counters.returns.items()):
            returns.add_metric([app], count)
        budget.add_metric([], counters.out_of_budget)
        yield from (calls, attempts, ejections, returns, ejected, budget)

    def _metrics(
        self,
    ) -> tuple[
        CounterMetricFamily,
        CounterMetricFamily,
        CounterMetricFamily,
        CounterMetricFamily,
        GaugeMetricFamily,
        CounterMetricFamily,
    ]:
        return (
            CounterMetricFamily("shmroute_calls", "Calls of models that ended.", labels=["app", "result"]),
            CounterMetricFamily("shmroute_call_attempts", "Attempts that ended.", labels=["app", "outcome"]),
            CounterMetricFamily("shmroute_call_ejections", "Endpoints left out after failures.", labels=["app"]),
            CounterMetricFamily("shmroute_call_returns", "Endpoints that answered again.", labels=["app"]),
            GaugeMetricFamily("shmroute_call_endpoints_ejected", "Endpoints that fail now.", labels=["app"]),
            CounterMetricFamily("shmroute_calls_out_of_budget", "Calls not repeated for lack of retry budget."),
        )
