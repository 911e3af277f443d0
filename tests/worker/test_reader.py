"""`Reader` as a worker uses it: look-ups, caches, ages, waiting, threads, forks, faults."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType

import pytest

import shmroute
from shmroute.errors import (
    AppNotFound,
    ModelNotFound,
    NoEndpoints,
    NotReady,
    ShmrouteError,
    StaleRoutes,
)
from shmroute.rows import App, Kind, SettingsRow, encode
from shmroute.worker import default as client
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.environment import DEFAULT_AREA
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from tests.forks import Forks, Pipe
from tests.routing import RoutesArea, route
from tests.twins import decode_by


@pytest.fixture
def reader(area: str) -> Iterator[Reader]:
    with Reader(area) as reader:
        yield reader


# --- looking up -----------------------------------------------------------------------------------------------


def test_resolve_gives_the_app_of_a_model(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("iiot_dataservice", "iiot", "v-2", app_version="v-7", namespace="meta", appmodel="iiot-app"))
    found = reader.resolve("iiot_dataservice")
    assert found == Route("iiot_dataservice", "v-2", "iiot", "v-7", "meta", "iiot-app")
    assert isinstance(found, Route)
    assert repr(found) == (
        "Route(model='iiot_dataservice', version='v-2', app='iiot', app_version='v-7', namespace='meta',"
        " appmodel='iiot-app')"
    )


def test_the_same_route_object_is_returned_until_its_row_changes(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("a"), route("b"))
    a, b = reader.resolve("a"), reader.resolve("b")
    assert reader.resolve("a") is a
    given.route("b", version="v2")
    assert reader.resolve("a") is a, "other rows stay warm"
    assert reader.resolve("b") != b
    assert reader.resolve("b").version == "v2"
    assert b.version == "v1", "a route is a value"


def test_republishing_an_unchanged_row_keeps_it_cached(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("a"))
    found = reader.resolve("a")
    given.publish(route("a"), route("b"))
    assert reader.resolve("a") is found


def test_a_model_that_is_not_served_is_not_found_until_it_appears(given: RoutesArea, reader: Reader) -> None:
    given.route("a")
    for _ in range(3):
        with pytest.raises(ModelNotFound) as caught:
            reader.resolve("b")
    assert caught.value.model == "b"
    assert isinstance(caught.value, LookupError)
    given.route("b")
    assert reader.resolve("b").model == "b"
    given.remove("b")
    with pytest.raises(ModelNotFound):
        reader.resolve("b")
    assert reader.resolve("a").model == "a"


def test_get_returns_its_default_only_for_missing_models(given: RoutesArea, reader: Reader) -> None:
    with pytest.raises(NotReady):
        reader.get("a")
    given.route("a")
    assert reader.get("a") is reader.resolve("a")
    assert reader.get("b") is None
    assert reader.get("b", "default") == "default"
    assert reader.get("a", namespace="elsewhere") is None
    with pytest.raises(TypeError):
        reader.get(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [7, None, b"a", ("a",)])
def test_a_model_name_must_be_a_str(given: RoutesArea, reader: Reader, model: object) -> None:
    given.route("a")
    for _ in range(2):  # at the first use, and attached
        with pytest.raises(TypeError, match="a model's name is a str"):
            reader.resolve(model)  # type: ignore[arg-type]
        reader.resolve("a")
    with pytest.raises(TypeError):
        reader.resolve(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["\udc80", "", "\0", "x" * 100_000, "ä" * 40_000])
def test_a_name_no_row_can_have_is_not_found(given: RoutesArea, reader: Reader, model: str) -> None:
    given.route("a")
    for _ in range(2):
        with pytest.raises(ModelNotFound):
            reader.resolve(model)


def test_long_rows_and_strange_names_are_found(given: RoutesArea, reader: Reader) -> None:
    """Look-ups handle rows of up to 254 bytes separately, and two names may share a hash."""
    names = ["plumless", "buckeroo", "ä\U0001f600", " ", "a/b", "x" * 250, "y" * 60_000]
    given.publish(*(route(name, "app" * size) for name in names for size in (1,)))
    given.publish(*(route(f"long-{size}", "a" * size) for size in range(100, 400)))
    for name in names:
        assert reader.resolve(name).model == name
    for size in range(100, 400):
        assert reader.resolve(f"long-{size}").app == "a" * size


def test_a_namespace_chooses_among_the_routes_of_a_name(given: RoutesArea, reader: Reader) -> None:
    second = route("m", "second", namespace="two")
    third = route("m", "third", namespace="three")
    given.publish(route("m", "first", namespace="one", others=(second, third)))
    assert reader.resolve("m").app == "first"
    assert reader.resolve("m", namespace="one").app == "first"
    assert reader.resolve("m", namespace="two") == second
    assert reader.resolve("m", namespace="three").app == "third"
    assert [other.namespace for other in reader.resolve("m").others] == ["two", "three"]
    for absent in ("four", ""):
        with pytest.raises(ModelNotFound) as caught:
            reader.resolve("m", namespace=absent)
        assert caught.value.namespace == absent


def test_routes_of_other_namespaces_lead_to_endpoints_of_their_own(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("m", "first", namespace="one", others=(route("m", "second"),)))
    given.endpoints("second", "10.0.0.2:80")
    assert str(reader.resolve("m", namespace="ns").pick()) == "10.0.0.2:80"
    with pytest.raises(NoEndpoints):
        reader.resolve("m").pick()


def test_an_app_has_the_fields_of_its_appmodel(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    one = App("app", "v1", "one", "app", "one/app", (("m", "v1"), ("n", "v2")))
    two = App("app", "v9", "two", "app-two", "two/app", ())
    given.apps(one, two)
    assert reader.app("app") == one
    assert reader.app("app") is reader.app("app")
    assert reader.app("app", namespace="two") == two
    with pytest.raises(AppNotFound, match="namespace 'three'"):
        reader.app("app", namespace="three")
    with pytest.raises(AppNotFound) as caught:
        reader.app("other")
    assert (caught.value.app, caught.value.namespace) == ("other", None)
    given.apps(two)
    assert reader.app("app") == two


def test_listings_show_one_generation_and_agree_with_look_ups(given: RoutesArea, reader: Reader) -> None:
    given.publish(*(route(f"m{number}") for number in range(50)))
    given.apps(App("app", "v1", "ns", "app", "ns/app", ()), App("app", "v2", "other", "app", "other/app", ()))
    given.endpoints("app", "10.0.0.1:80")
    models = reader.models()
    assert models == {f"m{number}": reader.resolve(f"m{number}") for number in range(50)}
    assert str(models["m7"].pick()) == "10.0.0.1:80"
    assert {name: app.namespace for name, app in reader.apps().items()} == {"app": "ns"}
    given.remove("m7")
    assert len(reader.models()) == 49
    assert len(models) == 50, "a copy"


def test_nothing_is_found_before_anything_has_been_published(given: RoutesArea, reader: Reader, area: str) -> None:
    for call in (lambda: reader.resolve("m"), lambda: reader.app("a"), reader.models, reader.apps, reader.attach):
        with pytest.raises(NotReady, match=f"shmroute watch --area {area}") as caught:
            call()
        assert caught.value.area == area
    with pytest.raises(NotReady):
        _ = reader.generation
    assert reader.age == float("inf")
    assert reader.stale(1e9)
    assert not reader.synced
    assert reader.fault is None


# --- ages -----------------------------------------------------------------------------------------------------


def test_age_counts_from_the_last_contact_with_the_source(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    assert reader.age == float("inf"), "no contact yet"
    given.in_step(100.0)
    assert 100.0 <= reader.age < 1000.0
    given.in_step(0.0)
    assert 0.0 <= reader.age < 100.0
    assert not reader.stale(1000.0)
    assert reader.stale(0.0)


def test_age_does_not_follow_the_wall_clock(given: RoutesArea, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    given.route("m")
    given.in_step(50.0)
    for jump in (-1e9, 1e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: jump)
        assert 50.0 <= reader.age < 1000.0


def test_a_look_up_can_limit_the_age(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    given.in_step(100.0)
    assert reader.resolve("m", max_age=10_000.0).model == "m"
    with pytest.raises(StaleRoutes) as caught:
        reader.resolve("m", max_age=5.0)
    assert caught.value.max_age == 5.0
    assert caught.value.age >= 100.0
    with pytest.raises(StaleRoutes):
        reader.resolve("m", max_age=float("nan"))
    assert reader.stale(float("nan"))
    assert reader.resolve("m").model == "m", "and is not asked for without"
    given.in_step(0.0)
    assert reader.resolve("m", max_age=50.0).model == "m"


def test_an_age_below_what_a_healthy_watcher_reaches_is_explained(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    given.publisher.publish({(Kind.SETTINGS, ""): encode(SettingsRow("", "", "x", 75.0))})
    given.in_step(100.0)

    with pytest.raises(StaleRoutes, match="--probe-seconds the age reaches 75 s while all is well") as caught:
        reader.resolve("m", max_age=60.0)
    assert caught.value.steady == 75.0
    with pytest.raises(StaleRoutes, match="`shmroute status` says why"):
        reader.resolve("m", max_age=80.0)


def test_reader_serves_without_a_writer_and_knows_if_the_next_has_listed(area: str, reader: Reader) -> None:
    with RoutesArea(area) as given:
        given.route("m")
        given.in_step(0.0)
        assert reader.synced
    with RoutesArea(area) as given:
        assert reader.resolve("m").model == "m"
        assert not reader.synced
        assert reader.age < 100.0
        given.in_step(0.0)
        assert reader.synced


# --- waiting --------------------------------------------------------------------------------------------------


def test_waiting_ends_with_the_first_snapshot(given: RoutesArea, reader: Reader) -> None:
    later = threading.Timer(0.05, given.route, ["m"])
    later.start()
    reader.wait_ready(30.0)
    assert reader.resolve("m").model == "m"
    later.join()


def test_a_wait_that_times_out_names_its_seconds(given: RoutesArea, reader: Reader) -> None:
    with pytest.raises(NotReady) as caught:
        reader.wait_ready(0.03)
    assert caught.value.waited_seconds >= 0.03
    with pytest.raises(NotReady):
        reader.wait_ready(0.0)


def test_a_look_up_never_waits_even_with_shmroute_wait_set(
    area: str, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop would stand still meanwhile; waiting is for `wait_ready`, which a server's start calls."""
    monkeypatch.setenv("SHMROUTE_WAIT", "3600")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a look-up has waited"))
    for _ in range(2):
        for call in (lambda: reader.resolve("m"), lambda: reader.app("a"), reader.models, reader.attach):
            with pytest.raises(NotReady):
                call()


