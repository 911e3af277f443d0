"""The index against the oracle, under any events in any order."""

from __future__ import annotations

import random
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from shmroute.resources.appmodel import AppModel, InvalidAppModel, ModelVersion
from shmroute.resources.endpointslice import EndpointSlice, SliceEndpoint, SlicePort
from shmroute.resources.key import ObjectKey
from shmroute.rows import Kind, RowKey
from shmroute.sources.base import Changed, Deleted, Event, Replaced, Resource, Resync
from shmroute.tables import EndpointRules, Index
from tests.tables.oracle import Oracle, decoded

# A small world, so that objects meet.
NAMESPACES = st.sampled_from(["east", "west"])
KEYS = st.builds(ObjectKey, NAMESPACES, st.sampled_from(["alpha", "beta", "gamma"]))
VERSIONS = st.sampled_from(["v-1", "v-2"])
MODELS = st.lists(
    st.builds(ModelVersion, st.sampled_from(["m1", "m2", "m3", "m4"]), VERSIONS),
    min_size=1,
    max_size=4,
    unique_by=lambda model: model.name,
).map(tuple)
SLICE_KEYS = st.builds(ObjectKey, NAMESPACES, st.sampled_from(["s1", "s2", "s3"]))
PORTS = st.lists(
    st.builds(SlicePort, st.sampled_from(["", "http", "grpc"]), st.sampled_from([80, 8080])),
    max_size=2,
    unique_by=lambda port: port.name,
).map(tuple)
ENDPOINTS = st.lists(
    st.builds(
        SliceEndpoint,
        st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
        zone=st.sampled_from(["", "a"]),
        hints=st.sampled_from([(), ("a", "b")]),
    ),
    max_size=3,
).map(tuple)


@st.composite
def appmodels(draw: st.DrawFn) -> AppModel:
    key = draw(KEYS)
    return AppModel(
        key=key,
        created=draw(st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"])),
        resource_version=draw(st.sampled_from(["1", "2"])),
        app=draw(st.sampled_from(["appA", "appB"])),
        version=draw(VERSIONS),
        models=draw(MODELS),
        service=draw(st.one_of(st.just(key), KEYS)),
        port=draw(st.sampled_from(["", "", "http", "8080"])),
    )


@st.composite
def endpointslices(draw: st.DrawFn) -> EndpointSlice:
    key = draw(SLICE_KEYS)
    return EndpointSlice(
        key=key,
        resource_version=draw(st.sampled_from(["", "7", "8", "10"])),
        service=ObjectKey(key.namespace, draw(st.sampled_from(["alpha", "beta", "gamma"]))),
        address_type="IPv4",
        ports=draw(PORTS),
        endpoints=draw(ENDPOINTS),
    )


INVALID = st.builds(InvalidAppModel, KEYS, st.just("3"), st.sampled_from(["spec is missing", "spec.app is missing"]))
APPMODEL_ITEMS = st.one_of(appmodels(), appmodels(), INVALID)


def lists_of(
    items: st.SearchStrategy[AppModel | InvalidAppModel | EndpointSlice],
) -> st.SearchStrategy[tuple[AppModel | InvalidAppModel | EndpointSlice, ...]]:
    return st.lists(items, max_size=5, unique_by=lambda item: item.key).map(tuple)


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Changed, st.just("appmodels"), APPMODEL_ITEMS),
    st.builds(Deleted, st.just("appmodels"), KEYS),
    st.builds(Replaced, st.just("appmodels"), lists_of(APPMODEL_ITEMS)),
    st.builds(Changed, st.just("endpointslices"), endpointslices()),
    st.builds(Deleted, st.just("endpointslices"), SLICE_KEYS),
    st.builds(Replaced, st.just("endpointslices"), lists_of(endpointslices())),
    st.builds(Resync, st.sampled_from(["appmodels", "endpointslices"])),
)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Event]]:
    """Return events in batches. Every second event is similar to an earlier one, as real changes are."""
    batches: list[list[Event]] = []
    changed: list[AppModel | EndpointSlice] = []
    for _ in range(draw(st.integers(0, 8))):
        batches.append([])
        for _ in range(draw(st.integers(1, 5))):
            related = draw(st.booleans())
            strategy = EVENTS
            if related and changed:
                strategy = followers(draw(st.sampled_from(changed)))
            event = draw(strategy)
            batches[-1].append(event)
            match event:
                case Changed(item=AppModel() | EndpointSlice() as item):
                    changed.append(item)
                case Replaced(items=items):
                    changed += [item for item in items if isinstance(item, AppModel | EndpointSlice)]
    return batches


