"""One namespace's share of the area: the fitting objects depend only on the objects, the cost on the change."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmroute.resources.appmodel import AppModel
from shmroute.resources.key import ObjectKey
from shmroute.rows import EndpointsRow, InvalidRow, Kind, RowKey
from shmroute.sources.base import Changed, Deleted, Event, Replaced
from shmroute.tables import Announcement, Crowded, Index, Room
from shmroute.tables.conflicts import claim_of
from shmroute.tables.problems import MAX_LISTED, Problems
from shmroute.tables.shares import Share, Shares
from tests.tables.builders import EARLY, appmodel, endpointslice, invalid
from tests.tables.oracle import Oracle, decoded
from tests.tables.test_costs import calls_of
from tests.tables.test_properties import EVENTS, appmodels, endpointslices

PLENTY = 10**9
SMALL = Room(routes=Share(2, 5, PLENTY), endpoints=Share(PLENTY, 0, 230))
"""Room for two AppModels with five models, and for the addresses of one of them."""

NAMES = st.sampled_from("abcdefg")
SPACES = st.sampled_from(["east", "west"])


def prefix(items: list[tuple[Any, Share]], limit: Share) -> list[Any]:
    """Return the first items whose sum stays within the limit: the rule in its simplest form."""
    fitting, taken = [], Share()
    for key, weight in items:
        taken = taken.plus(weight)
        if not limit.holds(taken):
            break
        fitting.append(key)
    return fitting


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(SPACES, NAMES, st.integers(0, 5), st.integers(0, 4), st.booleans(), st.booleans()), max_size=40)
)
def test_the_oldest_fitting_objects_are_served_after_any_changes(
    steps: list[tuple[str, str, int, int, bool, bool]],
) -> None:
    limit = Share(3, 6, PLENTY)
    shares = Shares(limit)
    objects: dict[tuple[str, str], tuple[tuple[int, str], Share]] = {}
    served: dict[tuple[str, str], bool] = {}
    for space, name, age, models, remove, settle in steps:
        key = (space, name)
        if remove:
            shares.remove(space, key)
            objects.pop(key, None)
            served.pop(key, None)
        else:
            objects[key] = ((age, name), Share(1, models, 0))
            shares.put(space, key, *objects[key])
        if settle:
            served.update(shares.settle())
    for key, now in shares.settle():
        assert served.get(key) is not now, "said twice"
        served[key] = now
    for space in ("east", "west"):
        mine = sorted((rank, key, weight) for key, (rank, weight) in objects.items() if key[0] == space)
        fitting = prefix([(key, weight) for _, key, weight in mine], limit)
        assert {key for key, now in served.items() if now and key[0] == space} == set(fitting)
        assert dict(shares.crowded).get(space, 0) == len(mine) - len(fitting)
    assert served.keys() == objects.keys()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(EVENTS.filter(lambda event: not _empties(event)), max_size=25),
    st.lists(endpointslices(), max_size=5, unique_by=lambda item: item.key),
)
def test_rows_under_a_share_are_those_of_the_fitting_objects(events: list[Event], slices: list[Any]) -> None:
    index, oracle = Index(room=SMALL), Oracle()
    published: dict[RowKey, bytes] = {}
    in_force: dict[ObjectKey, AppModel] = {}
    for event in [*(Changed("endpointslices", item) for item in slices), *events]:
        for announcement in index.apply(event):
            _follow(in_force, announcement)
        oracle.apply(event)
        for row_key, value in index.take_changes().items():
            assert published.get(row_key) != value
            published.update({row_key: value}) if value is not None else published.pop(row_key)
    assert dict(index.rows()) == published

    fitting = _fitting(oracle.valid.values())
    plain = Index()
    plain.apply(Replaced("endpointslices", tuple(oracle.slices.values())))
    plain.apply(Replaced("appmodels", tuple(fitting)))
    expected = dict(plain.rows())
    assert _routes(published) == _routes(expected)
    assert {item.key for item in in_force.values()} == {item.key for item in fitting}

    crowded = dict.fromkeys(item.key for item in oracle.valid.values() if item not in fitting)
    for key in oracle.valid:
        row = decoded(published.items()).get((Kind.INVALID, f"AppModel {key} without room"))
        assert (row is not None) == (key in crowded)
        assert row is None or ("no room" in row.reason and not row.last_good)
    counts = {each.namespace: each.objects for each in index.crowded if each.what == "routes"}
    assert sum(counts.values()) == len(crowded)

    for namespace in ("east", "west"):
        mine = sorted((item for item in fitting if item.key.namespace == namespace), key=lambda i: claim_of(i).rank)
        weights = [(item.key, _weight(item, expected)) for item in mine]
        have = prefix(weights, SMALL.endpoints or Share())
        for item in mine:
            row = published[int(Kind.ENDPOINTS), str(item.key)]
            if item.key in have:
                assert row == expected[int(Kind.ENDPOINTS), str(item.key)]
            else:
                assert msgspec.msgpack.decode(row, type=EndpointsRow).detail == "no room"


def _empties(event: Event) -> bool:
    """Whether a Service may be known as emptied afterwards, which depends on who named it then."""
    return isinstance(event, Deleted | Replaced) and event.resource == "endpointslices"


def _fitting(items: Any) -> list[AppModel]:
    assert SMALL.routes is not None
    fitting = []
    for namespace in ("east", "west"):
        mine = sorted((item for item in items if item.key.namespace == namespace), key=lambda i: claim_of(i).rank)
        fitting += prefix([(item, Share(1, len(item.models), 0)) for item in mine], SMALL.routes)
    return fitting


def _weight(item: AppModel, rows: dict[RowKey, bytes]) -> Share:
    size = len(rows[int(Kind.ENDPOINTS), str(item.key)]) + 64 + 2 * len(str(item.key))
    return Share(1, 0, size)


def _routes(rows: dict[RowKey, bytes]) -> dict[RowKey, bytes]:
    return {key: row for key, row in rows.items() if key[0] in (Kind.MODEL, Kind.APP, Kind.CONFLICT)}


def _follow(in_force: dict[ObjectKey, AppModel], announcement: Announcement) -> None:
    match announcement.kind, announcement.old, announcement.new:
        case "add", None, AppModel() as new:
            assert new.key not in in_force
            in_force[new.key] = new
        case "update", AppModel() as old, AppModel() as new:
            assert in_force[new.key] == old
            in_force[new.key] = new
        case "delete", AppModel() as old, None:
            assert in_force.pop(old.key) == old


@settings(max_examples=15, deadline=None)
@given(
    st.lists(appmodels(), max_size=8, unique_by=lambda item: item.key),
    st.lists(EVENTS, max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_fitting_objects_do_not_depend_on_the_order(
    items: list[AppModel], history: list[Event], shuffled: random.Random
) -> None:
    fresh = Index(room=SMALL)
    fresh.apply(Replaced("appmodels", tuple(items)))
    index = Index(room=SMALL)
    for event in history:
        index.apply(event)
    index.apply(Replaced("endpointslices", ()))
    index.apply(Replaced("appmodels", ()))
    for item in shuffled.sample(items, len(items)):
        index.apply(Changed("appmodels", item))
    assert dict(index.rows()) == dict(fresh.rows())


def test_freed_room_goes_to_the_next_oldest_object() -> None:
    index = Index(room=Room(routes=Share(PLENTY, 3, PLENTY)))
    old, young, other = appmodel("evil/a", "m1 m2 m3"), appmodel("evil/b", "m4", created="2027"), appmodel("ns/c", "m5")
    for item in (young, other, old):
        index.apply(Changed("appmodels", item))
    assert index.crowded == [Crowded("evil", "routes", 1)]
    rows = decoded(index.rows())
    assert {"m4", "m5"} & {name for kind, name in rows if kind == Kind.MODEL} == {"m5"}
    assert "may take" in rows[Kind.INVALID, "AppModel evil/b without room"].reason
    [gone, came] = index.apply(Deleted("appmodels", old.key))[::-1]
    assert (gone.kind, came.kind, came.new) == ("delete", "add", young)
    assert index.crowded == []
    rows = decoded(index.rows())
    assert (Kind.MODEL, "m4") in rows
    assert (Kind.INVALID, "AppModel evil/b without room") not in rows


def test_invalid_change_without_room_reports_that_nothing_is_served() -> None:
    index = Index(room=Room(routes=Share(1, 3, PLENTY)))
    index.apply(Changed("appmodels", appmodel("evil/a", "m1")))
    index.apply(Changed("appmodels", appmodel("evil/b", "m2", created="2027")))
    index.apply(Changed("appmodels", invalid("evil/b")))
    assert decoded(index.rows())[Kind.INVALID, "AppModel evil/b"].last_good is False
    index.apply(Deleted("appmodels", ObjectKey("evil", "a")))
    assert decoded(index.rows())[Kind.INVALID, "AppModel evil/b"].last_good is True


@pytest.mark.parametrize("crowd", [20, 2_000])
def test_changes_without_room_cost_the_same_for_any_number(crowd: int) -> None:
    index = Index(room=Room(routes=Share(10, PLENTY, PLENTY)))
    many = tuple(appmodel(f"evil/a{number:05}", f"m{number}", created="2027") for number in range(crowd))
    index.apply(Replaced("appmodels", many))
    index.take_changes()
    old = appmodel("evil/old", "m0", created=EARLY)
    added = calls_of(lambda: (index.apply(Changed("appmodels", old)), index.take_changes()))
    young = appmodel("evil/young", "m0", created="2028")
    refused = calls_of(lambda: (index.apply(Changed("appmodels", young)), index.take_changes()))
    removed = calls_of(lambda: (index.apply(Deleted("appmodels", old.key)), index.take_changes()))
    assert max(added, refused, removed) < 500, (added, refused, removed)


def test_the_weight_of_an_appmodel_is_never_less_than_its_rows() -> None:
    for item in (
        appmodel("ns/a", "m"),
        appmodel("ns/app", " ".join(f"model-{n}=version-{n}" for n in range(100)), app="another"),
        appmodel("n" * 63 + "/" + "a" * 253, " ".join("€" * 200 + str(n) for n in range(20)), version="v" * 253),
    ):
        index = Index(room=Room(routes=Share(PLENTY, PLENTY, PLENTY)))
        index.apply(Changed("appmodels", item))
        size = sum(16 + 16 + 8 + len(key.encode()) + len(row) for (_, key), row in index.rows())
        assert size <= index._appmodels.shares._namespaces[item.key.namespace].taken.bytes


def test_a_tenant_cannot_grow_the_row_of_anothers_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmroute.tables.models.MAX_FOREIGN_APPMODELS", 3)
    monkeypatch.setattr("shmroute.tables.models.MAX_FOREIGN_MODELS", 4)
    index = Index()
    mine = [appmodel(f"ns/a{n}", f"mine{n}", app="shop") for n in range(6)]
    theirs = [appmodel(f"evil/a{n}", f"x{n} y{n}", app="shop", created="2027") for n in range(9)]
    for item in (*theirs, *mine):
        index.apply(Changed("appmodels", item))
    rows = decoded(index.rows())
    named = [f"{app.namespace}/{app.appmodel}" for app in rows[Kind.APP, "shop"]]
    assert named == [*(f"ns/a{n}" for n in range(6)), "evil/a0", "evil/a1"]
    assert "7 of the younger ones are left out" in rows[Kind.INVALID, "App shop"].reason
    assert (Kind.MODEL, "x8") in rows, "their models are served all the same"
    assert dict(index.rows()) == index.take_changes()
    for item in theirs[2:]:
        index.apply(Deleted("appmodels", item.key))
    assert index.take_changes()[Kind.INVALID, "App shop"] is None


def test_an_app_row_stays_within_the_size_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmroute.tables.models.MAX_APP_MODELS", 5)
    index = Index()
    for n in range(4):
        index.apply(Changed("appmodels", appmodel(f"ns/a{n}", f"x{n} y{n}", app="shop")))
    rows = decoded(index.rows())
    assert len(rows[Kind.APP, "shop"]) == 2
    assert "2 of the younger ones" in rows[Kind.INVALID, "App shop"].reason


def test_addresses_over_the_size_of_a_row_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmroute.tables.endpoints.MAX_ROW_BYTES", 200)
    index = Index()
    index.apply(Changed("appmodels", appmodel("ns/a", "m")))
    many = [f"10.0.0.{n}" for n in range(20)]
    index.apply(Changed("endpointslices", endpointslice("ns/s", *many, service="a")))
    rows = decoded(index.rows())
    assert rows[Kind.ENDPOINTS, "ns/a"].detail == "too many addresses"
    assert "20 addresses" in rows[Kind.INVALID, "Port ns/a"].reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SPACES, NAMES, st.sampled_from([None, b"1", b"2"])), max_size=40))
def test_the_first_reasons_of_a_namespace_are_listed_and_the_rest_counted(
    steps: list[tuple[str, str, bytes | None]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shmroute.tables.problems.MAX_LISTED", 2)
        problems, there, published = Problems(), {}, {}
        for space, name, row in steps:
            key = f"{space} {name}"
            there.update({key: row}) if row else there.pop(key, None)
            problems.set(space, key, row)
            for (_, changed), value in problems.take_changes():
                published.update({changed: value}) if value else published.pop(changed)
    expected: dict[str, bytes] = {}
    for space in ("east", "west"):
        mine = sorted(key for key in there if key.startswith(space))
        expected |= {key: there[key] for key in mine[:2]}
        rest = published.pop(f"Namespace {space}", None)
        assert (rest is not None) == (len(mine) > 2)
        if rest is not None:
            assert msgspec.msgpack.decode(rest, type=InvalidRow).reason.startswith(f"{len(mine) - 2} more")
    assert published == expected
    assert len(problems) == len(there)
    assert MAX_LISTED == 1_000
