"""The cost of a change depends on the change, not on the number of objects. Costs are counted, not timed."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

import msgspec
import pytest

from shmroute.resources.appmodel import InvalidAppModel, parse_appmodel
from shmroute.resources.key import ObjectKey
from shmroute.sources.base import Changed, Deleted, Event, Replaced
from shmroute.tables import Index
from tests.generate import appmodels, body, endpointslices
from tests.tables.builders import appmodel, endpoint, endpointslice

TraceFunction: TypeAlias = Callable[[FrameType, str, object], "TraceFunction"]


@contextmanager
def collector_off() -> Iterator[None]:
    """Hold the garbage collector off: it calls back into Hypothesis, whose calls would be counted too."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls_of(work: Callable[[], object]) -> int:
    """Return how many calls `work` makes, of Python functions and of C ones: a deterministic measure of its cost."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    with collector_off():
        sys.setprofile(counted)
        try:
            work()
        finally:
            sys.setprofile(None)
    return count


def opcodes_of(work: Callable[[], object]) -> int:
    """Return how many of Python's instructions `work` takes: finer than calls, and slow to count."""
    count = 0

    def traced(frame: FrameType, event: str, argument: object) -> TraceFunction:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return traced

    before = sys.gettrace()
    with collector_off():
        sys.settrace(traced)
        try:
            work()
        finally:
            sys.settrace(before)
    return count


def flip(index: Index) -> list[Event]:
    """Return two states of the same slice."""
    ready = endpointslice("s", "10.0.0.1", service="app")
    return [
        Changed("endpointslices", ready),
        Changed("endpointslices", endpointslice("s", endpoint("10.0.0.1", ready=False), service="app")),
    ]


def cost_of(index: Index, event: Event) -> int:
    return calls_of(lambda: (index.apply(event), index.take_changes()))


@pytest.mark.parametrize("models", [10, 10_000])
def test_an_endpoint_change_costs_the_same_for_any_number_of_models(models: int) -> None:
    index = Index()
    names = " ".join(f"model{number}" for number in range(models))
    index.apply(Changed("appmodels", appmodel("app", names)))
    before, after = flip(index)
    index.apply(before)
    index.take_changes()
    assert cost_of(index, after) < 100


@pytest.mark.parametrize("apps", [10, 5_000])
def test_one_appmodel_change_costs_the_same_for_any_number_of_them(apps: int) -> None:
    index = Index()
    index.apply(Replaced("appmodels", tuple(appmodels(apps, 2))))
    index.apply(Changed("appmodels", appmodel("app", "m1 m2")))
    index.take_changes()
    assert cost_of(index, Changed("appmodels", appmodel("app", "m1=2 m2"))) < 150


def test_models_shared_by_two_namespaces_cost_in_proportion() -> None:
    def cost(models: int) -> int:
        index = Index()
        names = " ".join(f"model{number}" for number in range(models))
        index.apply(Replaced("appmodels", (appmodel("east/app", names), appmodel("west/app", names))))
        return opcodes_of(index.take_changes)

    assert cost(400) < 12 * cost(40)


@pytest.mark.parametrize("claimants", [150, 3_000])
def test_one_more_claimant_costs_the_same_for_any_number_of_them(claimants: int) -> None:
    index = Index()
    claims = [appmodel(f"app-{number:05}", "m1 m2") for number in range(claimants)]
    index.apply(Replaced("appmodels", tuple(claims)))
    index.take_changes()
    assert cost_of(index, Changed("appmodels", appmodel("app-00140-more", "m1 m2"))) < 450
    assert cost_of(index, Deleted("appmodels", claims[0].key)) < 450


def test_listing_conflicting_appmodels_costs_linear_time() -> None:
    def cost(claimants: int) -> int:
        claims = tuple(appmodel(f"app-{number:05}", "m1 m2 m3") for number in range(claimants))
        return cost_of(Index(), Replaced("appmodels", claims))

    assert cost(3_000) < 12 * cost(300)


def test_change_of_models_costs_the_same_for_any_number_of_endpoints() -> None:
    costs = []
    for count in (1, 1_000):
        index = Index()
        addresses = [f"10.0.{number // 256}.{number % 256}" for number in range(count)]
        index.apply(Changed("endpointslices", endpointslice("s", *addresses, service="app")))
        index.apply(Changed("appmodels", appmodel("app", "m1")))
        index.take_changes()
        costs.append(cost_of(index, Changed("appmodels", appmodel("app", "m1=2"))))
    assert costs[0] == costs[1] < 200


def test_unchanged_slice_costs_the_same_for_any_number_of_endpoints() -> None:
    index = Index()
    addresses = [f"10.0.{number // 256}.{number % 256}" for number in range(1_000)]
    item = endpointslice("s", *addresses, service="app")
    index.apply(Changed("appmodels", appmodel("app", "m1")))
    index.apply(Changed("endpointslices", item))
    index.take_changes()
    assert cost_of(index, Replaced("endpointslices", (item,))) < 100


def test_model_takes_at_most_400_bytes_with_its_objects() -> None:
    apps, models = 1_000, 10
    bodies = [body(item) for item in appmodels(apps, models)]
    tracemalloc.start()
    try:
        index = Index()
        index.apply(Replaced("appmodels", tuple(parse_appmodel(each) for each in bodies)))
        index.take_changes()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert index.model_count == apps * models
    assert taken / (apps * models) <= 400


def test_endpoint_of_an_unnamed_service_takes_at_most_150_bytes() -> None:
    slices = tuple(endpointslices(100, 100))
    index = Index()
    tracemalloc.start()
    try:
        index.apply(Replaced("endpointslices", slices))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 10_000 <= 150


def test_an_emptied_index_holds_no_memory_of_its_objects() -> None:
    def round_of(number: int) -> None:
        for item in appmodels(300, 3, seed=number, namespace=f"round{number}"):
            elsewhere = msgspec.structs.replace(item, service=ObjectKey("web", item.key.name))
            for each in (item, elsewhere, InvalidAppModel(item.key, "1", "spec is missing")):
                index.apply(Changed("appmodels", each))
        index.apply(Replaced("endpointslices", tuple(endpointslices(300, 1, seed=number, namespace="web"))))
        index.take_changes()
        index.apply(Replaced("endpointslices", ()))
        index.apply(Replaced("appmodels", ()))
        index.take_changes()

    index = Index()
    tracemalloc.start()
    try:
        left = []
        for number in range(8):
            round_of(number)
            gc.collect()
            left.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert list(index.rows()) == []
    # An emptied dict keeps its table, so the first rounds count for nothing.
    assert left[-1] - left[3] < 1_200 * 20, "bytes an AppModel that came and went"