def followers(item: AppModel | EndpointSlice) -> st.SearchStrategy[Event]:
    """Return what may well come after an object: itself, itself with one field changed, its end."""
    resource: Resource = "appmodels" if isinstance(item, AppModel) else "endpointslices"
    other = appmodels() if isinstance(item, AppModel) else endpointslices()
    fields = [field for field in item.__struct_fields__ if field != "key"]
    tweaked = st.builds(
        lambda field, other: structs.replace(item, **{field: getattr(other, field)}), st.sampled_from(fields), other
    )
    return st.one_of(
        st.builds(Changed, st.just(resource), st.just(item)),
        st.builds(Changed, st.just(resource), tweaked),
        st.builds(Changed, st.just(resource), tweaked),
        st.builds(Replaced, st.just(resource), st.tuples(tweaked)),
        st.just(Deleted(resource, item.key)),
    )


DEFAULT_PORTS = st.sampled_from(["", "grpc", "8080"])


@settings(max_examples=50, deadline=None)
@given(histories(), DEFAULT_PORTS)
def test_rows_equal_the_oracle_after_any_events(batches: list[list[Event]], default_port: str) -> None:
    index, oracle = Index(EndpointRules(default_port)), Oracle(default_port)
    published: dict[RowKey, bytes] = {}
    for batch in batches:
        for event in batch:
            index.apply(event)
            oracle.apply(event)
        expected = oracle.table()
        before_taking = dict(index.rows())
        changes = index.take_changes()
        for key, value in changes.items():
            if key[0] != Kind.APP:  # `Routes` does not compare the row of an app with several AppModels
                assert published.get(key) != value, "an unchanged row was returned"
            if value is None:
                del published[key]
            else:
                published[key] = value
        assert decoded(published.items()) == expected
        assert dict(index.rows()) == before_taking == published
        assert index.take_changes() == {}
        kinds = [kind for kind, _ in published]
        counts = (index.model_count, index.app_count, index.conflict_count, index.invalid_count)
        assert counts == (kinds.count(1), kinds.count(2), kinds.count(5), kinds.count(6))


@pytest.mark.fault(18)
@settings(max_examples=40, deadline=None)
@given(
    st.lists(appmodels(), max_size=6, unique_by=lambda item: item.key),
    st.lists(endpointslices(), max_size=6, unique_by=lambda item: item.key),
    st.lists(EVENTS, max_size=10),
    st.randoms(use_true_random=False),
)
def test_rows_do_not_depend_on_the_order_of_events(
    items: list[AppModel], slices: list[EndpointSlice], history: list[Event], shuffled: random.Random
) -> None:
    fresh = Index()
    fresh.apply(Replaced("endpointslices", tuple(slices)))
    fresh.apply(Replaced("appmodels", tuple(items)))

    index = Index()
    for event in history:
        index.apply(event)
    index.apply(Replaced("appmodels", ()))
    index.apply(Replaced("endpointslices", ()))
    one_by_one: list[Event] = [Changed("appmodels", item) for item in items]
    one_by_one += [Changed("endpointslices", item) for item in slices]
    shuffled.shuffle(one_by_one)
    for event in one_by_one:
        index.apply(event)

    assert dict(index.rows()) == dict(fresh.rows())


@settings(max_examples=40, deadline=None)
@given(histories())
def test_replayed_announcements_give_the_served_objects(batches: list[list[Event]]) -> None:
    index, oracle = Index(), Oracle()
    announced: dict[ObjectKey, AppModel] = {}
    for event in chain.from_iterable(batches):
        for announcement in index.apply(event):
            match announcement.kind, announcement.old, announcement.new:
                case "add", None, AppModel() as new:
                    assert new.key not in announced
                    announced[new.key] = new
                case "update", AppModel() as old, AppModel() as new:
                    assert announced[new.key] == old
                    assert old != new or isinstance(event, Resync)
                    announced[new.key] = new
                case "delete", AppModel() as old, None:
                    assert announced.pop(old.key) == old
                case other:
                    raise AssertionError(other)
        oracle.apply(event)
    in_force = {key: _without_resource_version(item) for key, item in oracle.valid.items()}
    assert {key: _without_resource_version(item) for key, item in announced.items()} == in_force


def _without_resource_version(item: AppModel) -> tuple[object, ...]:
    return item.created, item.app, item.version, item.models, item.service, item.port
