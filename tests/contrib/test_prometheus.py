"""Metrics of calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from shmroute.calls import Policy
from shmroute.contrib.prometheus import CallsCollector
from tests.calls.world import BREAKS, REFUSES, World


def exposed(policy: Policy) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(CallsCollector(policy))
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_metrics_tell_what_became_of_calls_and_endpoints() -> None:
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


def test_registering_the_default_needs_no_call_before() -> None:
    registry = CollectorRegistry()
    registry.register(CallsCollector())
    assert b"shmroute_calls_out_of_budget_total" in generate_latest(registry)
