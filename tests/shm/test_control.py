"""The control block: the generation, the lock, and the writer's status."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading
from pathlib import Path

import pytest

from shmroute.errors import AreaBusy, AreaUnreadable
from shmroute.shm import layout, posix
from shmroute.shm.control import ControlReader
from shmroute.shm.names import control_name, lock_name, path_of, segment_names
from shmroute.shm.writing.control import ControlWriter
from shmroute.shm.writing.publisher import Publisher
from tests.forks import Forks, Pipe
from tests.shm import ground
from tests.shm.ground import descriptors, objects


def poke(area: str, offset: int, data: bytes) -> None:
    """Overwrite bytes of the control block."""
    ground.poke(control_name(area), offset, data)


def test_a_fresh_area_has_generation_0_and_no_segment(area: str) -> None:
    with Publisher(area, now_ns=5):
        control = ControlReader(area)
        assert control.generation == 0
        assert control.segment == 0
        assert not control.retired
        assert not control.synced
        assert control.contact_ns == 0
        assert control.heartbeat_ns == control.writer_started_ns == 5
        assert control.writer_pid == os.getpid()
        assert control.status() is None


def test_heartbeat_is_seen_and_a_contact_of_0_keeps_the_last_one(area: str) -> None:
    with Publisher(area) as publisher:
        control = ControlReader(area)
        publisher.control.beat(10, 9, synced=True)
        assert (control.heartbeat_ns, control.contact_ns, control.synced) == (10, 9, True)
        publisher.control.beat(20, 0, synced=False)
        assert (control.heartbeat_ns, control.contact_ns, control.synced) == (20, 9, False)


def test_a_contact_may_lie_before_time_0_of_the_clock(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.control.beat(10, -9, synced=True)
        assert ControlReader(area).contact_ns == -9


def test_the_next_writer_stores_its_pid_and_keeps_the_last_contact(area: str) -> None:
    with Publisher(area, now_ns=1) as publisher:
        publisher.control.beat(10, 9, synced=True)
    with Publisher(area, now_ns=100):
        control = ControlReader(area)
        assert (control.writer_started_ns, control.heartbeat_ns) == (100, 100)
        assert control.contact_ns == 9
        assert not control.synced, "it has not listed yet"


def test_readers_get_the_newest_complete_status_page(area: str) -> None:
    with Publisher(area) as publisher:
        control = ControlReader(area)
        for number in range(5):
            publisher.control.store_status(b"page %d" % number * (5 - number))
            assert control.status() == b"page %d" % number * (5 - number)


def test_a_status_page_that_is_too_long_is_left_out(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.control.store_status(b"good")
        publisher.control.store_status(b"x" * layout.STATUS_BYTES)
        assert ControlReader(area).status() == b"good"
        longest = b"y" * (layout.STATUS_BYTES - layout.STATUS_HEADER.size)
        publisher.control.store_status(longest)
        assert ControlReader(area).status() == longest


def test_half_written_status_page_is_ignored_for_the_previous_one(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.control.store_status(b"one")
        publisher.control.store_status(b"two")
        newest = layout.STATUS_AT[0]
        for damage in range(layout.STATUS_HEADER.size + 3):
            before = Path(path_of(f"shmroute-{area}")).read_bytes()[newest + damage]
            poke(area, newest + damage, bytes([before ^ 0xFF]))
            assert ControlReader(area).status() in (b"one", b"two")
            poke(area, newest + damage, bytes([before]))
        assert ControlReader(area).status() == b"two"


def test_next_writer_continues_the_former_writers_status_page(area: str) -> None:
    with Publisher(area) as publisher:
        for number in range(3):
            publisher.control.store_status(b"%d" % number)
    with Publisher(area) as publisher:
        publisher.control.store_status(b"mine")
        assert ControlReader(area).status() == b"mine"


@pytest.mark.parametrize("word", [float("nan"), -1.0, 0.5, 2.0**53, 1e300, float("-inf")])
def test_a_damaged_generation_number_is_refused(area: str, word: float) -> None:
    with Publisher(area):
        poke(area, layout.GENERATION_AT, struct.pack("<d", word))
        with pytest.raises(AreaUnreadable, match="generation is damaged"):
            _ = ControlReader(area).generation


# --- the lock --------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_with_the_pid_of_the_first(area: str) -> None:
    with Publisher(area):
        with pytest.raises(AreaBusy) as caught:
            Publisher(area)
        assert caught.value.pid == os.getpid()
        assert caught.value.area == area
        assert str(os.getpid()) in str(caught.value)


def test_a_refused_writer_leaves_no_descriptor_open(area: str) -> None:
    with Publisher(area):
        before = descriptors()
        for _ in range(50):
            with pytest.raises(AreaBusy):
                Publisher(area)
        assert descriptors() <= before


def test_the_lock_is_released_when_its_process_dies(area: str) -> None:
    def hold(pipe: Pipe) -> None:
        publisher = Publisher(area)
        pipe.send(publisher.generation)
        signal.pause()

    with Forks() as forks:
        child = forks.start(hold)
        child.pipe.recv()
        with pytest.raises(AreaBusy) as caught:
            Publisher(area)
        assert caught.value.pid == child.pid
        child.kill()
        Publisher(area).close()


@pytest.mark.fault(32)
def test_a_forked_child_does_not_keep_the_lock_when_its_parent_is_killed(area: str) -> None:
    def hold(pipe: Pipe) -> None:
        publisher = Publisher(area)
        if not os.fork():
            signal.alarm(30)
            pipe.send(os.getpid())  # by now it has closed what it inherited
        signal.pause()
        publisher.close()

    with Forks() as forks:
        child = forks.start(hold)
        grandchild = child.pipe.recv()
        child.kill()
        try:
            Publisher(area).close()
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_a_forked_child_neither_writes_nor_removes_the_area(area: str) -> None:
    def misuse(pipe: Pipe, publisher: Publisher) -> None:
        with pytest.raises(AreaBusy):
            publisher.publish({(1, "a"): b"child"})
        with pytest.raises(AreaBusy):
            publisher.replace({})
        with pytest.raises(AreaBusy):
            publisher.maintain()
        publisher.close(remove=True)

    with Publisher(area) as publisher, Forks() as forks:
        publisher.publish({(1, "a"): b"parent"})
        forks.start(misuse, publisher).finish()
        assert publisher.publish({(1, "a"): b"parent again"}) == 2
        with pytest.raises(AreaBusy):
            Publisher(area)


def test_closing_releases_the_lock_though_a_child_has_inherited_it(area: str) -> None:
    publisher = Publisher(area)
    inherited = os.dup(publisher.control._lock.descriptor)  # what a fork without Python's hooks leaves in the child
    try:
        publisher.close()
        Publisher(area).close()
    finally:
        os.close(inherited)


def test_a_closed_writer_can_be_closed_again(area: str) -> None:
    publisher = Publisher(area)
    publisher.close()
    publisher.close()


# --- taking over ----------------------------------------------------------------------------------------------


def test_control_block_of_another_format_is_replaced_with_its_segments(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
    poke(area, 8, struct.pack("<I", 99))
    with pytest.raises(AreaUnreadable, match="format version 99"):
        ControlReader(area)
    with Publisher(area) as publisher:
        assert publisher.generation == 0
        assert segment_names(area) == []
        assert publisher.publish({(1, "a"): b"2"}) == 1


def test_a_live_writer_of_another_format_is_not_replaced(area: str) -> None:
    with Publisher(area):
        poke(area, 8, struct.pack("<I", 99))
        with pytest.raises(AreaBusy):
            Publisher(area)


@pytest.mark.parametrize("content", [b"", b"short", b"something else" * 10_000])
def test_an_unlocked_foreign_file_of_that_name_is_replaced(area: str, content: bytes) -> None:
    Path(path_of(f"shmroute-{area}")).write_bytes(content)
    with Publisher(area) as publisher:
        assert publisher.publish({(1, "a"): b"1"}) == 1


def test_a_directory_of_that_name_is_refused_and_left_alone(area: str) -> None:
    directory = Path(path_of(f"shmroute-{area}"))
    directory.mkdir()
    try:
        with pytest.raises(AreaUnreadable, match="not a shared memory object"):
            Publisher(area)
        assert directory.is_dir()
    finally:
        directory.rmdir()


def test_a_directory_among_the_leftovers_is_kept(area: str, caplog: pytest.LogCaptureFixture) -> None:
    directory = Path(path_of(f"shmroute-{area}.77"))
    directory.mkdir()
    try:
        with Publisher(area) as publisher:
            assert "a leftover stays" in caplog.text
            assert publisher.publish({(1, "a"): b"1"}) == 1
            publisher.close(remove=True)
    finally:
        directory.rmdir()


def test_one_of_many_writers_that_start_at_once_gets_the_area(area: str) -> None:
    """No writer sees a half-made control block: each finds none or a complete one, or is too late."""
    for _ in range(20):
        start = threading.Barrier(4)
        results: list[object] = []

        def take(start: threading.Barrier = start, results: list[object] = results) -> None:
            start.wait()
            try:
                results.append(ControlWriter.acquire(area, posix.Ownership()))
            except AreaBusy as error:
                results.append(error)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writers = [result for result in results if isinstance(result, ControlWriter)]
        assert len(results) == 4
        assert len(writers) == 1
        assert objects(area) == [control_name(area), lock_name(area)]
        writers[0].close()
        posix.unlink(f"shmroute-{area}")


def test_an_unfinished_removal_is_finished_by_the_next_writer(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        publisher.control.retire()
        old = ControlReader(area)
    assert old.retired
    with Publisher(area) as publisher:
        assert publisher.generation == 0
        assert segment_names(area) == []
        assert old.retired, "whoever maps the old block goes on looking for the new one"
        assert not ControlReader(area).retired


def test_reading_a_control_block_does_not_release_the_lock(area: str) -> None:
    """A POSIX record lock would be released by any close of the same file in the process."""
    with Publisher(area):
        for _ in range(3):
            ControlReader(area)
        descriptor = os.open(path_of(control_name(area)), os.O_RDWR)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


@pytest.mark.fault(25)
def test_a_control_block_that_is_replaced_before_it_is_locked_is_not_written(
    area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writer of another format version, or the end of an area, does it to one that has opened the old block."""
    Publisher(area).close()
    opened: list[int] = []
    flock = fcntl.flock

    def replaced_first(descriptor: int, operation: int) -> None:
        if not opened:
            opened.append(os.fstat(descriptor).st_ino)
            posix.unlink(control_name(area))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replaced_first)
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        assert ControlReader(area).generation == 1
        with pytest.raises(AreaBusy):
            Publisher(area)
    assert opened
