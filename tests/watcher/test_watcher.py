"""The watcher's loop: what it publishes and when, and which failures it survives."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from shmroute import Reader
from shmroute.errors import AreaBusy, AreaUnreadable, OutOfSharedMemory
from shmroute.metadata.folder_store import FolderStore
from shmroute.metadata.loader import MetadataLoader
from shmroute.metadata.store import Reading
from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.rows import EndpointsRow, EndpointsState, InvalidRow, Kind, SettingsRow, encode
from shmroute.shm.control import ControlReader
from shmroute.shm.names import path_of, segment_name
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import AuditResult, Changed, Deleted, Replaced, Resync, Sink, SourceState
from shmroute.watcher import loop as owner
from shmroute.watcher import pending_rows as module
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.metadata_feed import MetadataFeed
from tests.shm.ground import poke
from tests.watcher.running import (
    NAMESPACE,
    SETTINGS,
    WAIT_SECONDS,
    Clock,
    Running,
    Told,
    appmodel,
    endpointslice,
    reading,
    running,
    wait_for,
)


def endpoints_of(area: str, name: str) -> EndpointsRow | None:
    value = RowReader(area).get(Kind.ENDPOINTS, f"{NAMESPACE}/{name}")
    return msgspec.msgpack.decode(value, type=EndpointsRow) if value is not None else None


def applied(watcher: WatcherLoop) -> None:
    """Wait until the watcher has applied all that has been put so far."""
    count = watcher.status.audits[0].count if watcher.status.audits else 0
    watcher.put(AuditResult("appmodels", 0, 0))
    wait_for(lambda: bool(watcher.status.audits) and watcher.status.audits[0].count > count)


# -- the first snapshot


@pytest.mark.fault(1)
def test_nothing_is_published_before_a_complete_list(area: str) -> None:
    clock = Clock()
    with running(area, clock=clock) as it, Reader(area) as reader:
        it.source.in_step()
        it.source.put(Changed("appmodels", appmodel("early")), Deleted("appmodels", appmodel("x").key))
        for _ in range(2):
            applied(it.watcher)
            with pytest.raises(Exception, match="holds no routes yet"):
                reader.resolve("early")
            clock.forward(3600.0)  # however long it takes

        it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two"))))
        reader.wait_ready(WAIT_SECONDS)
        assert set(reader.models()) == {"one", "two"}
        assert reader.generation == 1


def test_an_empty_list_is_published_as_a_snapshot(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", ()))
        with reading(area) as reader:
            assert reader.models() == {}


def test_routes_and_endpoints_come_in_one_generation_when_both_are_listed(area: str) -> None:
    with running(area, "appmodels", "endpointslices") as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        applied(it.watcher)
        assert it.watcher.status.generation == 0
        it.source.put(Replaced("endpointslices", (endpointslice("one", "10.0.0.1"),)))
        with reading(area) as reader:
            assert [str(each) for each in reader.resolve("one").endpoints] == ["10.0.0.1:80"]
            assert reader.generation == 1


def test_routes_wait_a_bounded_time_for_endpoint_slices(area: str) -> None:
    clock = Clock()
    with running(area, "appmodels", "endpointslices", clock=clock) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        applied(it.watcher)
        clock.forward(module.OPTIONAL_GRACE_SECONDS)
        with reading(area) as reader:
            assert reader.resolve("one").endpoints == ()
            assert endpoints_of(area, "one") is None, "nothing is said of what is not known"

            it.source.put(Replaced("endpointslices", (endpointslice("one", "10.0.0.1"),)))
            wait_for(lambda: reader.resolve("one").endpoints != ())


# -- taking over


def take_over(area: str) -> None:
    """Publish the models one and two with an endpoint each, as a former watcher."""
    with running(area, "appmodels", "endpointslices") as it:
        it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two"))))
        slices = tuple(endpointslice(name, "10.0.0.1") for name in ("one", "two"))
        it.source.put(Replaced("endpointslices", slices))
        with reading(area):
            pass


@pytest.mark.fault(1)
def test_former_rows_are_served_until_a_complete_list_arrives(area: str) -> None:
    take_over(area)
    clock = Clock()
    with running(area, "appmodels", "endpointslices", clock=clock) as it, reading(area) as reader:
        before = reader.generation
        for _ in range(2):
            applied(it.watcher)
            assert set(reader.models()) == {"one", "two"}
            assert not reader.synced
            clock.forward(3600.0)  # however long it takes

        it.source.put(Replaced("endpointslices", ()))
        applied(it.watcher)
        assert set(reader.models()) == {"one", "two"}
        assert reader.generation == before

        it.source.put(Replaced("appmodels", (appmodel("two"),)))
        wait_for(lambda: set(reader.models()) == {"two"})
        assert reader.generation > before


@pytest.mark.fault(17)
def test_an_object_invalid_after_a_restart_keeps_its_state(area: str) -> None:
    take_over(area)
    with running(area) as it, reading(area) as reader:
        broken = InvalidAppModel(appmodel("one").key, "2", "spec.app is missing")
        it.source.put(Replaced("appmodels", (broken, appmodel("two", version="v2"))))
        wait_for(lambda: reader.resolve("two").app_version == "v2")
        assert reader.resolve("one").app_version == "v1"
        row = RowReader(area).get(Kind.INVALID, f"AppModel {broken.key}")
        assert row is not None
        assert msgspec.msgpack.decode(row, type=InvalidRow).last_good


def test_endpoints_stay_until_the_slices_have_been_listed(area: str) -> None:
    take_over(area)
    clock = Clock()
    with running(area, "appmodels", "endpointslices", clock=clock) as it, reading(area) as reader:
        it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two", version="v2"))))
        applied(it.watcher)
        clock.forward(module.OPTIONAL_GRACE_SECONDS)
        wait_for(lambda: reader.resolve("two").app_version == "v2")
        it.source.put(Changed("appmodels", appmodel("one", version="v2")))
        wait_for(lambda: reader.resolve("one").app_version == "v2")
        for name in ("one", "two"):
            assert [str(each) for each in reader.resolve(name).endpoints] == ["10.0.0.1:80"]

        it.source.put(Replaced("endpointslices", (endpointslice("two", "10.0.0.2"),)))
        wait_for(lambda: [str(each) for each in reader.resolve("two").endpoints] == ["10.0.0.2:80"])
        row = endpoints_of(area, "one")
        assert row is not None
        assert row.state == EndpointsState.UNKNOWN


def test_metadata_is_kept_over_a_takeover_while_it_is_read_again(area: str, tmp_path: Path) -> None:
    def feed(folder: Path) -> MetadataFeed:
        return MetadataFeed(MetadataLoader(FolderStore(str(folder))))

    (tmp_path / "one_one").write_text('{"from": "the first"}')
    with running(area, metadata=feed(tmp_path)) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        with reading(area) as reader:
            wait_for(lambda: reader.resolve("one").metadata_state == "loaded")

    # The next watcher's store has nothing (yet).
    later = tmp_path / "later"
    later.mkdir()
    with running(area, metadata=feed(later)) as it, reading(area) as reader:
        it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two"))))
        wait_for(lambda: reader.get("two") is not None and reader.resolve("two").metadata_state == "missing")
        assert reader.resolve("one").metadata == {"from": "the first"}
        (later / "one_one").write_text('{"from": "the second"}')
        it.source.put(Resync("appmodels"))
        wait_for(lambda: reader.resolve("one").metadata == {"from": "the second"})


@pytest.mark.fault(25)
def test_second_watcher_is_standby_and_takes_over_when_the_first_ends(
    area: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publisher = Publisher(area)
    with running(area) as it:
        wait_for(lambda: "standing by" in caplog.text)
        wait_for(lambda: it.watcher.status.problem != "")
        assert it.watcher.status.role == "standing by"
        assert not it.source.started.is_set(), "who stands by asks no server"
        turned = it.watcher.turned_ns
        wait_for(lambda: it.watcher.turned_ns > turned)
        # For the writer's end: who is awaited leaves the memory behind.
        assert 0 < publisher.control.awaited_ns <= time.monotonic_ns()

        publisher.close()
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        with reading(area) as reader:
            assert reader.resolve("one").app == "one"
        wait_for(lambda: it.watcher.status.role == "writing")
        assert it.watcher.status.problem == ""
    assert caplog.text.count("standing by") == 1, "said once, not at every try"


def test_standby_of_another_source_says_that_it_will_replace_the_routes(
    area: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(area) as publisher:
        theirs = encode(SettingsRow("default", "iidp=iidp", "https://elsewhere"))
        publisher.publish({(int(Kind.SETTINGS), ""): theirs})
        with running(area):
            wait_for(lambda: "when that watcher ends, this one replaces its routes by its own" in caplog.text)
    assert "from https://elsewhere" in caplog.text


def test_a_standby_watcher_stops_at_once(area: str) -> None:
    publisher = Publisher(area)
    with running(area) as it:
        wait_for(lambda: it.watcher.status.problem != "")
    publisher.close()
    assert isinstance(it.watcher, WatcherLoop)


# -- no room


def no_room(times: int) -> Callable[..., Any]:
    """Return a method of Publisher that finds no room this number of times."""
    left = [times]

    def patch(method: Callable[..., int]) -> Callable[..., int]:
        def call(self: Publisher, rows: Any) -> int:
            if left[0]:
                left[0] -= 1
                raise OutOfSharedMemory("shmroute-test", 4_096, 0)
            return method(self, rows)

        return call

    return patch


@pytest.mark.parametrize("method", ["replace", "publish"])
def test_publish_without_room_is_reported_and_retried_until_there_is_room(
    area: str, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "PUBLISH_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.05)
    with running(area) as it:
        if method == "publish":
            it.source.put(Replaced("appmodels", (appmodel("zero"),)))
            with reading(area):
                pass
        monkeypatch.setattr(Publisher, method, no_room(3)(getattr(Publisher, method)))
        event = (
            Changed("appmodels", appmodel("one")) if method == "publish" else Replaced("appmodels", (appmodel("one"),))
        )
        it.source.put(event)
        with reading(area) as reader:
            if method == "publish":
                assert reader.resolve("zero").app == "zero", "the last generation stays"
            wait_for(lambda: reader.get("one") is not None)
        wait_for(lambda: it.watcher.status.publish_failures == 3 and it.watcher.status.problem == "")
    assert caplog.text.count("no room in /dev/shm") == 1, "an alarm once, not at every try"
    assert "4096 bytes are needed" in caplog.text
    assert "there is room again" in caplog.text


def test_changes_made_without_room_are_published_when_there_is(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUBLISH_RETRY_SECONDS", 0.05)
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("gone"), appmodel("changed"))))
        with reading(area) as reader:
            monkeypatch.setattr(Publisher, "publish", no_room(5)(Publisher.publish))
            it.source.put(Deleted("appmodels", appmodel("gone").key))
            it.source.put(Changed("appmodels", appmodel("changed", version="v2")))
            it.source.put(*(Changed("appmodels", appmodel(f"new{number}")) for number in range(50)))
            wait_for(lambda: reader.get("gone") is None)
            assert reader.resolve("changed").app_version == "v2"
            assert len(reader.models()) == 51


def test_without_room_the_age_grows_though_the_source_is_in_step(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.05)
    with running(area) as it:
        it.source.put(Replaced("appmodels", ()))
        it.source.in_step()
        with reading(area) as reader:
            wait_for(lambda: reader.age < 5.0)
            monkeypatch.setattr(Publisher, "publish", no_room(1_000_000)(Publisher.publish))
            it.source.put(Changed("appmodels", appmodel("one")))
            wait_for(lambda: it.watcher.status.problem != "")
            contact = reader.age
            beat = it.watcher.turned_ns
            it.source.in_step()
            wait_for(lambda: it.watcher.turned_ns > beat + int(1e8))
            assert reader.age > contact
            monkeypatch.undo()


# -- damage


def damage_rows(area: str, contents: bytes | None) -> None:
    """Change a byte of every record that holds that; None: all bytes of the segment."""
    path = Path(path_of(segment_name(area, ControlReader(area).segment)))
    data = path.read_bytes()
    if contents is None:
        poke(path.name, 0, b"\xff" * len(data))
        return
    for found in re.finditer(re.escape(contents), data):
        poke(path.name, found.start(), b"#")


@pytest.mark.fault(29)
@pytest.mark.parametrize("damaged", [b"two", b"from", b"10.0.0.", b"test", None])
@pytest.mark.parametrize("times_without_room", [0, 3])
def test_a_damaged_area_is_repaired_by_the_next_change(
    area: str, damaged: bytes | None, times_without_room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUBLISH_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.05)
    names = ("one", "two", "three")
    for name in names:
        (tmp_path / f"{name}_{name}").write_text(json.dumps({"from": name}))
    feed = MetadataFeed(MetadataLoader(FolderStore(str(tmp_path))))
    with running(area, "appmodels", "endpointslices", metadata=feed) as it:
        it.source.put(Replaced("endpointslices", tuple(endpointslice(name, "10.0.0.1") for name in names)))
        it.source.put(Replaced("appmodels", tuple(map(appmodel, names))))
        with reading(area) as reader:
            wait_for(lambda: all(reader.resolve(name).metadata_state == "loaded" for name in names))
            generation = reader.generation
            damage_rows(area, damaged)
            monkeypatch.setattr(Publisher, "replace", no_room(times_without_room)(Publisher.replace))

            it.source.put(Changed("appmodels", appmodel("two", "two=2", "four", version="v2")))
            it.source.put(Changed("endpointslices", endpointslice("two", "10.0.0.2")))
            wait_for(lambda: reader.generation > generation and reader.get("four") is not None)

            def mended() -> bool:
                try:
                    loaded = all(reader.resolve(name).metadata_state == "loaded" for name in names)
                    return loaded and str(reader.resolve("two").endpoints[0]) == "10.0.0.2:80"
                except AreaUnreadable:  # as long as there is no room for new rows
                    return False

            wait_for(mended)
            assert set(reader.models()) == {*names, "four"}
            assert [reader.resolve(name).app_version for name in names] == ["v1", "v2", "v1"]
            assert [reader.resolve(name).metadata for name in names] == [{"from": name} for name in names]
            assert reader.resolve("four").metadata_state == "missing"
            assert reader.resolve("two").metadata_version == "2"
            assert [str(reader.resolve(name).endpoints[0]) for name in ("one", "three")] == ["10.0.0.1:80"] * 2
            with Reader(area) as late:
                assert late.models() == reader.models()
        assert it.thread.is_alive()


# -- what others do


class Failing(Told):
    def run(self, sink: Sink, stop: threading.Event) -> None:
        raise RuntimeError("a defect of the source")


def test_failed_source_ends_the_watcher_for_a_restart(area: str, caplog: pytest.LogCaptureFixture) -> None:
    watcher = WatcherLoop(area, [Failing()], settings=SETTINGS)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert watcher.failed
    assert "a defect of the source" in caplog.text
    Publisher(area).close()  # the lock is free


class Handler:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_add(self, appmodel: AppModel) -> None:
        self.seen.append(f"add {appmodel.key.name}")
        raise RuntimeError("a defect of a handler")

    def on_update(self, old: AppModel, new: AppModel) -> None:
        self.seen.append(f"update {new.key.name}")

    def on_delete(self, appmodel: AppModel) -> None:
        self.seen.append(f"delete {appmodel.key.name}")


def test_raising_handler_is_counted_and_called_again_at_the_resync(area: str) -> None:
    handler = Handler()
    with running(area, handlers=[handler]) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        with reading(area) as reader:
            assert reader.resolve("one").app == "one"
        wait_for(lambda: handler.seen == ["add one"])
        it.source.put(Resync("appmodels"))
        wait_for(lambda: handler.seen == ["add one", "update one"])
        applied(it.watcher)
        assert it.watcher.status.handler_failures == 1


def test_a_resync_publishes_nothing(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        with reading(area) as reader:
            it.source.put(Resync("appmodels"), Replaced("appmodels", (appmodel("one"),)))
            applied(it.watcher)
            assert reader.generation == 1


class Stubborn(Told):
    """A source that ignores its stop event."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def run(self, sink: Sink, stop: threading.Event) -> None:
        super().run(sink, stop)
        self.release.wait(WAIT_SECONDS)


