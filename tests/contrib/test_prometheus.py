"""Metrics of calls."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shmroute import NoEndpoints, Reader
from shmroute.calls import Policy
from shmroute.contrib.prometheus import CallsCollector, WorkerCollector
from shmroute.testing import Answer, Routes
from tests.calls.world import BREAKS, REFUSES, World


def exposed(policy: Policy) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(CallsCollector(policy))
    return values(registry)


def test_metrics_count_outcomes_of_calls_and_endpoints() -> None:
    world = World(3)
    world.calls(50)
    dead = world.addresses[0]
    world.pods[dead] = REFUSES
    world.calls(100)
    told = exposed(world.policy)
    assert told['shmroute_calls_total{app="app",result="answered"}'] == 150
    assert told['shmroute_call_attempts_total{app="app",outcome="ok"}'] == 150
    assert told['shmroute_call_attempts_total{app="app",outcome="refused"}'] == 3
    assert told['shmroute_call_ejections_total{app="ns/app"}'] == 1
    assert told['shmroute_call_endpoints_ejected{app="ns/app"}'] == 1
    world.pods[dead] = None
    world.calls(2000)
    told = exposed(world.policy)
    assert told['shmroute_call_returns_total{app="ns/app"}'] == 1
    assert told['shmroute_call_endpoints_ejected{app="ns/app"}'] == 0


def test_requests_lost_after_they_were_sent_are_counted_apart() -> None:
    world = World(1)
    world.pods[world.addresses[0]] = BREAKS
    world.calls(3)
    told = exposed(world.policy)
    assert told['shmroute_call_attempts_total{app="app",outcome="broken after sending"}'] == 3
    assert told['shmroute_calls_total{app="app",result="CallAttemptsFailed"}'] == 3


def test_default_policy_is_registered_before_any_call() -> None:
    registry = CollectorRegistry()
    registry.register(CallsCollector())
    assert b"shmroute_calls_out_of_budget_total" in generate_latest(registry)


def test_metrics_of_a_worker_follow_its_look_ups(area: str) -> None:
    registry = CollectorRegistry()
    with Reader(area) as reader:
        registry.register(WorkerCollector(reader))
        before = values(registry)
        assert before["shmroute_worker_age_seconds"] == math.inf
        assert before["shmroute_worker_generation"] == 0
        routes = Routes(area)
        routes.set({"one": "app", "none": Answer(app="app2", endpoints=())})
        for _ in range(3):
            assert reader.get("absent") is None
        for _ in range(2):
            with pytest.raises(NoEndpoints):
                reader.resolve("none").pick()
        after = values(registry)
        routes.close()
    assert after["shmroute_worker_age_seconds"] < 60
    assert after["shmroute_worker_generation"] == 1
    assert after["shmroute_worker_behind"] == 0
    assert after["shmroute_worker_misses_total"] == 3
    failures = 'shmroute_worker_pick_failures_total{reason="known empty"}'
    assert after[failures] - before.get(failures, 0) == 2


def values(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
