"""The fast look-up of `resolve`: which rows it finds itself, when it asks the position, and that no old row stays."""

from __future__ import annotations

import gc
import inspect
import itertools
import pickle
import pydoc
import struct
import threading
import weakref
from collections.abc import Iterator

import msgspec
import pytest
from msgspec.structs import astuple

import shmroute
from shmroute import AreaUnreadable, ModelNotFound, Reader, Route
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState, Kind, encode
from shmroute.shm import posix
from shmroute.shm.layout import GENERATION_AT, RECORD_BYTES, hash_of
from shmroute.shm.reader import RowReader
from shmroute.shm.segment import Segment
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker import lookup
from tests.twins import NATIVE, decode_by, needs_native

WAIT_SECONDS = 20.0


def route(model: str, app: str = "app", **more: object) -> Route:
    return msgspec.structs.replace(Route(model, "v1", app, "v2", "ns", "am"), **more)


def rows(*routes: Route) -> dict[tuple[int, str], bytes | None]:
    return {(Kind.MODEL, each.model): encode(each._public()) for each in routes}


def segment_of(reader: Reader) -> Segment:
    rows = reader._position.current
    assert rows is not None
    return rows.segment


@pytest.fixture
def publisher(area: str) -> Iterator[Publisher]:
    with Publisher(area) as publisher:
        yield publisher


@pytest.fixture
def reader(publisher: Publisher) -> Iterator[Reader]:
    with Reader(publisher.area) as reader:
        yield reader


