"""The workers' register shows who reads the area; its failure never makes a worker fail."""

from __future__ import annotations

import fcntl
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import AreaUnreadable
from shmroute.native import native
from shmroute.shm import layout
from shmroute.shm.names import path_of, register_name
from shmroute.shm.register import Register, WorkerNote, read_workers
from shmroute.shm.writing.publisher import Publisher
from tests.forks import Forks, Pipe
from tests.shm.ground import NO_SHARED_MEMORY, Make, as_root, become_nobody, descriptors, poke, remove


def path(area: str) -> Path:
    return Path(path_of(register_name(area)))


def test_register_shows_a_process_and_its_generation_until_it_leaves(area: str) -> None:
    with Publisher(area):
        assert read_workers(area) == []
        times = iter(range(100, 200))
        register = Register(area, lambda: next(times))
        register.note(7)
        twin = "plain" if native is None else "native"
        assert read_workers(area) == [WorkerNote(os.getpid(), 7, 100, 100, 0, "", twin)]
        register.note(7, 9, "denied: " + "ä" * 100)
        (note,) = read_workers(area)
        assert (note.generation, note.stuck_at, note.noted_ns) == (7, 9, 101)
        assert note.reason.startswith("denied: ää")
        assert len(note.reason.encode()) in (layout.MAX_REASON_BYTES - 1, layout.MAX_REASON_BYTES)
        register.leave()
        assert read_workers(area) == []


def test_register_notes_moves_every_10_ms_and_stuck_workers_at_once(area: str) -> None:
    now = 1

    def noted(generation: int, *stuck: Any) -> tuple[int, int]:
        register.note(generation, *stuck)
        (note,) = read_workers(area)
        return note.generation, note.stuck_at

    with Publisher(area):
        register = Register(area, lambda: now)
        assert noted(1) == (1, 0)
        now += 9_999_999
        assert noted(2) == (1, 0), "too early"
        assert noted(2, 3, "denied") == (2, 3)
        assert noted(2, 4, "denied") == (2, 4)
        assert noted(5) == (5, 0)
        assert noted(6) == (5, 0), "too early"
        now += 10_000_000
        assert noted(7) == (7, 0)
        register.leave()
        assert noted(8) == (8, 0), "a place that was just taken"
        register.leave()


def test_a_killed_process_leaves_the_register_at_once(area: str) -> None:
    def work(pipe: Pipe) -> None:
        register = Register(area)
        register.note(3)
        pipe.send("noted")
        signal.pause()

    with Publisher(area), Forks() as forks:
        children = [forks.start(work) for _ in range(5)]
        for child in children:
            child.pipe.recv()
        assert sorted(note.pid for note in read_workers(area)) == sorted(child.pid for child in children)
        children[0].kill()
        assert sorted(note.pid for note in read_workers(area)) == sorted(child.pid for child in children[1:])


def test_a_forked_child_registers_itself_and_leaves_no_ghost(area: str) -> None:
    with Publisher(area), Forks() as forks:
        register = Register(area)
        register.note(1)

        def work(pipe: Pipe) -> None:
            register.start_in_child()
            register.note(2)
            pipe.send("noted")
            signal.pause()

        child = forks.start(work)
        child.pipe.recv()
        assert {(note.pid, note.generation) for note in read_workers(area)} == {(os.getpid(), 1), (child.pid, 2)}
        register.leave()
        assert [note.pid for note in read_workers(area)] == [child.pid], "the child does not share the parent's lock"


def test_idle_forked_child_does_not_keep_its_parents_place(area: str) -> None:
    with Publisher(area), Forks() as forks:
        register = Register(area)
        register.note(1)

        def work(pipe: Pipe) -> None:
            register.start_in_child()
            pipe.send("started")
            signal.pause()

        forks.start(work).pipe.recv()
        assert [note.pid for note in read_workers(area)] == [os.getpid()]
        register.leave()
        assert read_workers(area) == []


