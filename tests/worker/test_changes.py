"""`Reader.changes` and `achanges`: every change once, in order, across bases and writers; gaps are reported."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmroute.errors import AreaUnreadable
from shmroute.rows import Kind, encode
from shmroute.shm import layout
from shmroute.shm.names import control_name, path_of
from shmroute.shm.writing import publisher as publishing
from shmroute.worker.changes import Change, Changes, Reset
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from tests.faults.processes import MODELS, publish_for_ever, publish_stamped
from tests.forks import Forks, Pipe
from tests.routing import RoutesArea, route
from tests.shm.ground import poke

WAIT_SECONDS = 30.0


@pytest.fixture
def reader(area: str) -> Iterator[Reader]:
    with Reader(area) as reader:
        yield reader


@pytest.fixture
def small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MIN_LOG_BYTES", 1024)


def now(reader: Reader, since: int | None = None, **options: Any) -> list[Change | Reset]:
    """Return what there is, without waiting."""
    return list(reader.changes(since, timeout=0, **options))


class Table:
    """The state of an application that has applied every change."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.generation = 0
        self.resets = 0

    def take(self, change: Change | Reset) -> None:
        assert change.generation >= self.generation
        self.generation = change.generation
        if isinstance(change, Reset):
            self.routes = dict(change.routes)
            self.resets += 1
            return
        assert change.old != change.new
        assert self.routes.get(change.model) == change.old
        if change.new is None:
            assert change.kind == "removed"
            del self.routes[change.model]
        else:
            assert change.kind == ("added" if change.old is None else "changed")
            assert change.new.model == change.model
            self.routes[change.model] = change.new


# --- what is told ---------------------------------------------------------------------------------------------


def test_changes_begin_with_all_routes(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("a"), route("b"))
    given.route("a", version="v2")
    assert now(reader) == [Reset(2, {"a": route("a", version="v2"), "b": route("b")}, "start")]


def test_changes_name_what_was_added_changed_and_removed(given: RoutesArea, reader: Reader) -> None:
    since = given.publish(route("a"), route("b"))
    assert now(reader, since) == []
    given.publish(route("a", version="v2"), route("c"))
    given.remove("b")
    first, second, third = now(reader, since)
    assert {first, second} == {
        Change(2, "changed", "a", route("a"), route("a", version="v2")),
        Change(2, "added", "c", None, route("c")),
    }
    assert third == Change(3, "removed", "b", route("b"), None)
    assert now(reader, 2) == [third]
    assert now(reader, 3) == []


def test_routes_from_changes_lead_to_endpoints(given: RoutesArea, reader: Reader) -> None:
    given.route("a")
    given.endpoints("app", "10.0.0.1:80")
    given.route("a", version="v2")
    (reset,) = now(reader)
    assert isinstance(reset, Reset)
    assert str(reset.routes["a"].pick()) == "10.0.0.1:80"
    (change,) = now(reader, 2)
    assert isinstance(change, Change)
    assert change.new is not None
    assert change.new.endpoints == reader.resolve("a").endpoints


def test_changes_leave_out_rows_of_other_kinds(given: RoutesArea, reader: Reader) -> None:
    since = given.route("a")
    given.endpoints("app", "10.0.0.1:80")
    given.metadata("a", {"x": 1})
    given.publisher.publish({(Kind.SETTINGS, ""): b"x", (Kind.CONFLICT, "ns/a"): b"x"})
    changes = reader.changes(since, timeout=0)
    assert list(changes) == []
    assert changes.generation == 4, "but it knows how far it has come"


def test_changes_include_metadata_if_asked_for(given: RoutesArea, reader: Reader) -> None:
    second = route("a", "second", namespace="two")
    since = given.publish(route("a", others=(second,)))
    given.metadata("a", {"x": 1})
    given.metadata("nowhere", {})
    given.publisher.publish({(Kind.METADATA, "two/a"): encode(("second", "v1", "v1", 0, 1.0, b"2"))})
    given.publisher.publish({(Kind.METADATA, "three/a"): encode(("third", "v1", "v1", 0, 1.0, b"2"))})
    first, other = now(reader, since, metadata=True)
    assert isinstance(first, Change)
    assert isinstance(other, Change)
    assert (first.kind, first.generation, first.model) == ("metadata", 2, "a")
    assert first.old == first.new == reader.resolve("a")
    assert first.new is not None
    assert first.new.metadata == {"x": 1}
    assert other.new == second


# --- gaps -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_logs")
def test_changes_since_a_generation_too_old_begin_with_all_routes(given: RoutesArea, reader: Reader) -> None:
    given.publish(*(route(f"m{number}") for number in range(20)))
    for number in range(200):
        given.route(f"m{number % 20}", version=f"v{number}")
    (reset,) = now(reader, 1)
    assert reset == Reset(reader.generation, reader.models(), "gap")


