"""Metrics of a worker's look-ups and calls for prometheus_client.

    from prometheus_client import REGISTRY
    REGISTRY.register(shmroute.contrib.prometheus.WorkerCollector())
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
from shmroute.errors import AreaUnavailable, NotReady
from shmroute.worker.default import _default
from shmroute.worker.endpoints import pick_failures
from shmroute.worker.reader import Reader

__all__ = ["CallsCollector", "WorkerCollector"]


class WorkerCollector:
    """Collects what a reader knows of its routes at each scrape. It adds no cost to look-ups that find their model.

    Args:
        reader: by default that of `from shmroute import resolve`.

    Metrics, without labels but for `reason`:
        shmroute_worker_age_seconds: age of the routes; +Inf before the first snapshot.
        shmroute_worker_generation: the generation that look-ups answer from; 0 before the first snapshot.
        shmroute_worker_behind: 1 while the newest generation cannot be read.
        shmroute_worker_misses_total: look-ups that found no app for the model. Look-ups that find one are not counted,
            since counting would cost each of them.
        shmroute_worker_pick_failures_total: picks that found no endpoint, by `reason` (see `NoEndpoints`).
    """

    def __init__(self, reader: Reader | None = None) -> None:
        self._reader = reader or _default

    def describe(self) -> list[Metric]:
        """Return the metrics without samples, so that registering them reads nothing."""
        return list(self._metrics())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        age, generation, behind, misses, failures = self._metrics()
        try:
            age.add_metric([], self._reader.age)
            generation.add_metric([], self._reader.generation)
        except NotReady:
            generation.add_metric([], 0)
        except AreaUnavailable:  # the age that is missing is the alarm
            pass
        behind.add_metric([], float(self._reader.fault is not None))
        misses.add_metric([], self._reader.misses)
        for reason, count in list(pick_failures.items()):
            failures.add_metric([reason], count)
        yield from (age, generation, behind, misses, failures)

    def _metrics(
        self,
    ) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, CounterMetricFamily, CounterMetricFamily]:
        return (
            GaugeMetricFamily("shmroute_worker_age_seconds", "Age of the routes in seconds."),
            GaugeMetricFamily("shmroute_worker_generation", "Generation that look-ups answer from."),
            GaugeMetricFamily("shmroute_worker_behind", "1 while the newest generation cannot be read."),
            CounterMetricFamily("shmroute_worker_misses", "Look-ups that found no app for the model."),
            CounterMetricFamily("shmroute_worker_pick_failures", "Picks that found no endpoint.", labels=["reason"]),
        )


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
