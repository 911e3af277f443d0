"""`Table`: look-ups, indexes, iteration and changes over real shared memory."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import os
import pickle
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import shmroute
from shmroute import (
    App,
    AreaUnreadable,
    Endpoint,
    NotReady,
    Reader,
    Route,
    SnapshotExpired,
    TableNotFound,
    TableNotReady,
    TableValueError,
)
from shmroute.resources.key import ObjectKey
from shmroute.resources.table import TableKind, watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.resources.table_parser import TableObject
from shmroute.rows import Kind, encode, index_value
from shmroute.shm import posix
from shmroute.shm.layout import GENERATION_AT, RECORD_BYTES
from shmroute.shm.names import control_name
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import Changed, Deleted, Replaced
from shmroute.tables import Index
from shmroute.worker import table_view
from shmroute.worker.table_changes import TableChange, TableReset
from shmroute.worker.table_view import endpoints_ready
from tests.routing import NAMESPACE, RoutesArea, endpoint, route
from tests.shm.ground import poke


class Tenant(msgspec.Struct):
    quota: int
    region: str = ""


class Given:
    """A table `tenants` in an area, written by the test."""

    def __init__(self, area: str, **fields: Any) -> None:
        self.area = area
        self.publisher = Publisher(area)
        self.kind = self.declare(**fields)

    def declare(self, **fields: Any) -> TableKind:
        """Declare or redefine the table, which is then not ready."""
        definition = TableDefinition(resource="tenants.v1.iidp.com", index={"region": ".region"}, **fields)
        (self.kind,) = watch_tables({"tenants": definition}, several_namespaces=False)
        self.index = Index(kinds=[self.kind])
        self.publish()
        return self.kind

    def publish(self) -> None:
        self.publisher.publish(self.index.take_changes())

    def made(self, name: str, value: object) -> TableObject:
        region = value.get("region") if isinstance(value, dict) else None
        entry = index_value("region", region)
        return TableObject(ObjectKey("", name), "", "1", name, encode(value), (entry,) if entry else ())

    def replace(self, **values: object) -> None:
        self.index.apply(Replaced("tenants", tuple(self.made(name, value) for name, value in values.items())))
        self.publish()

    def put(self, name: str, value: object) -> None:
        self.index.apply(Changed("tenants", self.made(name, value)))
        self.publish()

    def delete(self, name: str) -> None:
        self.index.apply(Deleted("tenants", ObjectKey("", name)))
        self.publish()


@pytest.fixture
def given(area: str) -> Iterator[Given]:
    made = Given(area)
    yield made
    made.publisher.close()


@pytest.fixture
def reader(area: str) -> Iterator[Reader]:
    with Reader(area) as made:
        yield made


ACME, UMBRELLA = {"quota": 3, "region": "eu"}, {"quota": 1, "region": "us"}
WAIT_SECONDS = 60.0


def test_a_table_is_a_mapping_of_typed_values(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, umbrella=UMBRELLA)
    tenants = reader.table("tenants", Tenant)
    assert tenants["acme"] == Tenant(3, "eu")
    assert tenants["acme"] is tenants["acme"]
    assert dict(tenants) == {"acme": Tenant(3, "eu"), "umbrella": Tenant(1, "us")}
    assert set(tenants) == set(tenants.keys()) == {"acme", "umbrella"}
    assert len(tenants) == 2
    assert "acme" in tenants
    assert "nobody" not in tenants
    assert 5 not in tenants  # type: ignore[comparison-overlap]
    assert tenants.get("nobody") is None
    assert tenants.get("nobody", 7) == 7
    with pytest.raises(KeyError):
        tenants["nobody"]
    with pytest.raises(KeyError):
        tenants[5]  # type: ignore[index]
    assert min(tenants.values(), key=lambda each: each.quota).region == "us"
    assert "'tenants'" in repr(tenants)


def test_a_change_is_seen_and_other_values_stay_decoded(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, umbrella=UMBRELLA)
    tenants = reader.table("tenants", Tenant)
    acme, umbrella = tenants["acme"], tenants["umbrella"]
    given.put("acme", {"quota": 4, "region": "eu"})
    assert tenants["acme"].quota == 4
    assert tenants["umbrella"] is umbrella
    assert acme.quota == 3
    given.delete("acme")
    assert "acme" not in tenants
    with pytest.raises(KeyError):
        tenants["acme"]
    assert len(tenants) == 1


def test_values_are_found_by_an_index(given: Given, reader: Reader) -> None:
    rows = {f"t{number:03}": {"quota": number, "region": "eu" if number % 3 else "us"} for number in range(200)}
    given.replace(**rows)
    tenants = reader.table("tenants", Tenant)
    assert tenants.keys_by("region", "us") == tuple(sorted(key for key, row in rows.items() if row["region"] == "us"))
    assert [each.quota for each in tenants.by("region", "us")] == list(range(0, 200, 3))
    assert tenants.by("region", "mars") == ()
    given.put("t000", {"quota": 0, "region": "mars"})
    assert tenants.keys_by("region", "mars") == ("t000",)
    assert "t000" not in tenants.keys_by("region", "us")
    with pytest.raises(KeyError, match="no index 'nothing'; it has region"):
        tenants.by("nothing", 1)
    with pytest.raises(TypeError, match="not NoneType"):
        tenants.by("region", None)  # type: ignore[arg-type]


def test_values_found_by_an_index_stay_decoded_until_they_change(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, euro=ACME, umbrella=UMBRELLA)
    tenants = reader.table("tenants", Tenant)
    first = tenants.by("region", "eu")
    assert first == (Tenant(3, "eu"), Tenant(3, "eu"))
    for number in range(3):
        given.put("umbrella", {"quota": number, "region": "us"})
        given.put("acme", {"quota": number, "region": "eu"})
        assert [each.quota for each in tenants.by("region", "eu")] == [number, 3]
        assert tenants.by("region", "eu")[1] is first[1] is tenants["euro"]
    given.put("euro", UMBRELLA)
    assert tenants.by("region", "eu") == (Tenant(2, "eu"),)
    before = len(reader._position.parts._kept)
    for number in range(1000):
        assert tenants.by("region", f"made-up-{number}") == ()
    assert len(reader._position.parts._kept) == before


def test_a_table_is_not_ready_before_its_first_complete_list_and_never_empty(given: Given, reader: Reader) -> None:
    tenants = reader.table("tenants", Tenant)
    assert not tenants.ready
    for read in (lambda: tenants["a"], lambda: len(tenants), lambda: list(tenants), lambda: tenants.by("region", "eu")):
        with pytest.raises(TableNotReady):
            read()
    with pytest.raises(NotReady):
        tenants.wait_ready(0.01)
    given.replace()
    assert tenants.ready
    assert len(tenants) == 0
    assert dict(tenants) == {}
    tenants.wait_ready(0)


def test_an_area_without_the_table_raises_table_not_found(given: Given, reader: Reader) -> None:
    with pytest.raises(TableNotFound, match="has no table 'nothing'"):
        reader.table("nothing")["a"]
    assert not reader.table("nothing").ready


def test_a_value_that_does_not_fit_is_an_error_and_others_are_served(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, broken={"quota": "many"})
    tenants = reader.table("tenants", Tenant)
    assert tenants["acme"].quota == 3
    with pytest.raises(TableValueError, match=r"table 'tenants': the value of 'broken'.*quota"):
        tenants["broken"]
    assert reader.table("tenants")["broken"] == {"quota": "many"}


@dataclasses.dataclass
class Plain:
    quota: int
    region: str = ""


def test_a_table_read_with_two_types_keeps_them_apart(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    assert reader.table("tenants", Plain)["acme"] == Plain(3, "eu")
    assert reader.table("tenants", Tenant)["acme"] == Tenant(3, "eu")
    assert reader.table("tenants")["acme"] == ACME


def test_a_redefined_table_is_switched_in_one_generation(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    tenants = reader.table("tenants", Tenant)
    assert tenants["acme"].quota == 3
    given.declare(value=".spec")
    for _ in range(2):
        with pytest.raises(TableNotReady):
            tenants["acme"]
    assert not tenants.ready
    given.replace(acme={"quota": 9})
    assert tenants["acme"].quota == 9
    assert len(tenants) == 1


def test_rows_of_other_tables_stay_decoded_when_one_changes(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, umbrella=UMBRELLA)
    tenants, plain = reader.table("tenants", Tenant), reader.table("tenants")
    kept = tenants["umbrella"], plain["umbrella"]
    for number in range(3):
        given.publisher.publish({(Kind.MODEL, f"m{number}"): b"x"})
        given.put("acme", {"quota": number})
        given.put(f"new-{number}", ACME)  # the table's own row changes with their number
        assert (tenants["acme"].quota, plain["acme"]) == (number, {"quota": number})
        assert (tenants["umbrella"], plain["umbrella"]) == kept
        assert tenants["umbrella"] is kept[0]
        assert plain["umbrella"] is kept[1]


@pytest.mark.usefixtures("small_segments")
def test_values_are_decoded_anew_after_their_memory_was_reused(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    tenants = reader.table("tenants", Tenant)
    assert tenants["acme"].quota == 3
    with pytest.raises(KeyError):
        tenants["late"]
    behind = reader._position.snapshot()
    given.put("acme", {"quota": 8})
    while not behind.expired:
        given.put("late", {"quota": given.publisher.generation})
    assert (tenants["acme"].quota, tenants["late"].quota) == (8, given.publisher.generation - 1)
    behind = reader._position.snapshot()
    given.declare(value=".spec")
    while not behind.expired:
        given.publisher.publish({(Kind.MODEL, "m"): b"%d" % given.publisher.generation})
    reader._position.newest()
    with pytest.raises(TableNotReady):
        tenants["acme"]


def test_a_table_outlives_its_reader_and_is_collected_with_its_values(given: Given, area: str) -> None:
    given.replace(acme=ACME)
    tenants = Reader(area).table("tenants", Tenant)
    gc.collect()
    for quota in range(3):
        given.put("acme", {"quota": quota})
        assert tenants["acme"].quota == quota
    position, gone = tenants._position, weakref.ref(tenants)
    del tenants
    gc.collect()
    assert gone() is None
    position.newest()
    given.put("acme", ACME)
    position.newest()
    assert not position._tables


def test_the_same_table_is_given_for_the_same_arguments(given: Given, reader: Reader) -> None:
    assert reader.table("tenants", Tenant) is reader.table("tenants", Tenant)
    assert reader.table("tenants") is not reader.table("tenants", Tenant)
    for number in range(1000):
        reader.table(f"made-up-{number}")
    assert len(reader._tables) <= 256


def test_no_byte_of_a_tables_record_can_be_damaged_unnoticed(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, other=UMBRELLA)
    tenants = reader.table("tenants")
    assert tenants["acme"] == ACME
    assert reader._position.current is not None
    shared = posix.attach(reader._position.current.segment.name, write=True)
    value = encode(ACME)
    at = shared.find(value) - RECORD_BYTES
    refused = 0
    for offset in range(at, at + RECORD_BYTES + len(value)):
        shared[offset] ^= 1
        tenants._drop("acme")
        try:
            assert tenants["acme"] == ACME
        except AreaUnreadable:
            refused += 1
        shared[offset] ^= 1
    tenants._drop("acme")
    assert tenants["acme"] == ACME
    assert refused == RECORD_BYTES + len(value)
    shared.close()


def test_a_look_up_while_decoding_leaves_no_old_value(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)

    class Restless(msgspec.Struct):
        quota: int
        region: str = ""

        def __post_init__(self) -> None:
            if interrupt:
                interrupt.pop()
                given.put("acme", {"quota": 9})
                assert reader.generation == given.publisher.generation  # as a signal handler may

    interrupt = [True]
    tenants = reader.table("tenants", Restless)
    reader.attach()
    assert tenants["acme"].quota in (3, 9)
    assert tenants["acme"].quota == 9


def test_a_table_answers_from_its_generation_while_newer_ones_cannot_be_read(
    given: Given, reader: Reader, area: str
) -> None:
    given.replace(acme=ACME, umbrella=UMBRELLA)
    tenants = reader.table("tenants", Tenant)
    acme = tenants["acme"]
    word = bytes(reader._position.newest().control.buffer[GENERATION_AT : GENERATION_AT + 8])
    poke(control_name(area), GENERATION_AT, b"\xff" * 8)
    for _ in range(2):
        assert tenants["acme"] is acme
        assert tenants["umbrella"].quota == 1, "also what was not decoded yet"
        assert tenants.by("region", "eu") == (acme,)
        assert isinstance(reader.fault, AreaUnreadable)
    poke(control_name(area), GENERATION_AT, word)
    given.put("acme", {"quota": 5})
    assert tenants["acme"].quota == 5
    assert reader.fault is None


def test_a_table_follows_its_recreated_area(given: Given, reader: Reader, area: str) -> None:
    given.replace(acme=ACME)
    tenants = reader.table("tenants", Tenant)
    assert tenants["acme"].quota == 3
    given.publisher.close(remove=True)
    assert tenants["acme"].quota == 3
    again = Given(area, value=".other")
    try:
        again.replace(umbrella=UMBRELLA)
        reader._position._retry_ns = 1  # as once the second has passed after which a reader looks for a new area
        assert list(tenants) == ["umbrella"]
        with pytest.raises(KeyError):
            tenants["acme"]
        assert tenants["umbrella"].quota == 1
    finally:
        again.publisher.close()


def test_children_forked_during_look_ups_of_a_table_look_up_too(given: Given, reader: Reader) -> None:
    given.replace(**{f"t{number}": {"quota": number} for number in range(50)})
    tenants = reader.table("tenants", Tenant)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for number in range(50):
                assert tenants[f"t{number}"].quota >= number
            given.put("t7", {"quota": 1000 + given.publisher.generation})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if not child:
                os._exit(0 if tenants["t7"].quota >= 7 and len(tenants) == 50 and tenants["t49"].quota == 49 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join(WAIT_SECONDS)


def test_threads_never_see_a_table_change_undone(given: Given, reader: Reader) -> None:
    keys = [f"t{number}" for number in range(20)]
    given.replace(**{key: {"quota": 0} for key in keys})
    tenants = reader.table("tenants", Tenant)
    stamps: dict[int, int] = {}
    failures: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for key in keys:
                at_least = stamps.get(reader.generation, 0)
                if (quota := tenants[key].quota) < at_least:
                    failures.append(f"{key}: {quota} after {at_least}")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for stamp in range(1, 150):
        rows = {(given.kind.feeds, key): encode({"quota": stamp}) for key in keys}
        stamps[given.publisher.publish(rows)] = stamp
    done.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert failures == []
    assert {tenants[key].quota for key in keys} == {149}


def test_large_values_are_not_copied_before_they_are_read(given: Given, reader: Reader) -> None:
    large = 1_500_000
    rows = {f"big-{number}": {"quota": number, "region": "eu", "data": "x" * large} for number in range(4)}
    given.replace(small=ACME, **rows)
    tenants = reader.table("tenants", Tenant)
    assert tenants["small"].quota == 3
    tracemalloc.start()
    try:
        assert len(tenants) == 5
        assert set(tenants) == {"small", *rows}
        assert "big-1" in tenants
        assert "nobody" not in tenants
        assert tenants.get("nobody") is None
        assert tenants.get("small") == Tenant(3, "eu")
        assert tenants.keys_by("region", "eu") == ("big-0", "big-1", "big-2", "big-3", "small")
        assert tracemalloc.get_traced_memory()[1] < large / 10
        assert tenants["big-2"].quota == 2
        assert tracemalloc.get_traced_memory()[1] < large * 1.2, "copied once"
    finally:
        tracemalloc.stop()


def test_table_changes_begin_with_all_rows_and_then_follow(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    tenants = reader.table("tenants", Tenant)
    changes = tenants.changes(timeout=0)
    first = next(changes)
    assert isinstance(first, TableReset)
    assert first.rows == {"acme": Tenant(3, "eu")}
    assert first.reason == "start"
    given.put("acme", UMBRELLA)
    given.put("new", ACME)
    given.delete("acme")
    found = [(each.kind, each.key, each.new) for each in changes if isinstance(each, TableChange)]
    assert found == [
        ("changed", "acme", Tenant(1, "us")),
        ("added", "new", Tenant(3, "eu")),
        ("removed", "acme", None),
    ]
    since = changes.generation
    given.put("later", ACME)
    (later,) = tenants.changes(since, timeout=0)
    assert isinstance(later, TableChange)
    assert later.key == "later"
    given.declare(value=".spec")
    given.replace(acme={"quota": 9})
    (redefined,) = [each for each in changes if isinstance(each, TableReset)]
    assert redefined.reason == "redefined"
    assert redefined.rows == {"acme": Tenant(9)}


def test_a_change_of_a_field_that_the_type_leaves_out_is_no_change(given: Given, reader: Reader) -> None:
    given.replace(acme={**ACME, "note": "old", "count": 1})
    typed = reader.table("tenants", Tenant).changes(timeout=0)
    plain = reader.table("tenants").changes(timeout=0)
    next(typed), next(plain)
    given.put("acme", {**ACME, "note": "new", "count": 1})
    given.put("acme", {**ACME, "note": "new", "count": True})
    assert list(typed) == []
    found = [(each.old, each.new) for each in plain if isinstance(each, TableChange)]
    assert [(old["note"], repr(new["count"])) for old, new in found if old and new] == [("old", "1"), ("new", "True")]


def test_table_changes_can_be_awaited_by_async_for(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)

    async def follow() -> list[Any]:
        changes = reader.table("tenants", Tenant).achanges(timeout=0)
        found = [each async for each in changes]
        given.put("acme", UMBRELLA)
        return found + [each async for each in changes]

    reset, change = asyncio.run(follow())
    assert reset.rows == {"acme": Tenant(3, "eu")}
    assert (change.kind, change.old, change.new) == ("changed", Tenant(3, "eu"), Tenant(1, "us"))


def test_a_forked_child_reads_the_table_too(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    tenants = reader.table("tenants", Tenant)
    assert tenants["acme"].quota == 3
    child = os.fork()
    if not child:
        os._exit(0 if tenants["acme"].quota == 3 and tenants.keys_by("region", "eu") == ("acme",) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_default_readers_table_reads_the_area_of_the_environment(
    given: Given, area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given.replace(acme=ACME)
    monkeypatch.setenv("SHMROUTE_AREA", area)
    shmroute.worker.default.use_area(None)
    try:
        assert shmroute.table("tenants", Tenant)["acme"].quota == 3
    finally:
        shmroute.worker.default.use_area(None)


@pytest.mark.parametrize(
    "error",
    [TableNotReady("t", "a"), TableNotFound("t", "a"), TableValueError("t", "k", "why")],
    ids=lambda e: type(e).__name__,
)
def test_errors_of_tables_pass_through_pickle(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


# --- built-in tables -----------------------------------------------------------------------------------------


@pytest.fixture
def routes(area: str) -> Iterator[RoutesArea]:
    with RoutesArea(area) as made:
        yield made


def app(name: str, version: str = "v1") -> App:
    return App(name, version, NAMESPACE, name, f"{NAMESPACE}/{name}", (("model", "v1"),))


def test_the_built_in_tables_show_what_resolve_reads(routes: RoutesArea, reader: Reader) -> None:
    routes.publish(route("model", "iiot"), route("other", "iiot"))
    routes.apps(app("iiot"), app("iiot", "v0"))
    ready, gone = endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80", ready=False)
    routes.endpoints("iiot", ready, gone)
    models, apps, endpoints = reader.table("models"), reader.table("apps"), reader.table("endpoints")
    assert models["model"] is reader.resolve("model"), "decoded once"
    assert dict(models) == reader.models()
    assert dict(apps) == reader.apps() == {"iiot": app("iiot")}
    assert dict(endpoints) == {"ns/iiot": (Endpoint("10.0.0.1", 80),)}
    assert endpoints["ns/iiot"] == models["model"].endpoints
    assert (len(models), len(apps), len(endpoints)) == (2, 1, 1)
    assert set(models.keys()) == {"model", "other"}
    assert ("model" in models, "nobody" in models) == (True, False)
    for each in (models, apps, endpoints):
        assert each.ready
        assert each.generation == reader.generation
        assert each.get("nobody") is None
        for key in ("nobody", 5, b"model", None):
            with pytest.raises(KeyError):
                each[key]  # type: ignore[index]
        with pytest.raises(TypeError, match="unhashable"):
            each[[]]  # type: ignore[index]
        with pytest.raises(KeyError, match="has no index 'app'; it has none"):
            each.by("app", "iiot")
        with pytest.raises(TypeError, match="is built in"):
            each.metadata("model")


def test_rows_of_built_in_tables_change_and_others_stay_decoded(routes: RoutesArea, reader: Reader) -> None:
    routes.publish(route("model", "iiot"), route("other", "iiot"))
    routes.apps(app("iiot"))
    routes.apps(app("still"))
    routes.endpoints("iiot", "10.0.0.1:80")
    models, apps, endpoints = reader.table("models"), reader.table("apps"), reader.table("endpoints")
    kept = models["other"], apps["still"]
    for number in range(3):
        routes.route("model", "iiot", f"v{number}")
        routes.apps(app("iiot", f"v{number}"))
        routes.endpoints("iiot", f"10.0.0.{number}:80")
        assert (models["model"].version, apps["iiot"].version) == (f"v{number}", f"v{number}")
        assert endpoints["ns/iiot"][0].host == f"10.0.0.{number}"
        assert (models["other"] is kept[0], apps["still"] is kept[1]) == (True, True)
    routes.remove("model")
    assert ("model" in models, models.get("model")) == (False, None)


def test_a_built_in_table_accepts_only_its_own_type(reader: Reader) -> None:
    assert reader.table("models", Route) is reader.table("models")
    assert reader.table("apps", App) is reader.table("apps")
    assert reader.table("endpoints", tuple[Endpoint, ...]) is reader.table("endpoints")
    for name, words in (("models", "Route"), ("apps", "App"), ("endpoints", r"tuple\[Endpoint, \.\.\.\]")):
        with pytest.raises(TypeError, match=f"table '{name}' is built in, and its values are {words}: name that type"):
            reader.table(name, Tenant)


def test_endpoints_are_not_ready_before_the_slices_have_been_listed(routes: RoutesArea, reader: Reader) -> None:
    models, endpoints = reader.table("models"), reader.table("endpoints")
    assert not models.ready
    with pytest.raises(NotReady):
        models["model"]
    routes.route("model", "iiot")
    routes.apps(app("iiot"))
    models.wait_ready(0)
    assert not endpoints.ready
    for read in (lambda: endpoints["ns/iiot"], lambda: len(endpoints), lambda: list(endpoints)):
        with pytest.raises(TableNotReady):
            read()
    assert list(endpoints.changes(timeout=0)) == [], "they wait too"
    with pytest.raises(TableNotReady, match="'endpoints'"), reader.snapshot() as now:
        now.table("endpoints")
    routes.endpoints("iiot")
    assert endpoints["ns/iiot"] == ()
    endpoints.wait_ready(0)


def test_endpoints_are_looked_for_again_when_their_generation_is_overwritten(
    routes: RoutesArea, reader: Reader, area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes.endpoints("iiot", "10.0.0.1:80")
    expired = [SnapshotExpired(area, 1)]

    def ready(rows: RowReader) -> bool:
        if expired:
            raise expired.pop()
        return endpoints_ready(rows)

    monkeypatch.setattr(table_view, "endpoints_ready", ready)
    assert dict(reader.table("endpoints")) == {"ns/iiot": (Endpoint("10.0.0.1", 80),)}
    assert not expired


def test_the_age_of_built_in_tables_is_that_of_the_routes(routes: RoutesArea, reader: Reader) -> None:
    models = reader.table("models")
    assert models.age == float("inf")
    routes.route("model")
    routes.in_step(7.0)
    assert 7.0 <= models.age <= reader.age < 60.0


def test_changes_of_built_in_tables_begin_with_all_rows_and_follow(routes: RoutesArea, reader: Reader) -> None:
    routes.route("model", "iiot")
    routes.apps(app("iiot"))
    routes.endpoints("iiot", "10.0.0.1:80")
    every = [reader.table(name).changes(timeout=0) for name in ("models", "apps", "endpoints")]
    first = [next(changes) for changes in every]
    assert [each.rows for each in first if isinstance(each, TableReset)] == [
        {"model": route("model", "iiot")},
        {"iiot": app("iiot")},
        {"ns/iiot": (Endpoint("10.0.0.1", 80),)},
    ]
    routes.route("model", "iiot", "v2")
    routes.apps(app("iiot", "v2"))
    routes.endpoints("iiot", "10.0.0.2:80")
    routes.remove("model")
    found = [
        [(each.kind, each.key, each.new) for each in changes if isinstance(each, TableChange)] for changes in every
    ]
    assert found == [
        [("changed", "model", route("model", "iiot", "v2")), ("removed", "model", None)],
        [("changed", "iiot", app("iiot", "v2"))],
        [("changed", "ns/iiot", (Endpoint("10.0.0.2", 80),))],
    ]


def test_a_row_that_changes_in_what_its_value_does_not_show_is_no_change(routes: RoutesArea, reader: Reader) -> None:
    routes.route("model", "iiot")
    routes.apps(app("iiot"))
    routes.endpoints("iiot", "10.0.0.1:80")
    endpoints, apps = reader.table("endpoints").changes(timeout=0), reader.table("apps").changes(timeout=0)
    next(endpoints), next(apps)
    routes.endpoints("iiot", endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80", ready=False))
    routes.apps(app("iiot"), app("iiot", "v0"))
    assert not list(endpoints)
    assert not list(apps)
    routes.endpoints("iiot", "10.0.0.1:80", "10.0.0.2:80")
    routes.apps(app("iiot", "v0"))
    both = (Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80))
    (change,) = endpoints
    assert isinstance(change, TableChange)
    assert (change.old, change.new) == (both[:1], both)
    (other,) = apps
    assert isinstance(other, TableChange)
    assert (other.old, other.new) == (app("iiot"), app("iiot", "v0"))


def test_a_snapshot_has_the_built_in_tables_of_its_generation(routes: RoutesArea, reader: Reader) -> None:
    routes.publish(route("model", "iiot"))
    routes.apps(app("iiot"))
    routes.endpoints("iiot", "10.0.0.1:80")
    routes.metadata("model", {"unit": "bar"}, app="iiot")
    with reader.snapshot() as now:
        routes.route("model", "later")
        routes.endpoints("iiot", "10.0.0.2:80")
        routes.apps(app("later"))
        models = now.table("models", Route)
        assert models["model"] is now.resolve("model")
        assert (models["model"].app, models["model"].metadata) == ("iiot", {"unit": "bar"})
        assert dict(now.table("apps")) == {"iiot": app("iiot")}
        assert now.table("endpoints")["ns/iiot"] == (Endpoint("10.0.0.1", 80),)
        assert (len(models), list(models.values())) == (1, [route("model", "iiot")])
        with pytest.raises(TypeError, match="is built in"):
            now.table("apps", Tenant)
    assert reader.table("models")["model"].app == "later"


def test_a_table_name_that_is_not_a_str_is_refused(reader: Reader) -> None:
    for name in (b"tenants", None, 5):
        with pytest.raises(TypeError, match=r"a table's name is a str, not (bytes|NoneType|int)"):
            reader.table(name)  # type: ignore[call-overload]


# --- wrong uses ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ample_scans")
def test_a_table_that_does_not_exist_is_answered_with_similar_names(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    for name, meant in (("tenant", "'tenants'"), ("Tenants", "'tenants'"), ("endpoint", "'endpoints'")):
        with pytest.raises(TableNotFound, match=f"has no table '{name}'.*; did you mean {meant}"):
            reader.table(name)["acme"]
    with pytest.raises(TableNotFound) as raised:
        len(reader.table("wholly-different"))
    assert "did you mean" not in str(raised.value)
    with pytest.raises(TableNotFound, match="did you mean 'tenants'"):
        reader.snapshot().table("tenant")


@pytest.mark.parametrize(
    "key",
    [b"acme", None, 5, ("acme",), "\udcff", "a\0b", "", "k" * 70_000, float("nan")],
    ids=["bytes", "None", "int", "tuple", "surrogate", "NUL", "empty", "long", "NaN"],
)
def test_a_key_that_no_row_can_have_is_absent_in_every_method(given: Given, reader: Reader, key: Any) -> None:
    given.replace(acme=ACME)
    for tenants in (reader.table("tenants", Tenant), reader.snapshot().table("tenants", Tenant)):
        assert key not in tenants
        assert tenants.get(key, "absent") == "absent"
        for read in (tenants.__getitem__, tenants.metadata):
            with pytest.raises(KeyError):
                read(key)


def test_an_unhashable_key_is_refused_as_by_a_dict(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    key: Any = []
    for tenants in (reader.table("tenants"), reader.snapshot().table("tenants")):
        for read in (tenants.__getitem__, tenants.get, tenants.metadata):
            with pytest.raises(TypeError, match="unhashable"):
                read(key)


@pytest.mark.parametrize(
    "value",
    [10**5000, 2**1024, 2**70, float("inf"), float("nan"), "\udcff", "v" * 70_000],
    ids=["5,000 digits", "beyond a float", "beyond 64 bits", "infinite", "NaN", "surrogate", "long"],
)
def test_a_value_that_no_index_can_have_finds_nothing(given: Given, reader: Reader, value: Any) -> None:
    given.replace(acme=ACME)
    tenants = reader.table("tenants", Tenant)
    assert (tenants.keys_by("region", value), tenants.by("region", value)) == ((), ())


def test_a_table_can_be_neither_copied_nor_pickled(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME)
    for tenants in (reader.table("tenants"), reader.snapshot().table("tenants")):
        for make in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="table 'tenants' cannot be copied or pickled"):
                make(tenants)


def test_a_table_without_an_area_is_not_ready_and_infinitely_old(reader: Reader) -> None:
    for name in ("tenants", "models"):
        table = reader.table(name)
        assert (table.ready, table.age) == (False, float("inf"))
        for seconds in (0.0, -1.0, float("nan")):
            with pytest.raises(NotReady):
                table.wait_ready(seconds)


def test_an_open_iteration_shows_one_generation_while_the_table_is_redefined(given: Given, reader: Reader) -> None:
    given.replace(acme=ACME, umbrella=UMBRELLA)
    tenants, snapshot = reader.table("tenants"), reader.snapshot()
    keys, items, before = iter(tenants), iter(tenants.items()), snapshot.table("tenants")
    seen = {next(keys)}, [next(items)]
    given.declare(value=".spec")
    given.replace(other={"quota": 9})
    assert seen[0].union(keys) == {"acme", "umbrella"}
    assert dict([*seen[1], *items]) == {"acme": ACME, "umbrella": UMBRELLA}
    assert dict(before) == {"acme": ACME, "umbrella": UMBRELLA}
    assert (before.keys_by("region", "eu"), before["acme"]) == (("acme",), ACME)
    assert dict(tenants) == {"other": {"quota": 9}}