def test_a_superseded_row_is_read_in_its_newest_version(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a", "old"), route("b")))
    assert reader.resolve("a").app == "old"
    publisher.publish(rows(route("a", "new")))
    publisher.publish(rows(route("b", "newer")))
    assert (reader.resolve("a").app, reader.resolve("b").app) == ("new", "newer")


def test_a_value_too_long_for_the_quick_part_is_found(publisher: Publisher, reader: Reader) -> None:
    for length in (150, 200, 254, 255, 300, 70_000):
        long = route("x" * 20, "y" * length)
        publisher.publish(rows(long))
        assert reader.resolve(long.model) == long


def test_a_deleted_row_is_absent_until_published_again(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a"), route("b")))
    publisher.publish({(Kind.MODEL, "a"): None})
    with pytest.raises(ModelNotFound):
        reader.resolve("a")
    publisher.publish(rows(route("a", "again")))
    assert reader.resolve("a").app == "again"


def test_two_models_whose_names_share_a_hash_differ(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("first")))
    reader.attach()
    hash_key = segment_of(reader).header.hash_key
    known: dict[int, str] = {}
    names: tuple[str, str] | None = None
    for number in itertools.count():  # some 80,000 names, as many as birthdays ask for
        name = f"model-{number}"
        before = known.setdefault(hash_of(hash_key, Kind.MODEL, name.encode()), name)
        if before != name:
            names = before, name
            break
    assert names
    one, other = (route(name, f"app of {name}") for name in names)
    publisher.publish(rows(one))
    assert reader.resolve(one.model) == one
    with pytest.raises(ModelNotFound):
        reader.resolve(other.model)
    publisher.publish(rows(other))
    assert (reader.resolve(one.model), reader.resolve(other.model)) == (one, other)


def test_a_model_name_that_is_not_a_str_is_refused(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a")))
    reader.resolve("a")
    for wrong in (5, b"a", None, ("a",)):
        with pytest.raises(TypeError, match="a model's name is a str"):
            reader.resolve(wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelNotFound):
        reader.resolve("\udc80")


@pytest.mark.parametrize("flip", [1, 0x80])
def test_no_byte_of_a_record_can_be_damaged_unnoticed(publisher: Publisher, reader: Reader, flip: int) -> None:
    given = route("model", "an app")
    publisher.publish(rows(given, route("other")))
    value = encode(given._public())
    reader.attach()
    shared = posix.attach(segment_of(reader).name, write=True)
    at = shared.find(value) - RECORD_BYTES
    refused = 0
    for offset in range(at, at + RECORD_BYTES + len(value)):
        shared[offset] ^= flip
        reader.resolve("other")  # attaches, so that what follows goes the hot way
        try:
            assert reader.resolve("model") == given
        except AreaUnreadable:
            refused += 1
        shared[offset] ^= flip
        reader.close()
    assert reader.resolve("model") == given
    assert refused == RECORD_BYTES + len(value)
    shared.close()


def test_threads_never_read_a_row_of_an_older_generation(publisher: Publisher) -> None:
    names = [f"model-{number}" for number in range(50)]
    publisher.publish(rows(*(route(name, "0") for name in names)))
    stamps: dict[int, int] = {}
    failures: list[str] = []
    done = threading.Event()
    with Reader(publisher.area) as reader:

        def look() -> None:
            while not done.is_set():
                for name in names:
                    at_least = stamps.get(reader.generation, 0)
                    stamp = int(reader.resolve(name).app)
                    if stamp < at_least:
                        failures.append(f"{name}: {stamp} after {at_least}")

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for stamp in range(1, 300):
            stamps[publisher.publish(rows(*(route(name, str(stamp)) for name in names)))] = stamp
        done.set()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        assert {reader.resolve(name).app for name in names} == {"299"}
    assert failures == []


def test_a_full_memo_makes_room_and_never_holds_more_than_its_limit(publisher: Publisher) -> None:
    names = [f"model-{number}" for number in range(100)]
    publisher.publish(rows(*map(route, names)))
    with Reader(publisher.area, memo_rows=16) as reader:
        for name in names:
            assert reader.resolve(name).model == name
            assert len(reader._cache) <= 16


def test_a_row_evicted_from_the_memo_is_new_after_its_change(publisher: Publisher) -> None:
    names = [f"model-{number}" for number in range(5000)]  # more than the native twin has places for recent keys
    publisher.publish(rows(*(route(name, "old") for name in names)))
    with Reader(publisher.area, memo_rows=1000) as reader:
        for _ in range(2):  # the second time from the cache, those that are in it
            assert {reader.resolve(name).app for name in names[-1000:] + names} == {"old"}
            assert {reader.resolve(name).app for name in names[-500:] * 2} == {"old"}
        publisher.publish(rows(*(route(name, "new") for name in names)))
        for part in (names[-500:], names):
            assert {reader.resolve(name).app for name in part * 2} == {"new"}
        publisher.publish({(Kind.MODEL, name): None for name in names[-10:]})
        for name in names[-10:]:
            with pytest.raises(ModelNotFound):
                reader.resolve(name)


def test_keys_in_the_same_cache_slot_are_distinguished(publisher: Publisher, reader: Reader) -> None:
    places = 4096
    by_place: dict[int, list[str]] = {}
    for number in range(40_000):
        name = f"model-{number}"
        by_place.setdefault(hash(name) % places, []).append(name)
    crowded = max(by_place.values(), key=len)
    publisher.publish(rows(*(route(name, f"app of {name}") for name in crowded)))
    for _ in range(3):
        for name in crowded * 2:
            assert reader.resolve(name).app == f"app of {name}"


@needs_native
def test_first_touch_finds_the_row_as_it_was_in_its_generation(publisher: Publisher) -> None:
    """Newer records of the row lie after the end of the log, and link to the record before them."""
    assert NATIVE is not None
    table_kind = 16

    class Table(NATIVE.TableLookup):  # type: ignore[misc,name-defined]
        def _look_up(self, key: str) -> None: ...

    publisher.publish({(table_kind, "a"): b"first", (table_kind, "b"): b"b"})
    publisher.publish({(table_kind, "a"): b"second"})
    view = RowReader(publisher.area)
    publisher.publish({(table_kind, "a"): b"third", (table_kind, "late"): b"x"})
    publisher.publish({(table_kind, "a"): b"fourth", (table_kind, "b"): None})
    control = bytearray(view.control.buffer)
    struct.pack_into("<d", control, GENERATION_AT, float(view.generation))
    table = Table(table_kind, bytes, ValueError, 10)
    table._enable(control, view.segment.buffer, astuple(view.segment.header), view.end, float(view.generation))
    assert (table["a"], table["b"], table["late"]) == (b"second", b"b", None)


def test_a_look_up_in_a_signal_handler_leaves_no_old_row(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a", "old" * 100), route("b")))
    reader.attach()
    decode = reader._decode_route

    def interrupted(value: bytes) -> Route:
        publisher.publish(rows(route("a", "new" * 100)))
        assert reader.generation == 2  # as a signal's handler would, in the same thread
        return decode(value)

    decode_by(reader, interrupted)
    assert reader.resolve("a").app == "old" * 100
    decode_by(reader, decode)
    assert reader.resolve("a").app == "new" * 100


def test_routes_of_other_namespaces_know_their_reader_too(publisher: Publisher, reader: Reader) -> None:
    known = EndpointsRow("other/am", EndpointsState.KNOWN, (EndpointRow("10.0.0.1", 80, True, True, False),))
    publisher.publish(
        {
            **rows(route("a", others=(route("a", namespace="other"),))),
            (Kind.ENDPOINTS, "other/am"): encode(known),
        }
    )
    (other,) = reader.resolve("a").others
    assert str(other.pick()) == "10.0.0.1:80"
    assert reader.resolve("a", namespace="other") is other


def test_routes_of_a_collected_reader_use_another_one(publisher: Publisher) -> None:
    endpoint = EndpointRow("10.0.0.1", 80, True, True, False)
    known = EndpointsRow("ns/am", EndpointsState.KNOWN, (endpoint,))
    publisher.publish({**rows(route("a")), (Kind.ENDPOINTS, "ns/am"): encode(known)})
    reader = Reader(publisher.area)
    gone = weakref.ref(reader)
    held = reader.resolve("a")
    assert str(held.pick()) == "10.0.0.1:80"
    del reader
    gc.collect()
    assert gone() is None
    assert str(held.pick()) == "10.0.0.1:80"
    moved = msgspec.structs.replace(endpoint, host="10.0.0.2")
    publisher.publish({(Kind.ENDPOINTS, "ns/am"): encode(EndpointsRow("ns/am", EndpointsState.KNOWN, (moved,)))})
    assert {str(held.pick()) for _ in range(4)} == {"10.0.0.2:80"}


def test_resolve_can_be_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(shmroute.resolve)) == shmroute.resolve


def test_resolve_has_its_documented_help_and_signature() -> None:
    assert str(inspect.signature(shmroute.resolve)).startswith("(model")
    parameters = inspect.signature(shmroute.resolve).parameters
    assert [(each.name, each.kind.name) for each in parameters.values()] == [
        ("model", "POSITIONAL_OR_KEYWORD"),
        ("namespace", "KEYWORD_ONLY"),
        ("max_age", "KEYWORD_ONLY"),
    ]
    text = pydoc.plain(pydoc.render_doc(shmroute.resolve))
    for expected in ("resolve(model", "which app serves", "ModelNotFound", "NotReady", "StaleRoutes", "in seconds"):
        assert expected in text


@needs_native
def test_both_twins_document_resolve_in_the_same_words() -> None:
    assert NATIVE is not None
    assert inspect.getdoc(NATIVE.RouteLookup.resolve) == inspect.getdoc(lookup.PlainRouteLookup.resolve)


def test_options_of_resolve_are_keywords_only(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a")))
    for _ in range(2):
        with pytest.raises(TypeError):
            reader.resolve("a", "ns")  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            reader.resolve()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            reader.resolve("a", space="ns")  # type: ignore[call-arg]
        assert reader.resolve(model="a") == reader.resolve("a", namespace="ns") == route("a")


def test_reader_offers_no_internals_for_completion() -> None:
    public = {name for name in dir(Reader()) if not name.startswith("_")}
    assert public == {
        "achanges", "age", "app", "apps", "area", "attach", "changes", "close", "fault", "generation", "get", "misses",
        "models", "resolve", "snapshot", "stale", "synced", "table", "wait_ready",
    }  # fmt: skip
