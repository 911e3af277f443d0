"""Files of shared memory: errors of opening them, their access rights, and that only the writer unlinks them."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shmroute.errors import AreaUnreadable, ConfigError, NoAccess
from shmroute.shm import posix
from shmroute.shm.names import control_name, path_of, segment_names
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from tests.forks import Forks, Pipe
from tests.processes import bound
from tests.shm.ground import NO_SHARED_MEMORY, Make, as_root, become_nobody, limit, objects, remove


@pytest.mark.parametrize("make", NO_SHARED_MEMORY)
@pytest.mark.parametrize("write", [False, True])
def test_fifos_and_other_objects_are_refused_without_waiting(area: str, make: Make, write: bool) -> None:
    name = control_name(area)
    make(Path(path_of(name)))
    try:
        with pytest.raises(AreaUnreadable, match="not a shared memory object"):
            posix.attach(name, write=write)
    finally:
        remove(Path(path_of(name)))


def test_an_empty_object_is_refused(area: str) -> None:
    Path(path_of(control_name(area))).touch()
    with pytest.raises(AreaUnreadable, match="it is empty"):
        posix.attach(control_name(area))


def test_a_missing_file_differs_from_a_forbidden_one(area: str) -> None:
    with pytest.raises(FileNotFoundError):
        posix.attach(control_name(area))


def test_lack_of_descriptors_or_address_space_raises_no_access(area: str) -> None:
    """This runs in a child, because both limits hold for the whole process."""

    def work(pipe: Pipe) -> None:
        name = control_name(area)
        with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(NoAccess, match="Too many open files"):
            posix.attach(name)
        with limit(resource.RLIMIT_AS, 1 << 20), pytest.raises(NoAccess, match="Cannot allocate memory"):
            posix.attach(name)

    with Publisher(area), Forks() as forks:
        forks.start(work).finish()


# --- who may read ----------------------------------------------------------------------------------------------


def modes(area: str) -> dict[str, int]:
    names = [control_name(area), *segment_names(area)]
    return {name: stat.S_IMODE(Path(path_of(name)).stat().st_mode) for name in names}


def test_files_are_readable_by_their_owner_only(area: str) -> None:
    umask = os.umask(0)
    try:
        with Publisher(area) as publisher:
            publisher.publish({(1, "a"): b"1"})
            assert set(modes(area).values()) == {0o600}
    finally:
        os.umask(umask)


def test_the_group_may_read_and_not_write_under_any_umask(area: str) -> None:
    umask = os.umask(0o077)
    try:
        with Publisher(area, group=os.getegid()) as publisher:
            publisher.publish({(1, "a"): b"1"})
            assert len(modes(area)) == 2
            assert set(modes(area).values()) == {0o640}
    finally:
        os.umask(umask)


def test_next_writer_shares_its_predecessors_files_with_its_group(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
    with Publisher(area, group=os.getegid()):
        assert set(modes(area).values()) == {0o640}
    with Publisher(area):
        assert set(modes(area).values()) == {0o600}


@as_root
def test_a_member_of_the_group_reads_what_another_user_publishes(area: str) -> None:
    """This runs in a child, which gives up its rights."""

    def work(pipe: Pipe) -> None:
        become_nobody([4711])
        assert RowReader(area).get(1, "a") == b"1"
        with pytest.raises(NoAccess, match="Permission denied"):
            Publisher(area)

    with Publisher(area, group=4711) as publisher, Forks() as forks:
        publisher.publish({(1, "a"): b"1"})
        forks.start(work).finish()


@as_root
def test_group_without_this_process_is_refused_and_leaves_nothing(area: str) -> None:
    def work(pipe: Pipe) -> None:
        become_nobody()
        for _ in range(2):
            with pytest.raises(ConfigError, match="not in group 4711"):
                Publisher(area, group=4711)
        assert objects(area) == []

    with Forks() as forks:
        forks.start(work).finish()


def test_a_group_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="no group 'no-such-group'"):
        posix.Ownership("no-such-group")


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 99_999_999_999])
def test_an_impossible_group_number_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot have the number {number}"):
        posix.Ownership(number)


# --- the resource tracker --------------------------------------------------------------------------------------

WITHOUT_TRACKER = """
import os, sys
from multiprocessing import resource_tracker

from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.reader import RowReader

publisher = Publisher(sys.argv[1])
publisher.publish({(1, "a"): b"1"})
publisher.close()
publisher = Publisher(sys.argv[1])
publisher.publish({(1, "a"): b"2"})
RowReader(sys.argv[1]).refresh()
assert resource_tracker._resource_tracker._fd is None, "the tracker's process was started"
if sys.argv[2:]:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_rows_outlive_their_writer_without_a_resource_tracker(area: str, killed: bool) -> None:
    command = [sys.executable, "-c", WITHOUT_TRACKER, area, *(["killed"] if killed else [])]
    status = subprocess.run(bound(command), timeout=60).returncode
    assert status == (-9 if killed else 0)
    assert RowReader(area).get(1, "a") == b"2"


READING_CHILDREN = """
import multiprocessing, sys

from shmroute.shm.reader import RowReader


def read(area):
    reader = RowReader(area)
    assert reader.get(1, "a") == b"1"


if __name__ == "__main__":
    for method in ("spawn", "fork", "forkserver"):
        context = multiprocessing.get_context(method)
        processes = [context.Process(target=read, args=(sys.argv[1],)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0, process
"""


def test_multiprocessing_readers_that_end_unlink_nothing(area: str, tmp_path: Path) -> None:
    script = tmp_path / "reading.py"
    script.write_text(READING_CHILDREN)
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        before = segment_names(area)
        finished = subprocess.run(
            bound([sys.executable, "-W", "ignore", str(script), area]), capture_output=True, text=True, timeout=100
        )
        assert finished.returncode == 0, finished.stderr
        assert "leaked" not in finished.stderr
        assert segment_names(area) == before
        assert Path(path_of(control_name(area))).exists()