def test_a_closed_descriptor_reused_by_others_is_not_written(area: str, tmp_path: Path) -> None:
    """A daemoniser may have closed every descriptor."""
    times = count(0, 1_000_000_000)
    with Publisher(area):
        register = Register(area, lambda: next(times))
        register.note(1)
        number = register._descriptor
        os.close(number)
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        try:
            if other != number:
                os.dup2(other, number)
            register.note(2)
            assert (tmp_path / "other").read_bytes() == b""
            assert os.fstat(number).st_ino == os.fstat(other).st_ino, "nor closed"
            assert [note.generation for note in read_workers(area)] == [2]
        finally:
            register.leave()
            os.close(number)
            if other != number:
                os.close(other)


def test_a_worker_without_a_free_register_place_works_unseen(area: str) -> None:
    with Publisher(area):
        with path(area).open("rb") as file:
            shared = layout.REGISTER_HEADER_BYTES, layout.REGISTER_BYTES - layout.REGISTER_HEADER_BYTES
            lock = fcntl.F_RDLCK, os.SEEK_SET, *shared, 0
            from shmroute.shm.register import _FLOCK

            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(*lock))
            register = Register(area)
            register.note(1)
            assert register.problem == "every place is locked"
            assert read_workers(area) == []
        assert Register(area).problem == ""


@pytest.mark.parametrize("damage", ["gone", "cut", "foreign", "replaced"])
def test_unusable_register_costs_nothing_and_is_used_again_later(area: str, damage: str) -> None:
    now = 0
    with Publisher(area) as publisher:
        register = Register(area, lambda: now)
        register.note(1)
        if damage == "cut":
            os.truncate(path(area), 10)
        elif damage == "foreign":
            poke(register_name(area), 0, b"x")
        else:
            path(area).unlink()
        now += 2_000_000_000
        register.note(2)
        if damage == "gone":
            assert "No such file" in register.problem
        if damage != "replaced":
            path(area).unlink(missing_ok=True)
        assert publisher.check_files() == ""
        assert read_workers(area) == []
        now += 20_000_000_000
        register.note(3)
        assert [note.generation for note in read_workers(area)] == [3]
        register.leave()


@pytest.mark.parametrize("make", NO_SHARED_MEMORY)
def test_foreign_register_file_stops_neither_writer_nor_worker(
    area: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make(path(area))
    try:
        with Publisher(area) as publisher:
            assert publisher.publish({(1, "a"): b"1"}) == 1
            assert "no workers' register" in caplog.text
            register = Register(area)
            register.note(1)
            assert "not a shared memory object" in register.problem
            with pytest.raises(AreaUnreadable):
                read_workers(area)
    finally:
        remove(path(area))


@as_root
def test_only_workers_of_the_group_may_write_the_register(area: str) -> None:
    def member(pipe: Pipe) -> None:
        become_nobody([4711])
        register = Register(area)
        register.note(1)
        assert register.problem == ""
        pipe.send("noted")
        pipe.recv()

    def stranger(pipe: Pipe) -> None:
        become_nobody()
        register = Register(area)
        register.note(1)
        assert "Permission denied" in register.problem

    with Publisher(area, group=4711), Forks() as forks:
        child = forks.start(member)
        child.pipe.recv()
        forks.start(stranger).finish()
        assert [note.pid for note in read_workers(area)] == [child.pid]
        child.pipe.send("end")
        child.finish()


def test_damaged_register_notes_are_ignored(area: str) -> None:
    with Publisher(area):
        name = register_name(area)
        register = Register(area)
        register.note(5)
        at = layout.REGISTER_HEADER_BYTES + register._place * layout.WORKER_BYTES
        for offset in range(layout.WORKER.size):
            before = poke(name, at + offset, b"\xa5")
            assert read_workers(area) == [] or before == b"\xa5"
            poke(name, at + offset, before)
        poke(name, at + 40, b"\xff\xff\xff\xff")
        assert read_workers(area) == []
        register.leave()


def test_leaving_processes_close_their_register_descriptors(area: str) -> None:
    with Publisher(area):
        before = descriptors()
        registers = [Register(area) for _ in range(50)]
        for number, register in enumerate(registers):
            register.note(number)
        assert sorted(note.generation for note in read_workers(area)) == list(range(50))
        for register in registers:
            register.leave()
        assert descriptors() == before
