"""What a change costs must follow from what changed, not from what exists. Counted, not timed."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import pytest

from shmroute.index import Index
from shmroute.objects import parse_appmodel
from shmroute.sources.events import Changed, Event, Replaced
from tests.generate import appmodels, body, endpointslices
from tests.index.builders import appmodel, endpoint, endpointslice


def calls_of(work: Callable[[], object]) -> int:
    """How many calls `work` makes, of Python functions and of C ones: a deterministic measure of its cost."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def flip(index: Index) -> list[Event]:
    """Two states of the same slice."""
    ready = endpointslice("s", "10.0.0.1", service="app")
    return [
        Changed("endpointslices", ready),
        Changed("endpointslices", endpointslice("s", endpoint("10.0.0.1", ready=False), service="app")),
    ]


def cost_of(index: Index, event: Event) -> int:
    return calls_of(lambda: (index.apply(event), index.take_changes()))


@pytest.mark.parametrize("models", [10, 10_000])
def test_an_endpoint_flip_costs_the_same_however_many_models_the_app_has(models: int) -> None:
    index = Index()
    names = " ".join(f"model{number}" for number in range(models))
    index.apply(Changed("appmodels", appmodel("app", names)))
    before, after = flip(index)
    index.apply(before)
    index.take_changes()
    assert cost_of(index, after) < 100


@pytest.mark.parametrize("apps", [10, 5_000])
def test_a_change_of_one_appmodel_costs_the_same_however_many_there_are(apps: int) -> None:
    index = Index()
    index.apply(Replaced("appmodels", tuple(appmodels(apps, 2))))
    index.apply(Changed("appmodels", appmodel("app", "m1 m2")))
    index.take_changes()
    assert cost_of(index, Changed("appmodels", appmodel("app", "m1=2 m2"))) < 100


def test_one_app_of_many_models_is_taken_in_proportion_to_its_models() -> None:
    def cost(models: int) -> int:
        index = Index()
        names = " ".join(f"model{number}" for number in range(models))
        rivals = [appmodel("app", names), appmodel("far/rival", names)]
        return cost_of(index, Replaced("appmodels", tuple(rivals)))

    assert cost(2_000) < 12 * cost(200)


def test_a_model_in_the_index_takes_at_most_400_bytes_of_memory_with_the_objects_it_came_in() -> None:
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


def test_an_endpoint_of_a_service_that_nobody_names_takes_at_most_150_bytes_of_memory() -> None:
    slices = tuple(endpointslices(100, 100))
    index = Index()
    tracemalloc.start()
    try:
        index.apply(Replaced("endpointslices", slices))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 10_000 <= 150