# --- areas ----------------------------------------------------------------------------------------------------


def test_area_comes_from_argument_then_variable_then_default(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHMROUTE_AREA", raising=False)
    assert Reader().area == DEFAULT_AREA == "default"
    monkeypatch.setenv("SHMROUTE_AREA", "from-environment")
    assert Reader().area == "from-environment"
    assert Reader(area).area == area


def test_the_default_reader_is_behind_resolve_and_get(given: RoutesArea, area: str) -> None:
    given.route("m")
    client.use_area(area)
    try:
        assert shmroute.resolve("m").model == "m"
        assert shmroute.get("n") is None
        client.attach()
    finally:
        client.use_area(None)


def test_closed_reader_releases_memory_and_attaches_again_when_used(
    given: RoutesArea, reader: Reader, area: str
) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:  # noqa: PTH123
            return sum(f"shmroute-{area}" in line for line in maps)

    given.route("m")
    before = mapped()
    reader.resolve("m")
    assert mapped() == before + 2
    reader.close()
    assert mapped() == before
    reader.close()
    given.route("m", version="v2")
    assert reader.resolve("m").version == "v2"


def test_a_reader_follows_its_recreated_area(area: str, reader: Reader) -> None:
    with RoutesArea(area) as given:
        given.publish(route("a"), route("b"))
        given.endpoints("app", "10.0.0.1:80")
        held = reader.resolve("a")
        assert str(held.pick()) == "10.0.0.1:80"
        given.publisher.close(remove=True)
    for _ in range(3):
        assert reader.resolve("a") == held
        assert reader.resolve("b").model == "b", "cold, from the memory that has no name any more"
        assert str(held.pick()) == "10.0.0.1:80"
        with pytest.raises(ModelNotFound):
            reader.resolve("c")
    with RoutesArea(area) as given:
        given.publish(route("a", version="v2"))
        given.endpoints("app", "10.0.0.2:80")
        deadline = time.monotonic() + 30.0
        while reader.resolve("a").version != "v2":
            assert time.monotonic() < deadline
        assert reader.get("b") is None
        assert str(held.pick()) == "10.0.0.2:80"
        given.route("a", version="v3")
        assert reader.resolve("a").version == "v3"


def test_generations_rise_with_each_change(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    assert reader.generation == 1
    given.route("m", version="v2")
    assert reader.generation == 2


# --- what is remembered ---------------------------------------------------------------------------------------


def test_the_memo_is_bounded_and_answers_stay_right(area: str) -> None:
    with RoutesArea(area) as given, Reader(area, memo_rows=100) as reader:
        given.publish(*(route(f"m{number}", version=f"v{number}") for number in range(1000)))
        choose = random.Random(1)
        for _ in range(5000):
            number = choose.randrange(1200)
            if number < 1000:
                assert reader.resolve(f"m{number}").version == f"v{number}"
            else:
                assert reader.get(f"m{number}") is None
            assert len(reader._cache) <= 100
            assert len(reader._position.absent) <= 100
        given.publish(*(route(f"m{number}", version="new") for number in range(1000)))
        assert all(reader.resolve(f"m{number}").version == "new" for number in range(1000))


@pytest.mark.parametrize("memo_rows", [1, 2, 7, 8, 9])
def test_small_caches_answer_right_within_their_limit(area: str, memo_rows: int) -> None:
    with RoutesArea(area) as given, Reader(area, memo_rows=memo_rows) as reader:
        given.publish(*(route(f"m{number}") for number in range(20)))
        for _ in range(3):
            for number in range(20):
                assert reader.resolve(f"m{number}").model == f"m{number}"
                assert len(reader._cache) <= memo_rows


def test_look_ups_of_unknown_names_keep_little_memory(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    for number in range(100):
        assert reader.get(f"{number}" + "x" * 10_000) is None
        assert reader.get(f"{number}") is None
    assert sum(map(len, reader._position.absent)) < 1000


def test_endpoints_evicted_from_the_cache_still_change(area: str) -> None:
    """A held route keeps its pool, which must be updated even after the cache has evicted it."""
    with RoutesArea(area) as given, Reader(area, memo_rows=4) as reader:
        given.publish(*(route(f"m{number}", f"app{number}") for number in range(20)))
        for number in range(20):
            given.endpoints(f"app{number}", f"10.0.0.{number}:80")
        held = [reader.resolve(f"m{number}") for number in range(20)]
        assert [str(each.pick()) for each in held] == [f"10.0.0.{number}:80" for number in range(20)]
        for number in range(20):
            given.endpoints(f"app{number}", f"10.1.0.{number}:80")
        assert [str(each.pick()) for each in held] == [f"10.1.0.{number}:80" for number in range(20)]


def test_a_change_of_one_service_keeps_all_routes_cached(given: RoutesArea, reader: Reader) -> None:
    given.publish(*(route(f"m{number}") for number in range(100)), route("other", "other"))
    given.endpoints("app", "10.0.0.1:80")
    given.endpoints("other", "10.0.0.9:80")
    held = {f"m{number}": reader.resolve(f"m{number}") for number in range(100)}
    other = reader.resolve("other")
    pool = other.current_pool()
    assert {str(each.pick()) for each in held.values()} == {"10.0.0.1:80"}
    given.endpoints("app", "10.0.0.2:80")
    assert {str(each.pick()) for each in held.values()} == {"10.0.0.2:80"}
    assert all(reader.resolve(model) is each for model, each in held.items())
    assert other.current_pool() is pool


# --- routes as values -----------------------------------------------------------------------------------------


def test_a_route_is_pickled_without_its_reader(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("m", others=(route("m", "second", namespace="two"),)))
    given.endpoints("app", "10.0.0.1:80")
    found = reader.resolve("m")
    found.pick()
    copied = pickle.loads(pickle.dumps(found))
    assert copied == found
    assert hash(copied) == hash(found)
    assert copied.others == found.others
    assert type(copied) is Route
    for use in (
        lambda: copied.pick(),
        lambda: copied.endpoints,
        lambda: copied.lease(),
        lambda: copied.metadata,
        lambda: copied.others[0].pick(),
    ):
        with pytest.raises(ShmrouteError, match="was not made by a reader"):
            use()
    assert pickle.loads(pickle.dumps(Endpoint("fd00::1", 80))) == Endpoint("fd00::1", 80)


def test_routes_with_equal_fields_are_equal(given: RoutesArea, reader: Reader, area: str) -> None:
    given.route("m")
    one = reader.resolve("m")
    with Reader(area) as other:
        assert other.resolve("m") == one == route("m")
        assert len({other.resolve("m"), one, route("m")}) == 1
    assert one != route("m", version="v2")
    assert one != "m"


def test_a_route_outlives_its_reader(given: RoutesArea, area: str) -> None:
    given.route("m")
    given.endpoints("app", "10.0.0.1:80")
    held = Reader(area).resolve("m")
    gc.collect()
    assert str(held.pick()) == "10.0.0.1:80"
    given.endpoints("app", "10.0.0.2:80")
    assert str(held.pick()) == "10.0.0.2:80"


def test_unused_readers_are_garbage_collected(given: RoutesArea, area: str) -> None:
    given.route("m")
    reader = Reader(area)
    reader.resolve("m")
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


# --- threads, signals, forks ----------------------------------------------------------------------------------


def test_threads_never_see_a_change_undone(area: str) -> None:
    """Each model's version increases; no thread may see a lower version than before."""
    threads = 8
    models = [f"m{number}" for number in range(30)]
    errors: list[BaseException] = []
    stop = threading.Event()
    interval = sys.getswitchinterval()
    with RoutesArea(area) as given, Reader(area, memo_rows=20) as reader:
        given.publish(*(route(model, version="0") for model in models))

        def look_up(seed: int) -> None:
            choose = random.Random(seed)
            seen = dict.fromkeys(models, 0)
            try:
                while not stop.is_set():
                    model = choose.choice(models)
                    version = int(reader.resolve(model).version)
                    assert version >= seen[model], f"{model} went back from {seen[model]} to {version}"
                    seen[model] = version
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        working = [threading.Thread(target=look_up, args=[seed]) for seed in range(threads)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in working:
                thread.start()
            for version in range(1, 1500):
                given.publish(*(route(model, version=str(version)) for model in models[version % 3 :: 3]))
            stop.set()
            for thread in working:
                thread.join(60.0)
        finally:
            stop.set()
            sys.setswitchinterval(interval)
        assert not errors, errors[0]
        for number, model in enumerate(models):
            newest = max(version for version in range(1, 1500) if version % 3 == number % 3)
            assert reader.resolve(model).version == str(newest), "and none is left behind"


def test_first_touch_overtaken_by_a_generation_does_not_keep_its_row(given: RoutesArea, reader: Reader) -> None:
    """Another thread moves to the next generation while this one decodes the row."""
    given.route("a")
    reader.attach()
    decode = reader._decode_route

    def overtaken(value: bytes) -> Route:
        found = decode(value)
        given.route("a", version="v2")
        assert reader.generation == 2
        return found

    decode_by(reader, overtaken)
    assert reader.resolve("a").version == "v1", "what it had read when it began"
    decode_by(reader, decode)
    assert reader.resolve("a").version == "v2"


class OutOfTime(Exception):
    """An exception raised by a signal handler at any line, like Celery's SoftTimeLimitExceeded."""


def test_an_interrupted_look_up_caches_no_old_row(area: str) -> None:
    """The interrupt comes at each line in turn of a look-up that moves to the next generation."""
    models = [f"m{number}" for number in range(6)]
    files = ("worker/reader.py", "worker/position.py", "worker/row_cache.py", "worker/lookup.py", "shm/reader.py")
    with RoutesArea(area) as given, Reader(area) as reader:
        line, interrupted = 0, True
        while interrupted:
            given.publish(*(route(model, version=f"old {line}") for model in models))
            given.endpoints("app", f"10.0.0.1:{line + 1}")
            assert {reader.resolve(model).version for model in models} == {f"old {line}"}
            held = reader.resolve("m0")
            held.pick()
            given.publish(*(route(model, version=f"new {line}") for model in models))
            given.endpoints("app", f"10.0.0.2:{line + 1}")
            left = line

            def trace(frame: FrameType, event: str, argument: object) -> object:
                nonlocal left
                if not frame.f_code.co_filename.endswith(files):
                    return None
                if event == "line":
                    left -= 1
                    if left < 0:
                        sys.settrace(None)
                        raise OutOfTime
                return trace

            interrupted = False
            sys.settrace(trace)  # type: ignore[arg-type]
            try:
                reader.resolve("m1")
            except OutOfTime:
                interrupted = True
            finally:
                sys.settrace(None)
            assert {reader.resolve(model).version for model in models} == {f"new {line}"}, f"line {line}"
            assert str(held.pick()) == f"10.0.0.2:{line + 1}"
            line += 1
        assert line > 40


def test_a_signal_handler_may_look_up_during_a_look_up(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("a"), route("b"))
    answers: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        answers.append(reader.resolve("b").version)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        signal.raise_signal(signal.SIGUSR1)
        with reader._position.lock:  # as in the middle of a look-up
            given.publish(route("b", version="v2"))
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == ["v1", "v2"]


def test_a_logging_handler_may_look_up(given: RoutesArea, reader: Reader, area: str) -> None:
    """A look-up logs only faults, and it logs them before it has finished."""
    from shmroute.shm import layout
    from shmroute.shm.names import control_name
    from tests.shm.ground import poke

    answers: list[str] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            answers.append(reader.resolve("a").version)

    handler = Asking()
    logger = logging.getLogger("shmroute.worker.position")
    logger.addHandler(handler)
    try:
        given.publish(route("a"))
        reader.attach()
        poke(control_name(area), layout.GENERATION_AT, b"\xff" * 8)
        assert reader.resolve("a").version == "v1"
        assert answers == ["v1"]
    finally:
        logger.removeHandler(handler)


def test_child_forked_during_another_threads_look_up_can_look_up(area: str) -> None:
    stop = threading.Event()
    with RoutesArea(area) as given, Reader(area) as reader:
        given.publish(*(route(f"m{number}", version="0") for number in range(50)))

        def look_up() -> None:
            number = 0
            while not stop.is_set():
                reader.resolve(f"m{number % 50}")
                number += 1
                if number % 20 == 0:
                    reader.close()
                if number % 50 == 0:
                    Reader(area).resolve("m1")

        threads = [threading.Thread(target=look_up) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for version in range(1, 30):
                given.publish(*(route(f"m{number}", version=str(version)) for number in range(50)))
                pid = fork_despite_threads()
                if not pid:
                    signal.alarm(30)
                    try:
                        right = all(reader.resolve(f"m{number}").version == str(version) for number in range(50))
                        os._exit(0 if right else 1)
                    finally:
                        os._exit(2)
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def fork_despite_threads() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on
        return os.fork()


def test_forked_children_do_not_all_pick_the_same_endpoint(area: str) -> None:
    """The parent has resolved and picked before it forks, as a server with preloaded code does."""

    def pick(pipe: Pipe, held: Route) -> None:
        pipe.send([str(held.pick()) for _ in range(3)])

    with RoutesArea(area) as given, Reader(area) as reader, Forks() as forks:
        given.route("m")
        given.endpoints("app", *(f"10.0.0.{number}:80" for number in range(100)))
        held = reader.resolve("m")
        held.pick()
        firsts = {tuple(forks.start(pick, held).pipe.recv()) for _ in range(8)}
        assert len(firsts) > 1


def test_a_lease_open_during_a_fork_does_not_count_in_the_child(area: str) -> None:
    def count(pipe: Pipe, reader: Reader, held: Route) -> None:
        assert reader._binding.busy == {}
        with held.lease():
            assert len(reader._binding.busy) == 1
        assert reader._binding.busy == {}

    with RoutesArea(area) as given, Reader(area) as reader, Forks() as forks:
        given.route("m")
        given.endpoints("app", "10.0.0.1:80", "10.0.0.2:80")
        held = reader.resolve("m")
        with held.lease():
            forks.start(count, reader, held).finish()
            assert len(reader._binding.busy) == 1


def test_other_kinds_of_rows_are_not_mistaken_for_models(given: RoutesArea, reader: Reader) -> None:
    given.publisher.publish({(Kind.SETTINGS, "m"): encode(route("m")), (Kind.CONFLICT, "ns/m"): b"x"})
    with pytest.raises(ModelNotFound):
        reader.resolve("m")
    assert reader.models() == {}