def test_run_returns_and_frees_the_area_even_if_a_source_hangs(area: str) -> None:
    source = Stubborn()
    watcher = WatcherLoop(area, [source], settings=SETTINGS)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    assert source.started.wait(WAIT_SECONDS)
    with pytest.raises(AreaBusy):
        Publisher(area)
    watcher.stop()
    thread.join(WAIT_SECONDS)  # far less than the source would take
    assert not thread.is_alive()
    assert not source.release.is_set()
    Publisher(area).close()
    source.release.set()


@pytest.mark.fault(21)
def test_a_storm_is_published_completely_in_few_generations(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", ()))
        with reading(area) as reader:
            storm = [
                Changed("appmodels", appmodel(f"m{number % 100}", version=f"v{number}")) for number in range(20_000)
            ]
            it.source.put(*storm)
            wait_for(lambda: len(reader.models()) == 100 and reader.resolve("m99").app_version == "v19999")
            assert {route.app_version for route in reader.models().values()} == {f"v{n}" for n in range(19_900, 20_000)}
            assert reader.generation < 2_000


WAITS = {"time.sleep", "Event.wait", "Condition.wait", "Thread.join", "Popen.wait", "Popen._wait", "Queue.get"}
"""Functions in which a thread waits; those of sockets are recognised by their module."""


class Calls:
    """Records the waiting calls of the thread of that name while `noting` is set."""

    def __init__(self, thread: str) -> None:
        self.waits: set[str] = set()
        self.names: set[str] = set()
        self.noting = False
        self._thread = thread

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if not self.noting or threading.current_thread().name != self._thread:
            return
        if event == "call":
            name = frame.f_code.co_qualname
        elif event == "c_call":
            name = f"{arg.__module__}.{arg.__name__}" if arg.__module__ else arg.__qualname__
        else:
            return
        self.names.add(name)
        if name in WAITS or name.startswith(("socket.", "select.")):
            self.waits.add(name)


class HungStore(FolderStore):
    """A store that does not answer until it is released."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.asked = threading.Event()
        self.release = threading.Event()

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        self.asked.set()
        assert self.release.wait(WAIT_SECONDS)
        return super().read(keys, limit_bytes=limit_bytes, batch_bytes=batch_bytes)


class HungHandler:
    """A handler whose calls do not return until it is released."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.release = threading.Event()

    def on_add(self, appmodel: AppModel) -> None:
        self.called.set()
        assert self.release.wait(WAIT_SECONDS), appmodel

    def on_update(self, old: AppModel, new: AppModel) -> None:
        self.on_add(new)

    on_delete = on_add


@pytest.mark.fault(21)
def test_the_watchers_loop_waits_only_for_its_queue(area: str, tmp_path: Path) -> None:
    store, handler, calls = HungStore(tmp_path), HungHandler(), Calls("watcher")
    it = Running(area, Told(), metadata=MetadataFeed(MetadataLoader(store)), handlers=[handler])
    threading.setprofile(calls)
    try:
        it.thread.start()
        it.source.put(Replaced("appmodels", tuple(appmodel(f"m{number}") for number in range(100))))
    finally:
        threading.setprofile(None)
    try:
        with reading(area) as reader:
            assert store.asked.wait(WAIT_SECONDS)
            assert handler.called.wait(WAIT_SECONDS)
            calls.noting = True  # from here on: starting a thread is a wait, too
            for number in range(1_000):
                it.source.put(Changed("appmodels", appmodel(f"m{number % 100}", version=f"v{number}")))
            wait_for(lambda: reader.resolve("m99").app_version == "v999")
            store.release.set()
            wait_for(lambda: {route.metadata_state for route in reader.models().values()} == {"missing"})
        applied(it.watcher)
        calls.noting = False
        assert "SimpleQueue.get" in calls.names, "nothing was noted"
        assert calls.waits == set()
    finally:
        store.release.set()
        handler.release.set()
        it.stop()


@pytest.mark.fault(2)
def test_the_routes_age_is_that_of_the_oldest_source(area: str) -> None:
    with running(area, "appmodels", "endpointslices") as it:
        it.source.put(Replaced("appmodels", ()), Replaced("endpointslices", ()))
        it.source.in_step(time.monotonic_ns() - int(100e9))
        with reading(area) as reader:
            wait_for(lambda: 99.0 < reader.age < 160.0)
            it.source.put(SourceState("appmodels", "watching", time.monotonic_ns()))
            wait_for(
                lambda: it.watcher.status.seconds_since(it.watcher.status.sources[0].contact_ns) < 50.0
            )  # told in the same beat as the age
            assert reader.age > 99.0, "the other one is as it was"
            it.source.in_step()
            wait_for(lambda: reader.age < 50.0)


def test_age_is_known_with_the_first_snapshot(area: str) -> None:
    standing = time.monotonic_ns()
    with running(area, "appmodels", "endpointslices", clock=lambda: standing) as it:
        it.source.put(Replaced("appmodels", (appmodel("a"),)), Replaced("endpointslices", ()))
        with reading(area) as reader:
            assert reader.stale(1e6)
            it.source.in_step()
            wait_for(lambda: reader.age < WAIT_SECONDS)
            assert reader.resolve("a", max_age=WAIT_SECONDS)
            wait_for(lambda: [state.phase for state in it.watcher.status.sources] == ["watching", "watching"])


def test_an_event_that_changes_no_row_leaves_the_propagation_time_alone(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        with reading(area) as reader:
            long_ago = time.monotonic_ns() - int(3_600e9)
            unchanged = msgspec.structs.replace(appmodel("one"), resource_version="2")
            it.source.put(Changed("appmodels", unchanged, received_ns=long_ago))
            wait_for(lambda: it.watcher._event_count == 2 and it.watcher._events.empty())
            wait_for(lambda: it.watcher._received_ns == 0)
            it.source.put(Changed("appmodels", appmodel("two"), received_ns=time.monotonic_ns()))
            wait_for(lambda: "two" in reader.models())
            wait_for(lambda: it.watcher._publication.propagations == 1)
            assert it.watcher._publication.propagation_seconds < 3_600