@pytest.mark.parametrize("since", [-1, 0, 3, 1000])
def test_a_generation_that_was_never_published_is_a_gap(given: RoutesArea, reader: Reader, since: int) -> None:
    given.route("a")
    given.route("a", version="v2")
    (reset,) = now(reader, since)
    assert isinstance(reset, Reset)
    assert (reset.reason, reset.generation) == ("gap", 2)


@pytest.mark.usefixtures("small_logs")
@pytest.mark.parametrize("stay_behind", [1, 7, 300])
def test_changes_across_bases_and_writers_add_up_to_all_rows(area: str, reader: Reader, stay_behind: int) -> None:
    """An iterator may be one base behind without a gap; if it is further behind, it begins again."""
    choose = random.Random(stay_behind)
    known = Table()
    changes = reader.changes(timeout=0)
    published: dict[str, Route] = {}
    given = RoutesArea(area)
    for number in range(900):
        model = f"m{choose.randrange(40)}"
        if choose.random() < 0.3:
            given.remove(model)
            published.pop(model, None)
        else:
            published[model] = route(model, version=f"v{number}")
            given.publish(published[model])
        if number % 200 == 50:  # a whole new table
            published |= {f"big{number}": route(f"big{number}", "x" * 50_000)}
            given.publish(published[f"big{number}"])
        if number % 130 == 70:
            given.publisher.close()
            given = RoutesArea(area)
        if number % stay_behind == 0:
            for change in changes:
                known.take(change)
            assert known.routes == published
            assert changes.generation == given.publisher.generation
    for change in changes:
        known.take(change)
    assert known.routes == published == reader.models()
    assert known.resets == 1 or stay_behind == 300, "the beginning"
    given.publisher.close()


def test_changes_of_a_recreated_area_are_the_differences(area: str, reader: Reader) -> None:
    changes = reader.changes(timeout=0)
    with RoutesArea(area) as given:
        given.publish(route("a"), route("b"), route("c"))
        assert len(list(changes)) == 1
        given.publisher.close(remove=True)
    assert list(changes) == []
    with RoutesArea(area) as given:
        assert list(changes) == []
        given.publish(route("a"), route("b", version="v2"), route("d"))
        told = {change.model: change.kind for change in changes if isinstance(change, Change)}
        assert told == {"b": "changed", "c": "removed", "d": "added"}
        given.remove("d")
        assert [change.kind for change in changes if isinstance(change, Change)] == ["removed"]


def test_changes_of_an_unreadable_generation_arrive_later(given: RoutesArea, reader: Reader, area: str) -> None:
    since = given.route("a")
    changes = reader.changes(since, timeout=0)
    assert list(changes) == []
    poke(control_name(area), layout.GENERATION_AT, struct.pack("<d", 1e6))
    assert list(changes) == []
    given.route("a", version="v2")
    deadline = time.monotonic() + WAIT_SECONDS
    while not (told := list(changes)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert told == [Change(2, "changed", "a", route("a"), route("a", version="v2"))]


def test_an_unreadable_area_is_an_error(area: str, reader: Reader) -> None:
    with open(path_of(control_name(area)), "wb") as file:  # noqa: PTH123
        file.write(b"something else")
    for _ in range(2):
        with pytest.raises(AreaUnreadable):
            next(reader.changes(timeout=0))


# --- waiting --------------------------------------------------------------------------------------------------


def test_changes_wait_for_the_first_snapshot_and_for_later_ones(area: str, reader: Reader) -> None:
    told: list[Change | Reset] = []
    done = threading.Event()

    def follow() -> None:
        for change in reader.changes():
            told.append(change)
            done.set()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        with RoutesArea(area) as given:
            time.sleep(0.03)
            assert told == []
            for version in ("v1", "v2", "v3"):
                done.clear()
                given.route("a", version=version)
                assert done.wait(WAIT_SECONDS)
    finally:
        reader.close()
        thread.join(WAIT_SECONDS)
    assert not thread.is_alive(), "it ends when the reader is closed"
    assert [type(change).__name__ for change in told] == ["Reset", "Change", "Change"]


def test_a_timeout_ends_the_loop_and_the_next_loop_continues(given: RoutesArea, reader: Reader) -> None:
    changes = reader.changes(timeout=0.02)
    assert [type(change) for change in changes] == []
    given.route("a")
    assert [type(change) for change in changes] == [Reset]
    assert [type(change) for change in changes] == []
    given.route("a", version="v2")
    given.route("a", version="v3")
    assert [change.generation for change in changes] == [2, 3]


def test_a_timeout_of_0_gives_all_available_changes(given: RoutesArea, reader: Reader) -> None:
    since = given.route("a")
    for number in range(500):
        given.endpoints("app", f"10.0.0.1:{number + 1}")
    given.route("a", version="v2")
    assert [change.generation for change in reader.changes(since, timeout=0)] == [502]


def test_a_timeout_ends_despite_endless_changes_of_other_kinds(area: str, reader: Reader) -> None:
    def churn(pipe: Pipe) -> None:
        with RoutesArea(area) as given:
            for number in itertools.count():
                given.endpoints("app", f"10.0.0.1:{number % 60000 + 1}")

    with RoutesArea(area) as given:
        since = given.route("a")
    with Forks() as forks:
        forks.start(churn)
        deadline = time.monotonic() + WAIT_SECONDS
        while reader.generation < since + 3:
            assert time.monotonic() < deadline
        for timeout in (0.0, 0.05):
            assert list(reader.changes(reader.generation, timeout=timeout)) == []


def test_iteration_over_changes_can_be_continued_later(given: RoutesArea, reader: Reader) -> None:
    since = given.publish(route("a"))
    given.publish(route("a", version="v2"), route("b"))
    given.publish(route("c"))
    changes = reader.changes(since, timeout=0)
    assert changes.generation == since
    next(changes)
    assert changes.generation == since, "not all of the next one has been given"
    next(changes)
    assert changes.generation == 2
    assert [change.generation for change in reader.changes(changes.generation, timeout=0)] == [3]
    assert [change.generation for change in changes] == [3]


def test_changes_hold_no_lock_while_waiting_or_unused(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("a"), route("b"))
    given.publish(route("a", version="v2"), route("b", version="v2"))
    changes = reader.changes(1)
    next(changes)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(reader.resolve("a").version))
    thread.start()
    thread.join(WAIT_SECONDS)
    assert answers == ["v2"]
    assert reader._position.lock.acquire(blocking=False)
    reader._position.lock.release()


