"""The hot path of `resolve`: what it answers by itself, what it leaves to the slow way, and that no old row stays."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from zlib import crc32

import msgspec
import pytest

import shmroute
from shmroute import AreaUnreadable, ModelNotFound, Reader, Route
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState, Kind, encode
from shmroute.shm import memory
from shmroute.shm.layout import CELL_KIND, CELLS_PER_ROW, MAX_CELLS_PASSED, QUICK_READ
from shmroute.shm.publisher import Publisher
from shmroute.shm.reader import RowReader
from shmroute.worker.lookup import HotPath

WAIT_SECONDS = 20.0

SAME_HASH = ("model_hxcmqurip", "model_oxexryexh")
"""Two names with the same `crc32(name, Kind.MODEL)`."""


def route(model: str, app: str = "app", **more: object) -> Route:
    return msgspec.structs.replace(Route(model, "v1", app, "v2", "ns", "am"), **more)


def rows(*routes: Route) -> dict[tuple[int, str], bytes | None]:
    return {(Kind.MODEL, each.model): encode(each._public()) for each in routes}


@pytest.fixture
def publisher(area: str) -> Iterator[Publisher]:
    with Publisher(area) as publisher:
        yield publisher


@pytest.fixture
def reader(publisher: Publisher) -> Iterator[Reader]:
    with Reader(publisher.area) as reader:
        yield reader


def slow_ways(reader: Reader) -> Callable[[], int]:
    """Counts how often `resolve` leaves it to `look_up` from now on."""
    count = 0
    look_up = reader.look_up

    def counted(model: str, namespace: str | None, max_age: float | None) -> Route:
        nonlocal count
        count += 1
        return look_up(model, namespace, max_age)

    reader._hot._names["look_up"] = counted
    return lambda: count


def test_a_first_touch_waits_for_no_lock(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a"), route("b")))
    reader.resolve("a")
    found: list[Route] = []
    with reader.lock:
        thread = threading.Thread(target=lambda: found.append(reader.resolve("b")), daemon=True)
        thread.start()
        thread.join(WAIT_SECONDS)
        assert found == [route("b")]
    assert reader.resolve("b") is found[0]


def test_plain_rows_never_go_the_slow_way_wherever_their_slots_are(publisher: Publisher, reader: Reader) -> None:
    given = [route(f"model-{number}", f"app-{number}") for number in range(2000)]
    publisher.publish(rows(route("first")))
    publisher.publish(rows(*given))
    reader.resolve("first")
    slow = slow_ways(reader)
    assert [reader.resolve(each.model) for each in given] == given
    wrapped = 2  # of all rows, those displaced beyond the last slot
    assert slow() <= wrapped


def elsewhere(reader: Reader) -> list[str]:
    """The models that `resolve` does not find in a cell from now on."""
    asked: list[str] = []
    touch = reader._hot._names["touch"]

    def told(model: str) -> Route:
        asked.append(model)
        found: Route = touch(model)
        return found

    reader._hot._names["touch"] = told
    return asked


def test_rows_of_the_base_lie_in_cells_but_for_a_few(publisher: Publisher, reader: Reader) -> None:
    given = [route(f"model-{number}") for number in range(2000)]
    publisher.publish(rows(*given))
    reader.attach()
    asked = elsewhere(reader)
    assert [reader.resolve(each.model) for each in given] == given
    assert len(asked) <= 10


def test_a_row_whose_cells_are_all_taken_is_found(publisher: Publisher, reader: Reader) -> None:
    rows_there = 100
    cells = rows_there * CELLS_PER_ROW
    names = (f"model-{number:06}" for number in itertools.count())
    crowded = [
        route(name) for name in itertools.islice(filter(lambda name: cell_of(name, cells) == 5, names), rows_there)
    ]
    publisher.publish(rows(*crowded))
    reader.attach()
    slow, asked = slow_ways(reader), elsewhere(reader)
    assert [reader.resolve(each.model) for each in crowded] == crowded
    assert asked == [each.model for each in crowded[MAX_CELLS_PASSED:]]
    assert slow() == 0


def cell_of(name: str, cells: int) -> int:
    return crc32(name.encode(), Kind.MODEL) % cells


def test_a_table_without_models_has_none_in_cells(publisher: Publisher, reader: Reader) -> None:
    publisher.publish({(Kind.SETTINGS, ""): b"any", (Kind.APP, "app"): b"x" * 300})
    reader.attach()
    with pytest.raises(ModelNotFound):
        reader.resolve("a")
    publisher.publish(rows(route("a")))
    assert reader.resolve("a") == route("a")


def test_a_new_base_gives_cells_to_the_rows_that_have_come(publisher: Publisher, reader: Reader) -> None:
    publisher.publish({(Kind.SETTINGS, ""): b"any"})
    given = [route(f"model-{number}") for number in range(800)]
    for start in range(0, len(given), 100):
        publisher.publish(rows(*given[start : start + 100]))
    deadline = time.monotonic() + WAIT_SECONDS
    while publisher.maintain():
        assert time.monotonic() < deadline
    reader.attach()
    asked = elsewhere(reader)
    assert [reader.resolve(each.model) for each in given] == given
    assert len(asked) <= 20


def test_the_cell_behind_the_last_stays_empty(publisher: Publisher, reader: Reader) -> None:
    rows_there = 20
    last = rows_there * CELLS_PER_ROW - 1
    names = (name for number in itertools.count() if cell_of(name := f"model-{number:06}", last + 1) == last)
    given = [route(name) for name in itertools.islice(names, rows_there)]
    publisher.publish(rows(*given))
    reader.attach()
    cells, count, cell_bytes, _ = reader._hot._names["place"]
    assert count == last + 1
    assert read_at(cells, last * cell_bytes) == encode(given[0]._public())
    assert read_at(cells, (last + 1) * cell_bytes) == b""
    assert [reader.resolve(each.model) for each in given] == given


def read_at(cells: memoryview, offset: int) -> bytes:
    value: bytes = QUICK_READ.unpack_from(cells, offset)[1]
    return value


def test_a_row_that_was_superseded_is_read_as_its_newest(publisher: Publisher, reader: Reader) -> None:
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


def test_a_deleted_row_is_absent_and_comes_back(publisher: Publisher, reader: Reader) -> None:
    publisher.publish(rows(route("a"), route("b")))
    publisher.publish({(Kind.MODEL, "a"): None})
    with pytest.raises(ModelNotFound):
        reader.resolve("a")
    publisher.publish(rows(route("a", "again")))
    assert reader.resolve("a").app == "again"


def test_two_models_whose_names_have_one_hash_are_told_apart(publisher: Publisher, reader: Reader) -> None:
    one, other = (route(name, f"app of {name}") for name in SAME_HASH)
    publisher.publish(rows(one))
    assert reader.resolve(one.model) == one
    with pytest.raises(ModelNotFound):
        reader.resolve(other.model)
    publisher.publish(rows(other))
    assert (reader.resolve(one.model), reader.resolve(other.model)) == (one, other)


def test_a_name_that_is_none_is_refused(publisher: Publisher, reader: Reader) -> None:
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
    shared = memory.attach(memory.segment_name(publisher.area, 1), write=True)
    at = shared.find(value) - 21
    refused = 0
    for offset in range(at, at + 21 + len(value) + len("model")):
        shared[offset] ^= flip
        reader.resolve("other")  # attaches, so that what follows goes the hot way
        try:
            assert reader.resolve("model") == given
        except AreaUnreadable:
            refused += 1
        shared[offset] ^= flip
        reader.close()
    assert reader.resolve("model") == given
    assert refused >= len(value)
    shared.close()


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("where", ["in a cell", "in the log"])
def test_a_row_read_before_a_generation_is_not_kept_after_it(publisher: Publisher, where: str, arrived: bool) -> None:
    publisher.publish(rows(route("a", "old" if where == "in a cell" else "older"), route("b")))
    publisher.publish(rows(route("a", "old")))
    view = RowReader(publisher.area)

    def decode_meanwhile(value: bytes) -> Route:
        """Another thread goes to the next generation while this one decodes."""
        publisher.publish(rows(route("a", "new")))
        hot.leave()
        assert view.refresh() == [(Kind.MODEL, b"a")]
        hot.memo.pop("a", None)
        if arrived:
            hot.point(view.control.head, view.generation, view.quick, 2)
        return msgspec.msgpack.decode(value, type=Route)

    def slow(model: str, namespace: str | None, max_age: float | None) -> Route:
        raise AssertionError(model)

    hot = HotPath(slow, decode_meanwhile, 10)
    hot.point(view.control.head, view.generation, view.quick, 2)
    assert hot.resolve("a").app == "old"  # asked for while it was so
    assert "a" not in hot.memo


def test_a_row_of_a_later_generation_is_left_to_the_slow_way(publisher: Publisher) -> None:
    publisher.publish(rows(route("a", "old"), route("b")))
    view = RowReader(publisher.area)
    place = view.quick
    publisher.publish(rows(route("a", "new")))

    def slow(model: str, namespace: str | None, max_age: float | None) -> Route:
        return route(model, "slow")

    hot = HotPath(slow, msgspec.msgpack.Decoder(Route).decode, 10)
    hot.point(view.control.head, publisher.generation, place, 2)
    assert (hot.resolve("a").app, hot.resolve("b").app) == ("slow", "app")


def test_nothing_goes_the_hot_way_once_it_has_been_left(publisher: Publisher) -> None:
    publisher.publish(rows(route("a")))
    view = RowReader(publisher.area)
    asked = []

    def slow(model: str, namespace: str | None, max_age: float | None) -> Route:
        asked.append(model)
        return route(model)

    hot = HotPath(slow, msgspec.msgpack.Decoder(Route).decode, 10)
    hot.resolve("a")
    hot.point(view.control.head, view.generation, view.quick, 1)
    hot.resolve("a")
    hot.leave()
    hot.resolve("a")
    assert asked == ["a", "a"]


def test_readers_threads_and_generations_never_meet_an_old_row(publisher: Publisher) -> None:
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
            assert len(reader._memo) <= 16


def test_a_handler_that_goes_on_in_the_middle_of_a_look_up_leaves_no_old_row(
    publisher: Publisher, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish(rows(route("a", "old" * 100), route("b")))
    reader.attach()
    decode = reader._decode_route

    def interrupted(value: bytes) -> Route:
        publisher.publish(rows(route("a", "new" * 100)))
        assert reader.generation == 2  # as a signal's handler would, in the same thread
        return decode(value)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(reader, "_decode_route", interrupted)
        assert reader.resolve("a").app == "old" * 100
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


def test_a_reader_that_nobody_holds_is_collected_and_its_routes_go_on_with_another(publisher: Publisher) -> None:
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


def test_models_are_the_rows_that_lie_in_cells() -> None:
    assert int(Kind.MODEL) == CELL_KIND


def test_resolve_can_be_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(shmroute.resolve)) is shmroute.resolve
