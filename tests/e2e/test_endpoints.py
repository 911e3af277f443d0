"""EndpointSlices -> endpoints, with a real watcher, against every configured cluster."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from shmroute import NoEndpoints, Reader, Route
from tests.cluster import Cluster
from tests.e2e.running import appmodel, ready, until, watcher

Slices = dict[str, dict[str, Any]]


def endpoint_slice(name: str, service: str, endpoints: list[dict[str, Any]], port: int = 8060) -> dict[str, Any]:
    """Return an EndpointSlice as the controller writes it."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": port}],
    }


def endpoint(address: str, ready: bool | None = True, terminating: bool = False) -> dict[str, Any]:
    """Return one endpoint; `ready` None leaves the condition out, which means ready."""
    conditions: dict[str, Any] = {"serving": True, "terminating": terminating}
    if ready is not None:
        conditions["ready"] = ready
    return {"addresses": [address], "conditions": conditions, "nodeName": "n1", "zone": "z1"}


def expected(slices: list[dict[str, Any]], service: str) -> set[str]:
    """Return an independent computation: the ready addresses of the Service's slices, else the serving terminating
    ones."""
    ready, draining = set(), set()
    for item in slices:
        if item["metadata"]["labels"].get("kubernetes.io/service-name") != service:
            continue
        for each in item["endpoints"] or ():
            conditions = each.get("conditions", {})
            address = f"{each['addresses'][0]}:{item['ports'][0]['port']}"
            if conditions.get("ready") is not False:
                ready.add(address)
            elif conditions.get("serving") and conditions.get("terminating"):
                draining.add(address)
    return ready or draining


def shown(reader: Reader, model: str) -> set[str]:
    return {str(each) for each in reader.resolve(model).endpoints}


@pytest.mark.fault(19)
def test_endpoints_equal_an_oracle_through_random_slice_changes(cluster: Cluster, area: str) -> None:
    services, slices_each = 6, 3
    dice = random.Random(7)
    for number in range(services):
        cluster.apply(appmodel(f"svc-{number}", f"app_{number}", "v1", {f"m_{number}": "v1"}))
    names = [(f"svc-{number}-{part}", f"svc-{number}") for number in range(services) for part in range(slices_each)]

    def some() -> list[dict[str, Any]]:
        hosts = dice.sample(range(1, 30), dice.randint(0, 10))
        return [endpoint(f"10.0.0.{host}", dice.choice((True, None, False)), dice.random() < 0.5) for host in hosts]

    for name, service in names:
        cluster.apply(endpoint_slice(name, service, some()))
    present = dict(names)
    with watcher(cluster, area):
        reader = ready(area)

        def agrees() -> bool:
            listed = cluster.list("EndpointSlice")
            return all(shown(reader, f"m_{n}") == expected(listed, f"svc-{n}") for n in range(services))

        until(agrees, "agreement at the start")
        for step in range(120):
            name, service = dice.choice(names)
            if name in present and dice.random() < 0.3:
                cluster.delete("EndpointSlice", name)
                del present[name]
            else:
                cluster.apply(endpoint_slice(name, service, some()))
                present[name] = service
            if step % 20 == 19:
                until(agrees, f"agreement after {step + 1} changes")


@pytest.mark.fault(20)
def test_service_scaled_to_zero_is_known_empty_unlike_an_unseen_one(cluster: Cluster, area: str) -> None:
    cluster.apply(appmodel("scaled", "scaled", "v1", {"scaled_model": "v1"}))
    cluster.apply(appmodel("unseen", "unseen", "v1", {"unseen_model": "v1"}))
    cluster.apply(endpoint_slice("scaled-1", "scaled", [endpoint("10.0.0.1")]))
    with watcher(cluster, area):
        reader = ready(area)
        until(lambda: shown(reader, "scaled_model") == {"10.0.0.1:8060"}, "the endpoint")
        cluster.apply(endpoint_slice("scaled-1", "scaled", []))
        until(lambda: not reader.resolve("scaled_model").endpoints, "emptiness")
        with pytest.raises(NoEndpoints) as empty:
            reader.resolve("scaled_model").pick()
        assert empty.value.reason == "known empty"
        with pytest.raises(NoEndpoints) as unknown:
            reader.resolve("unseen_model").pick()
        assert unknown.value.reason == "not known"


def _is_withdrawn(route: Route, host: str) -> bool:
    return host not in {each.host for each in route.endpoints}


def test_a_rolling_restart_never_leaves_a_pick_without_a_ready_endpoint(cluster: Cluster, area: str) -> None:
    cluster.apply(appmodel("rolling", "rolling", "v1", {"rolling_model": "v1"}))
    old = [f"10.0.0.{host}" for host in range(1, 11)]
    new = [f"10.0.1.{host}" for host in range(1, 11)]

    def write(live: list[str], draining: list[str]) -> None:
        parts = [endpoint(host) for host in live], [endpoint(host, False, terminating=True) for host in draining]
        half = len(parts[0]) // 2
        cluster.apply(endpoint_slice("rolling-a", "rolling", parts[0][:half] + parts[1]))
        cluster.apply(endpoint_slice("rolling-b", "rolling", parts[0][half:]))

    write(old, [])
    with watcher(cluster, area):
        reader = ready(area)
        until(lambda: len(shown(reader, "rolling_model")) == len(old), "all old endpoints")
        route = reader.resolve("rolling_model")
        live = list(old)
        for gone, come in zip(old, new, strict=True):
            live.append(come)
            write(live, [])
            live.remove(gone)
            write(live, [gone])
            for _ in range(50):
                route.pick()
            until(partial(_is_withdrawn, route, gone), "withdrawal")
            assert gone not in {route.pick().host for _ in range(50)}
        assert {each.host for each in route.endpoints} == set(new)