def test_closing_the_reader_ends_its_changes_for_good(given: RoutesArea, reader: Reader) -> None:
    since = given.route("a")
    changes = reader.changes(since)
    reader.close()
    assert list(changes) == []
    given.route("a", version="v2")
    assert reader.resolve("a").version == "v2"
    assert list(changes) == []
    assert len(now(reader, since)) == 1


def test_waiting_for_changes_uses_almost_no_processor_time(given: RoutesArea, reader: Reader) -> None:
    since = given.route("a")
    changes = reader.changes(since, timeout=1.0)
    before = time.process_time()
    assert list(changes) == []
    assert time.process_time() - before < 0.2, "it looks 100 times a second, it does not spin"


class Interrupted(Exception):
    pass


def test_an_interrupt_while_reading_changes_loses_none(area: str, reader: Reader) -> None:
    """A signal, as of a time limit, interrupts the reading at each line in turn."""
    known = Table()
    with RoutesArea(area) as given:
        given.publish(route("a"), route("b"))
        changes = reader.changes(timeout=0)
        for change in changes:
            known.take(change)
        line, interrupted = 0, True
        while interrupted:
            given.publish(route("a", version=f"v{line}"), route(f"m{line}"))
            given.remove(f"m{line}")
            left = line

            def trace(frame: Any, event: str, argument: object) -> Any:
                nonlocal left
                if not frame.f_code.co_filename.endswith(("shmroute/changes.py", "shm/reader.py", "shm/segment.py")):
                    return None
                if event == "line" and frame.f_code.co_name != "__next__":
                    left -= 1
                    if left < 0:
                        sys.settrace(None)
                        raise Interrupted
                return trace

            interrupted = False
            sys.settrace(trace)
            try:
                for change in changes:
                    known.take(change)
            except Interrupted:
                interrupted = True
            finally:
                sys.settrace(None)
            for change in changes:
                known.take(change)
            assert known.routes == reader.models()
            line += 1
        assert line > 50
        assert known.resets == 1


# --- with real writers ----------------------------------------------------------------------------------------


def check_stamps(known: Table) -> None:
    versions = {found.version for found in known.routes.values()}
    assert len(versions) == 1
    assert set(known.routes) == set(MODELS)


def test_changes_of_a_generation_come_whole_when_writers_are_killed(area: str) -> None:
    with Reader(area) as reader, Forks() as forks:
        known = Table()
        told = 0
        changes = reader.changes(timeout=WAIT_SECONDS)
        for _ in range(5):
            writer = forks.start(publish_for_ever, area)
            target = told + 40 * len(MODELS)
            for change in changes:
                if change.generation != known.generation and known.generation:
                    check_stamps(known)
                known.take(change)
                told += 1
                if told > target:
                    break
            writer.kill()
        for change in reader.changes(changes.generation, timeout=0):
            assert not isinstance(change, Reset) or change.reason == "gap"
        publisher = publishing.Publisher(area)
        publish_stamped(publisher)
        publisher.close()
        deadline = time.monotonic() + WAIT_SECONDS
        while known.routes != reader.models():
            known.take(next(changes))
            assert time.monotonic() < deadline
        check_stamps(known)


