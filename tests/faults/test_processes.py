"""Faults of the processes of one area: killed, frozen, forked, too late, too many."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from shmroute.errors import AreaBusy, NotReady, SnapshotExpired
from shmroute.shm import layout
from shmroute.shm.names import control_name, path_of, segment_name
from shmroute.shm.reader import RowReader
from shmroute.shm.writing import publisher as publishing
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_memory import WritableSegment
from tests.faults.processes import (
    BIG_BYTES,
    ROWS,
    check_stamps,
    look_up,
    publish_for_ever,
    publish_stamped,
    small_logs,
    stamped,
    taken_bytes,
)
from tests.forks import Child, Forks, Pipe, killed_at
from tests.namespaces import in_own_shm, needs_own_shm
from tests.shm.ground import objects
from tests.shm.tables import Changes, Table, changed, segments, table

SEED = int(os.environ.get("SHMROUTE_SEED", "1"))

MAX_SEGMENTS = 4
"""Maximum number of segments of one area after any sequence of killed writers."""

KILLED_AT_WORK = 0.8
"""Fraction of writers killed after they have taken the area; the others may be killed before."""

TAKEOVER_SECONDS = 2.0

LOOKS_SECONDS = 0.02
"""Seconds between two look-ups of each of 220 readers, so that the writer gets CPU time too."""

WAIT_SECONDS = 30.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.002)


# --- a writer SIGKILLed at any instant (23, 31) ---------------------------------------------------------------


@pytest.mark.fault(23)
@pytest.mark.parametrize("kills", [100, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_a_writer_killed_at_random_moments_leaves_no_torn_or_mixed_state(area: str, kills: int) -> None:
    when = random.Random(SEED)
    with Publisher(area) as publisher:
        publish_stamped(publisher)
    staying = RowReader(area)
    generation = 1
    most = took_over = 0
    for number in range(kills):
        with Forks() as forks:
            writer = forks.start(publish_for_ever, area)
            if when.random() < KILLED_AT_WORK:
                wait_for_message(writer, WAIT_SECONDS)
                took_over += 1
            time.sleep(when.uniform(0.0, 0.005))
            most = max(most, len(segments(area)))
            writer.kill()
        assert len(segments(area)) <= MAX_SEGMENTS, f"after kill {number}"
        late = RowReader(area)
        check_stamps(late)
        staying.refresh()
        check_stamps(staying)
        assert generation <= late.generation
        assert staying.generation == late.generation
        generation = late.generation
        if number % 50 == 0:
            with Publisher(area) as publisher:
                assert publisher.generation >= generation
                assert len(segments(area)) <= 2, "swept"
            staying.refresh()
            generation = staying.generation
            check_stamps(staying)
    print(f"{kills} kills, {generation} generations, at most {most} segments at any time")
    assert most <= MAX_SEGMENTS
    assert generation > took_over > kills / 2, "each of these has published before it said so"
    Publisher(area).close(remove=True)
    assert objects(area) == []


def first_publish(area: str) -> Publisher:
    return Publisher(area)


def with_rows(area: str) -> Publisher:
    publisher = Publisher(area)
    publisher.replace({(1, f"k{number}"): b"old" for number in range(12)})
    return publisher


def about_to_rebuild(area: str, publisher_of: Callable[[str], Publisher] = with_rows) -> Publisher:
    """Return a publisher whose log exceeds the size at which a new base begins; 1 KiB in these tests."""
    publisher = publisher_of(area)
    number = 0
    while not publisher.rebuilding:
        publisher.publish(
            {(1, f"k{number % 12}"): b"%d" % number, (2, f"gone{number}"): b"x", (2, "n"): b"%d" % number}
        )
        publisher.publish({(2, f"gone{number}"): None})
        number += 1
    return publisher


SMALL: dict[tuple[int, str], bytes | None] = {(1, "k1"): b"new", (1, "k2"): None, (1, "k99"): b"added"}
BIG: Changes = SMALL | {(1, "big"): bytes(5000)}


@pytest.mark.fault(23)
@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize(
    ("prepare", "changes", "stride"),
    [
        pytest.param(first_publish, SMALL, 11, id="the first publish"),
        pytest.param(with_rows, SMALL, 13, id="a publish"),
        pytest.param(with_rows, BIG, 19, id="a whole new table"),
        pytest.param(about_to_rebuild, SMALL, 41, id="a new base"),
    ],
)
@pytest.mark.parametrize("every_line", [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_a_writer_killed_at_each_line_leaves_the_old_state_or_the_new(
    make_area: Callable[[], str],
    prepare: Callable[[str], Publisher],
    changes: Changes,
    stride: int,
    every_line: bool,
) -> None:
    """The lines range from the take-over to the end of the publish and of the rebuild after it."""
    line, outcomes = 0, set()
    died = True
    while died:
        area = make_area()
        publisher = prepare(area)
        old: Table = {(kind, key): value for kind in (1, 2) for key, value in publisher.rows(kind)}
        generation = publisher.generation
        publisher.close()
        staying = RowReader(area) if generation else None

        def work(area: str = area) -> None:
            publisher = Publisher(area)
            publisher.publish(changes)
            while publisher.maintain():
                pass

        died = killed_at(line, work)
        new = changed(old, changes)
        states = (old, new)
        assert len(segments(area)) <= MAX_SEGMENTS
        if staying is not None:
            before = staying.refresh()
            seen = table(staying)
            assert seen in states
            assert staying.generation >= generation
            if before is not None and seen != old:
                assert {key for key in {*old, *new} if old.get(key) != new.get(key)} <= {
                    (kind, key.decode()) for kind, key in before
                }
            assert table(RowReader(area)) == seen
        with Publisher(area) as publisher:
            adopted = {(kind, key): value for kind in (1, 2) for key, value in publisher.rows(kind)}
            assert adopted in states
            assert len(segments(area)) <= 2 * (publisher.generation > 0)
            assert publisher.sizes.rows == len(adopted)
            if publisher._writer is not None:
                assert publisher._writer.slots_used == sum(map(bool, publisher._writer._slots.tolist()))
            if staying is not None:
                assert not (seen == new and adopted == old), "what a reader has seen stays"
            outcomes.add(adopted == new)
            publisher.publish({(3, "after"): b"x"})
            late = RowReader(area)
            assert table(late) == adopted | {(3, "after"): b"x"}
            if staying is not None:
                staying.refresh()
                assert table(staying) == table(late)
            publisher.close(remove=True)
        line += 1 if every_line else stride
    assert outcomes == {False, True}
    assert line > 20 * stride


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_writer_killed_while_removing_its_area_leaves_it_usable(make_area: Callable[[], str], stride: int) -> None:
    line, died = 0, True
    while died:
        area = make_area()
        with_rows(area).close()
        staying = RowReader(area)
        died = killed_at(line, lambda area=area: Publisher(area).close(remove=True))  # type: ignore[misc]
        assert table(staying) == table(staying.snapshot())
        with Publisher(area) as publisher:
            publisher.replace({(1, "new"): b"1"})
            staying.refresh()
            assert table(staying) == table(RowReader(area)) == {(1, "new"): b"1"}
            assert len(segments(area)) <= 2
            publisher.close(remove=True)
        line += stride


def finish_rebuild(publisher: Publisher) -> None:
    while publisher.maintain():
        pass


@pytest.mark.fault(31)
@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("stride", [47, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_writer_killed_at_each_line_of_a_recycling_is_continued(make_area: Callable[[], str], stride: int) -> None:
    """The third base overwrites the first segment. Its readers see their own generation, or that it has expired."""
    line, died, expired = 0, True, set()
    while died:
        area = make_area()
        publisher = with_rows(area)
        first = RowReader(area)
        at_first = table(first)
        publisher.close()
        publisher = about_to_rebuild(area, publisher_of=Publisher)
        finish_rebuild(publisher)
        second = RowReader(area)
        assert second.segment.header.identity != first.segment.header.identity
        number = 0
        while publisher._writer is not None and not publisher._wants_rebuild(publisher._writer):
            publisher._append(publisher._writer, [(2, b"n", b"%d" % number)])
            number += 1
        second.refresh()
        at_second = table(second)
        publisher.close()
        assert not first.expired

        def work(area: str = area) -> None:
            publisher = Publisher(area)
            publisher.publish(SMALL)
            finish_rebuild(publisher)

        died = killed_at(line, work)
        try:
            assert table(first) == at_first
        except SnapshotExpired:
            expired.add(True)
            assert first.expired
        else:
            expired.add(False)
        assert table(second) == at_second, "the current segment, or the one that was current a moment ago"
        before = set(segments(area))
        with Publisher(area) as publisher:
            assert set(segments(area)) == before, "both are kept"
            finish_rebuild(publisher)
            adopted = {(kind, key): value for kind in (1, 2) for key, value in publisher.rows(kind)}
            assert adopted in (at_second, changed(at_second, SMALL))
            for reader in (first, second):
                reader.refresh()
                assert table(reader) == adopted
            assert len(segments(area)) == 2
            publisher.close(remove=True)
        line += stride
    assert expired == {False, True}


def test_leftovers_of_killed_writers_do_not_add_up(area: str) -> None:
    with Publisher(area) as publisher:
        publish_stamped(publisher)
    for line in range(0, 400, 10):
        killed_at(line, lambda: Publisher(area).publish({(99, "big"): bytes(BIG_BYTES)}))
        assert len(objects(area)) <= MAX_SEGMENTS + 2, "with the control block and the lock"


@pytest.mark.fault(31)
def test_new_writer_sweeps_leftovers_of_any_age(area: str) -> None:
    with Publisher(area) as publisher:
        publish_stamped(publisher)
    served = objects(area)
    for start in (publisher.generation + 1, publisher.generation + 7, 1 << 40):
        Path(path_of(segment_name(area, start))).write_bytes(b"left by a crash")
    assert len(objects(area)) == len(served) + 3
    with Publisher(area):
        assert objects(area) == served
        check_stamps(RowReader(area))


# --- one writer, and the next (25) ----------------------------------------------------------------------------


def hold(pipe: Pipe, area: str) -> None:
    publisher = Publisher(area)
    publish_stamped(publisher)
    pipe.send(os.getpid())
    signal.pause()
    publisher.close()


@pytest.mark.parametrize("frozen_first", [False, True])
def test_standby_takes_over_within_2_s_of_the_writers_death(area: str, frozen_first: bool) -> None:
    with Forks() as forks:
        first = forks.start(hold, area)
        pid = first.pipe.recv()
        if frozen_first:
            first.kill(signal.SIGSTOP)
        for _ in range(5):
            with pytest.raises(AreaBusy) as caught:
                Publisher(area)
            assert caught.value.pid == pid
        reader = RowReader(area)
        os.kill(first.pid, signal.SIGKILL)
        taken: list[Publisher] = []

        def take() -> bool:
            try:
                taken.append(Publisher(area))
            except AreaBusy:
                return False
            return True

        wait_until(take, "the lock is free", TAKEOVER_SECONDS)
        with taken[0] as second:
            assert second.generation == 1
            publish_stamped(second)
            reader.refresh()
            assert check_stamps(reader) == 2


@pytest.mark.fault(25)
def test_one_of_many_racing_writers_gets_a_dead_writers_area(area: str) -> None:
    def race(pipe: Pipe) -> None:
        pipe.recv()
        try:
            publisher = Publisher(area)
        except AreaBusy:
            pipe.send(False)
            return
        publish_stamped(publisher)
        pipe.send(True)
        pipe.recv()

    with Forks() as forks:
        first = forks.start(hold, area)
        first.pipe.recv()
        first.kill()
        racers = [forks.start(race) for _ in range(8)]
        for racer in racers:
            racer.pipe.send("go")
        assert [racer.pipe.recv() for racer in racers].count(True) == 1
        check_stamps(RowReader(area))


# --- many readers of a writer at full rate (30) ---------------------------------------------------------------


@pytest.mark.parametrize(
    "look_ups", [200_000, pytest.param(10_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_look_ups_match_their_generation_at_full_publish_rate(area: str, look_ups: int) -> None:
    readers = 8
    with Forks() as forks:
        writer = forks.start(publish_for_ever, area)
        looking = [forks.start(look_up, area, look_ups // readers) for _ in range(readers)]
        for child in looking:
            wait_for_message(child, 3000.0)
            early, late, generation = child.pipe.recv()
            assert generation > 1, "the writer did write"
            assert late.descriptors <= early.descriptors, f"{early} -> {late}"
            assert late.mappings <= 3, "the control block, a segment, and one that is being left"
            assert late.resident_bytes < early.resident_bytes + (4 << 20), f"{early} -> {late}"
            child.finish()
        writer.kill()
    assert len(segments(area)) <= MAX_SEGMENTS


def wait_for_message(child: Child, seconds: float) -> None:
    assert child.pipe.poll(seconds), f"child {child.pid} says nothing"


@pytest.mark.fault(30)
def test_readers_attach_at_full_rate_without_an_exception(area: str) -> None:
    """The segment named by the control block is often unlinked before the reader can open it."""

    def attach(pipe: Pipe) -> None:
        attached = 0
        while attached < 500:
            try:
                reader = RowReader(area)
            except NotReady:
                assert not attached
                continue
            attached += 1
            with suppress(SnapshotExpired):  # the writer was two bases faster than the look at all rows
                check_stamps(reader)

    with Forks() as forks:
        forks.start(publish_for_ever, area)
        for child in [forks.start(attach) for _ in range(3)]:
            child.finish()


# --- workers killed or frozen while mapping (26) --------------------------------------------------------------


def read_for_ever(pipe: Pipe, area: str) -> None:
    from shmroute.worker.reader import Reader

    reader = Reader(area)
    reader.wait_ready(WAIT_SECONDS)
    pipe.send("attached")
    while True:
        for number in range(ROWS):
            reader.resolve(f"model-{number}")
        if pipe.poll():
            wanted = pipe.recv()
            deadline = time.monotonic() + WAIT_SECONDS
            while reader.generation < wanted:
                assert time.monotonic() < deadline
            assert reader.fault is None
            assert reader.resolve("model-0").version == str(wanted)
            return
        time.sleep(LOOKS_SECONDS)


def kill_and_freeze(pipe: Pipe, area: str, killed: int, frozen: int) -> None:
    """Kill and freeze readers, in a /dev/shm of its own, so that every byte in it belongs to this area."""
    small_logs()
    when = random.Random(SEED)
    empty = taken_bytes()
    with Publisher(area) as publisher, Forks() as forks:
        publish_stamped(publisher)
        alone = taken_bytes()
        children = [forks.start(read_for_ever, area) for _ in range(killed + frozen)]
        for child in children:
            wait_for_message(child, WAIT_SECONDS)
            child.pipe.recv()
            publish_stamped(publisher)
        when.shuffle(children)
        to_kill, to_freeze = children[:killed], children[killed:]
        for number, child in enumerate(to_kill):
            if number % (killed // frozen) == 0:
                to_freeze[number // (killed // frozen) % frozen].kill(signal.SIGSTOP)
            child.kill()
            publish_stamped(publisher)
            assert len(segments(area)) <= MAX_SEGMENTS
        for child in to_freeze:
            child.kill(signal.SIGSTOP)
        log_bytes = publishing.MIN_LOG_BYTES * publishing.MIN_LOG_SPACES
        reserved = WritableSegment.RESERVE_STEP_BYTES
        segment = layout.SLOTS_AT + layout.MIN_SLOTS * 8 + 2 * BIG_BYTES + log_bytes + reserved
        bound = layout.CONTROL_BYTES + 2 * segment
        used = []
        for _ in range(20):
            for _ in range(25):
                publish_stamped(publisher)
            used.append(taken_bytes())
            assert Path(path_of(control_name(area))).exists()
            assert len(segments(area)) <= 2
            check_stamps(RowReader(area))
        print(f"{alone:,} bytes alone, at most {max(used):,} with {killed} readers killed and {frozen} frozen")
        assert max(used) <= bound, "however many readers were killed or frozen"
        while publisher.generation % 25 != 5:
            publish_stamped(publisher)
        for child in to_freeze:
            child.kill(signal.SIGCONT)
            child.pipe.send(check_stamps(RowReader(area)))
        for child in to_freeze:
            child.finish()
        print(f"{taken_bytes():,} bytes once those have gone on")
        assert taken_bytes() <= bound
        publisher.close(remove=True)
    del publisher
    assert taken_bytes() == empty


@pytest.mark.fault(26)
@needs_own_shm
@pytest.mark.parametrize(
    ("killed", "frozen"), [(40, 4), pytest.param(200, 20, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_killed_and_frozen_readers_do_not_disturb_the_writer(area: str, killed: int, frozen: int) -> None:
    with Forks() as forks:
        forks.start(in_own_shm, "512m", kill_and_freeze, area, killed, frozen).finish(600.0)


def idle(pipe: Pipe, area: str) -> None:
    """Look up once, as a worker, and then wait for a request before looking up again."""
    from shmroute.worker.reader import Reader

    reader = Reader(area)
    reader.wait_ready(WAIT_SECONDS)
    reader.resolve("model-0")
    pipe.send("attached")
    pipe.recv()
    version = reader.resolve("model-1").version
    assert reader.fault is None
    assert all(reader.resolve(f"model-{number}").version == version for number in range(ROWS))
    pipe.send(int(version))


def memory_bound(table: Mapping[tuple[int, str], bytes | None]) -> int:
    """Return the documented bound of an area with that table, in bytes: docs/tuning.md."""
    records = sum(layout.record_size(key.encode(), value) for (_, key), value in table.items())
    log = max(publishing.MIN_LOG_BYTES * publishing.MIN_LOG_SPACES, records // publishing.LOG_SPACE_FRACTION)
    slots = layout.SLOTS_AT + layout.slots_for(len(table)) * layout.WORD_BYTES
    segment = slots + records + log + WritableSegment.RESERVE_STEP_BYTES
    return layout.CONTROL_BYTES + layout.REGISTER_BYTES + layout.EVENTS_BYTES + 2 * segment


def rebuild_often(pipe: Pipe, area: str, rebuilds: int) -> None:
    """Rebuild often in a /dev/shm of exactly the documented bound: no publish may be refused."""
    small_logs()
    Path("/dev/shm/events-place").write_bytes(bytes(layout.EVENTS_BYTES))
    when = random.Random(SEED)
    with Publisher(area) as publisher, Forks() as forks:
        publisher.publish(stamped(1))
        workers: list[Child] = []
        bases: set[int] = set()
        while len(bases) < rebuilds:
            publisher.publish(stamped(publisher.generation + 1))  # raises if there is no room
            assert publisher._writer is not None
            bases.add(publisher._writer.start)
            if len(workers) < 40 and len(bases) * 40 >= rebuilds * len(workers):
                worker = forks.start(idle, area)
                wait_for_message(worker, WAIT_SECONDS)
                worker.pipe.recv()
                workers.append(worker)
                if len(workers) in (5, 15, 25, 35):
                    worker.kill(signal.SIGSTOP)
            if publisher.generation % 50 == 0 and len(bases) > rebuilds // 4 and when.random() < 0.1:
                check_stamps(RowReader(area))
        killed, idling = workers[:4], workers[4:]
        for worker in killed:
            worker.kill()
        for worker in idling:
            worker.kill(signal.SIGCONT)
            worker.pipe.send("look")
            wait_for_message(worker, WAIT_SECONDS)
            assert abs(worker.pipe.recv() - publisher.generation) <= 1
        print(f"{len(bases)} bases, {publisher.generation} generations, {taken_bytes():,} bytes")
        assert len(segments(area)) == 2


@pytest.mark.fault(38)
@pytest.mark.fault(26)
@needs_own_shm
@pytest.mark.parametrize("rebuilds", [60, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_idle_workers_never_block_publishing_within_the_memory_bound(area: str, rebuilds: int) -> None:
    def work(pipe: Pipe) -> None:
        small_logs()
        bytes_of_pages = -(-memory_bound(stamped(10**9)) // 4096) * 4096
        in_own_shm(pipe, str(bytes_of_pages), rebuild_often, area, rebuilds)

    with Forks() as forks:
        forks.start(work).finish(1700.0)


# --- forks (32) -----------------------------------------------------------------------------------------------


@pytest.mark.fault(32)
def test_forks_before_and_after_the_first_look_up_follow_the_writer(area: str) -> None:
    from shmroute.worker.reader import Reader

    reader = Reader(area)

    def follow(pipe: Pipe) -> None:
        pipe.recv()
        assert reader.resolve("model-1").version == "2"
        pipe.send("seen")
        pipe.recv()
        assert reader.resolve("model-1").version == "3"

    with Publisher(area) as publisher, Forks() as forks:
        before = forks.start(follow)
        publisher.publish(stamped(1))
        attached = forks.start(follow)
        assert reader.resolve("model-1").version == "1"
        after = forks.start(follow)
        publisher.publish(stamped(2))
        for child in (before, attached, after):
            child.pipe.send("look")
            child.pipe.recv()
        assert reader.resolve("model-1").version == "2"
        publisher.publish(stamped(3))
        for child in (before, attached, after):
            child.pipe.send("look")
            child.finish()