# --- async ----------------------------------------------------------------------------------------------------


def run(work: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS * 2))


def test_async_iteration_gives_the_same_changes(given: RoutesArea, reader: Reader) -> None:
    async def work() -> list[Change | Reset]:
        told = [change async for change in reader.achanges(timeout=0)]
        given.route("a", version="v2")
        given.remove("b")
        return told + [change async for change in reader.achanges(told[-1].generation, timeout=0)]

    given.publish(route("a"), route("b"))
    assert run(work) == [
        Reset(1, {"a": route("a"), "b": route("b")}, "start"),
        Change(2, "changed", "a", route("a"), route("a", version="v2")),
        Change(3, "removed", "b", route("b"), None),
    ]


def test_async_lets_other_tasks_run_while_it_waits_and_ends_with_the_reader(given: RoutesArea, reader: Reader) -> None:
    async def work() -> list[int]:
        told: list[int] = []

        async def follow() -> None:
            async for change in reader.achanges():
                told.append(change.generation)  # noqa: PERF401 - one at a time, as they come

        following = asyncio.create_task(follow())
        for version in range(5):
            given.route("a", version=f"v{version}")
            deadline = time.monotonic() + WAIT_SECONDS
            while not told or told[-1] != given.publisher.generation:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)
        reader.close()
        await asyncio.wait_for(following, WAIT_SECONDS)
        return told

    assert run(work) == [1, 2, 3, 4, 5]


def test_cancelling_an_async_wait_loses_no_change(area: str, reader: Reader) -> None:
    async def work() -> Table:
        known = Table()
        changes = reader.achanges()
        choose = random.Random(3)
        with RoutesArea(area) as given:
            for number in range(200):
                given.publish(route(f"m{number % 7}", version=f"v{number}"), route("n", version=f"v{number}"))
                if number % 9 == 0:
                    given.remove("m3")
                for _ in range(6):
                    try:
                        known.take(await asyncio.wait_for(anext(changes), choose.uniform(0.0, 0.001)))
                    except TimeoutError:
                        continue
            while known.routes != reader.models():
                known.take(await anext(changes))
        return known

    assert run(work).resets == 1


def test_async_continues_the_read_after_a_cancelled_wait(given: RoutesArea, reader: Reader) -> None:
    """Two reads at once would both continue from the same generation."""
    reading = 0

    async def work() -> list[Change | Reset]:
        changes = reader.achanges(1, timeout=0)
        follower = changes._follower
        read = follower.read

        def slow() -> bool:
            nonlocal reading
            reading += 1
            assert reading == 1
            time.sleep(0.03)
            news = read()
            reading -= 1
            return news

        follower.read = slow  # type: ignore[method-assign]
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(changes), 0.001)
        return [change async for change in changes]

    given.route("a")
    given.route("a", version="v2")
    given.route("a", version="v3")
    assert [change.generation for change in run(work)] == [2, 3]


@pytest.mark.usefixtures("small_logs")
def test_async_iteration_reports_a_gap(given: RoutesArea, reader: Reader) -> None:
    given.publish(*(route(f"m{number}") for number in range(20)))
    for number in range(200):
        given.route(f"m{number % 20}", version=f"v{number}")

    async def work() -> list[Change | Reset]:
        return [change async for change in reader.achanges(1, timeout=0)]

    (reset,) = run(work)
    assert (reset.reason, reset.routes) == ("gap", reader.models())


def test_async_iteration_raises_if_the_area_is_unreadable(area: str, reader: Reader) -> None:
    with open(path_of(control_name(area)), "wb") as file:  # noqa: PTH123
        file.write(b"something else")

    async def work() -> None:
        with pytest.raises(AreaUnreadable):
            await anext(reader.achanges())

    run(work)


def test_keyboard_interrupts_end_a_wait(given: RoutesArea, reader: Reader) -> None:
    since = given.route("a")
    signal.setitimer(signal.ITIMER_REAL, 0.05)

    def handle(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(reader.changes(since))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_each_call_of_changes_gives_a_new_iterator(given: RoutesArea, reader: Reader) -> None:
    given.route("a")
    one, two = reader.changes(timeout=0), reader.changes(timeout=0)
    assert isinstance(one, Changes)
    assert iter(one) is one
    assert list(one) == list(two)
