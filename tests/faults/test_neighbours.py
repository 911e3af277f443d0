"""Attacks and accidents by other users, cleaners and daemonisers: refused, noticed or repaired, with real
processes."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from shmroute.errors import AreaBusy, ConfigError, NoAccess
from shmroute.rows import Kind, encode
from shmroute.shm import layout, posix
from shmroute.shm.control import ControlReader
from shmroute.shm.names import control_name, lock_name, path_of
from shmroute.shm.reader import RowReader
from shmroute.shm.trust import trusted_users
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from tests.forks import Forks, Pipe
from tests.processes import bound
from tests.shm.ground import NO_SHARED_MEMORY, NOBODY, Make, as_root, become_nobody, objects, remove
from tests.shm.tables import current_segment, segments, table

WAIT_SECONDS = 30.0


def row(version: str, model: str = "model") -> dict[tuple[int, str], bytes]:
    return {(Kind.MODEL, model): encode(Route(model, version, "app", "v1", "ns", "app"))}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


MANIFEST = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {{name: one, namespace: ns}}
spec: {{app: one, version: v1, models: [{{name: {model}, version: v1}}]}}
"""


def write(folder: Path, model: str) -> None:
    folder.mkdir(exist_ok=True)
    beside = folder / ".one"
    beside.write_text(MANIFEST.format(model=model))
    beside.rename(folder / "one.yaml")


@contextmanager
def watcher(folder: Path, area: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Yield a real watcher of a folder of manifests; its log is in `folder.log`."""
    with folder.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(
            bound([sys.executable, "-m", "shmroute", "watch", "--manifests", str(folder), "--area", area]),
            stderr=log,
            text=True,
            **options,  # type: ignore[call-overload]
        )
        try:
            yield process
            assert process.poll() is None, "the watcher has ended"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0


def said(folder: Path) -> str:
    return folder.with_suffix(".log").read_text()


# --- names that a stranger takes ------------------------------------------------------------------------------


def as_stranger(work: Callable[[], object]) -> None:
    """Do something as user `nobody`."""

    def child(pipe: Pipe) -> None:
        os.umask(0)
        become_nobody()
        work()

    with Forks() as forks:
        forks.start(child).finish()


@pytest.mark.fault(44)
@as_root
def test_names_taken_in_advance_by_a_stranger_stop_no_watcher(area: str) -> None:
    """Names of the next segments cannot be guessed; names as format 2 numbered them are not used any more."""
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})

        def take() -> None:
            for number in range(2, 30):
                Path(path_of(f"shmroute-{area}.{number}")).mkdir()

        as_stranger(take)
        try:
            for number in range(2, 8):
                publisher._publish_anew({(1, "a"): b"%d" % number})
            assert RowReader(area).get(1, "a") == b"7"
            publisher.close()
            with Publisher(area) as following:
                assert following.get(1, "a") == b"7"
        finally:
            for number in range(2, 30):
                Path(path_of(f"shmroute-{area}.{number}")).rmdir()


@pytest.mark.fault(44)
@as_root
@pytest.mark.parametrize("which", ["control block", "lock"])
def test_a_strangers_file_is_neither_trusted_nor_removed(area: str, which: str) -> None:
    name = control_name(area) if which == "control block" else lock_name(area)

    def make() -> None:
        if which == "control block":
            with Publisher(area) as publisher:
                publisher.publish(row("theirs"))
        path = Path(path_of(name))
        path.touch()
        path.chmod(0o666)

    as_stranger(make)
    uses: list[Callable[[], object]] = [lambda: Publisher(area)]
    if which == "control block":
        uses.append(lambda: Reader(area).resolve("model"))
    for use in uses:
        with pytest.raises(NoAccess, match=f"user {NOBODY} owns it.*SHMROUTE_TRUST={NOBODY}"):
            use()
    assert Path(path_of(name)).stat().st_uid == NOBODY


@as_root
def test_a_reader_trusts_the_users_it_is_configured_to_trust(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> None:
        with Publisher(area) as publisher:
            publisher.publish(row("theirs"))

    as_stranger(make)
    with pytest.raises(NoAccess):
        Reader(area).resolve("model")
    monkeypatch.setenv("SHMROUTE_TRUST", f"4321, {NOBODY}")
    assert Reader(area).resolve("model").version == "theirs"
    with Publisher(area) as publisher:
        assert publisher.get(Kind.MODEL, "model") is not None
        publisher.close(remove=True)


@pytest.mark.parametrize("value", ["root", "1;2", "-1", "1.5", "٣", str(1 << 32)])
def test_trusted_users_that_are_not_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SHMROUTE_TRUST", value)
    with pytest.raises(ConfigError, match="SHMROUTE_TRUST"):
        trusted_users()


@pytest.mark.fault(44)
@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
@pytest.mark.parametrize("which", ["control block", "segment"])
def test_a_file_that_others_may_write_is_refused_by_readers(area: str, mode: int, which: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish(row("v1"))
        name = control_name(area) if which == "control block" else current_segment(area)
        Path(path_of(name)).chmod(mode)
        with pytest.raises(NoAccess, match=f"mode {mode:04o} lets other users write it"):
            Reader(area).resolve("model")


@pytest.mark.fault(44)
@as_root
def test_a_reader_in_the_group_cannot_hold_the_lock(area: str) -> None:
    """A reader may lock the control block, as format 2 did, but nothing waits for that lock."""

    def work(pipe: Pipe) -> None:
        become_nobody([4711])
        descriptor = os.open(path_of(control_name(area)), os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(PermissionError):
            os.open(path_of(lock_name(area)), os.O_RDONLY)
        pipe.send("locked")
        signal.pause()

    with Forks() as forks:
        with Publisher(area, group=4711) as publisher:
            publisher.publish(row("v1"))
        forks.start(work).pipe.recv()
        for version in ("v2", "v3"):
            with Publisher(area, group=4711) as publisher:
                publisher.publish(row(version))
        assert Reader(area).resolve("model").version == "v3"


# --- a watcher of format 2 ------------------------------------------------------------------------------------


def hold_as_format_2(pipe: Pipe, area: str) -> None:
    """Hold the lock of a control block with format version 2."""
    path = Path(path_of(control_name(area)))
    path.write_bytes(layout.CONTROL_HEADER.pack(layout.CONTROL_MAGIC, 2, 0).ljust(layout.CONTROL_BYTES, b"\0"))
    Path(path_of(f"shmroute-{area}.1")).write_bytes(b"a segment of format 2")
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pipe.send("held")
    signal.pause()


def test_live_format_2_watcher_is_kept_and_a_dead_one_replaced(area: str) -> None:
    with Forks() as forks:
        old = forks.start(hold_as_format_2, area)
        old.pipe.recv()
        for _ in range(3):
            with pytest.raises(AreaBusy):
                Publisher(area)
        assert Path(path_of(f"shmroute-{area}.1")).exists(), "its readers still need it"
        old.kill()
        with Publisher(area) as publisher:
            publisher.publish(row("v1"))
            assert not Path(path_of(f"shmroute-{area}.1")).exists()
            assert Reader(area).resolve("model").version == "v1"


def test_a_watcher_of_format_2_finds_its_lock_taken(area: str) -> None:
    with Publisher(area):
        descriptor = os.open(path_of(control_name(area)), os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


# --- a watcher that is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NO_SHARED_MEMORY[:3])
@pytest.mark.parametrize("which", ["control block", "lock"])
def test_watcher_waits_while_other_files_have_its_names(area: str, tmp_path: Path, make: Make, which: str) -> None:
    path = Path(path_of(control_name(area) if which == "control block" else lock_name(area)))
    make(path)
    folder = tmp_path / "manifests"
    write(folder, "model")
    with watcher(folder, area):
        try:
            wait_for(lambda: "not a shared memory object" in said(folder), "the watcher says why it waits")
        finally:
            remove(path)
        reader = Reader(area)
        reader.wait_ready(WAIT_SECONDS)
        assert reader.resolve("model").app == "one"
    Publisher(area).close(remove=True)


# --- files that are removed -----------------------------------------------------------------------------------


@pytest.mark.fault(43)
@pytest.mark.parametrize("removed", ["all", "control block", "lock", "segment"])
def test_files_removed_under_a_watcher_are_made_anew_and_workers_follow(
    area: str, tmp_path: Path, removed: str
) -> None:
    """systemd's RemoveIPC and cleaners of /dev/shm remove files like this."""
    folder = tmp_path / "manifests"
    write(folder, "model")
    with watcher(folder, area):
        reader = Reader(area)
        reader.wait_ready(WAIT_SECONDS)
        assert reader.resolve("model").app == "one"
        generation = reader.generation
        names = {
            "all": objects(area),
            "control block": [control_name(area)],
            "lock": [lock_name(area)],
            "segment": segments(area),
        }[removed]
        for name in names:
            Path(path_of(name)).unlink()
        wait_for(lambda: "it was made anew" in said(folder), "the watcher notices")
        write(folder, "other")
        wait_for(lambda: reader.get("other") is not None, "a worker that had mapped the old area follows")
        assert reader.get("model") is None
        assert reader.generation > generation
        assert Reader(area).resolve("other").app == "one"
        with pytest.raises(AreaBusy):
            Publisher(area)
    Publisher(area).close(remove=True)


@pytest.mark.fault(43)
def test_rows_are_kept_when_files_are_removed_between_two_publishes(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1", (1, "b"): b"2"})
        publisher.control.beat(10, 9, synced=True)
        reader = RowReader(area)
        for name in objects(area):
            posix.unlink(name)
        assert "made anew" in publisher.check_files()
        assert publisher.check_files() == ""
        assert reader.refresh() is None
        assert table(reader) == {(1, "a"): b"1", (1, "b"): b"2"}
        control = ControlReader(area)
        assert (control.contact_ns, control.synced) == (9, True)
        assert publisher.publish({(1, "a"): b"3"}) == 3


@pytest.mark.fault(43)
def test_an_area_now_of_another_watcher_is_not_removed(area: str) -> None:
    publisher = Publisher(area)
    publisher.publish({(1, "a"): b"1"})
    for name in objects(area):
        posix.unlink(name)
    with Publisher(area) as other:
        with pytest.raises(AreaBusy):
            publisher.check_files()
        with pytest.raises(AreaBusy):
            publisher.publish({(1, "a"): b"2"})
        assert other.publish({(1, "a"): b"other"}) == 1
    publisher.close()


# --- descriptors ----------------------------------------------------------------------------------------------


@pytest.mark.fault(51)
def test_closing_all_descriptors_never_closes_foreign_ones_later(area: str) -> None:
    """The descriptors are closed after the first look-up and reused by others; the reader must not close those."""

    def work(pipe: Pipe) -> None:
        reader = Reader(area)
        assert reader.resolve("model").version == "v1"
        number = pipe.fileno()
        for descriptor in range(3, 1000):
            if descriptor != number:
                os.closerange(descriptor, descriptor + 1)
        ends = [os.pipe() for _ in range(100)]
        pipe.send("closed")
        pipe.recv()
        assert reader.resolve("model").version == "v99", "over many new segments"
        reader.close()
        del reader
        gc.collect()
        for reading, writing in ends:
            os.write(writing, b"x")
            assert os.read(reading, 1) == b"x", "still ours"

    with Publisher(area) as publisher, Forks() as forks:
        publisher.publish(row("v1"))
        child = forks.start(work)
        child.pipe.recv()
        for number in range(2, 100):
            publisher._publish_anew(row(f"v{number}"))
        child.pipe.send("go on")
        child.finish()


@pytest.mark.fault(51)
def test_writer_takes_its_lock_again_when_descriptors_are_closed(area: str) -> None:
    def work(pipe: Pipe) -> None:
        publisher = Publisher(area)
        publisher.publish({(1, "a"): b"1"})
        number = pipe.fileno()
        for descriptor in range(3, 1000):
            if descriptor != number:
                os.closerange(descriptor, descriptor + 1)
        ends = [os.pipe() for _ in range(20)]
        assert "made anew" in publisher.check_files()
        for value in range(2, 200):
            publisher.publish({(1, f"k{value}"): os.urandom(20_000)})
        publisher.close()
        for reading, writing in ends:
            os.write(writing, b"x")
            assert os.read(reading, 1) == b"x"

    with Forks() as forks:
        forks.start(work).finish()
    assert RowReader(area).get(1, "a") == b"1"


@pytest.mark.fault(51)
def test_closed_standard_streams_never_become_files_of_the_area(area: str) -> None:
    def work(pipe: Pipe) -> None:
        for descriptor in range(3):
            os.close(descriptor)
        publisher = Publisher(area)
        publisher.publish(row("v1"))
        reader = Reader(area)
        assert reader.resolve("model").version == "v1"
        for descriptor in range(3):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        assert os.open(os.devnull, os.O_RDWR) == 0
        for _ in range(2):
            os.dup(0)
        publisher.publish(row("v2"))
        assert reader.resolve("model").version == "v2"
        publisher.close(remove=True)

    with Forks() as forks:
        forks.start(work).finish()


# --- the standard library -------------------------------------------------------------------------------------


def test_a_segment_is_an_object_of_multiprocessings_shared_memory(area: str) -> None:
    """This runs in a process of its own, whose resource tracker would unlink the segment at the end."""

    def work(pipe: Pipe) -> None:
        from multiprocessing import resource_tracker

        resource_tracker.register = lambda *_: None
        opened = shared_memory.SharedMemory(name=current_segment(area))
        assert opened.buf is not None
        assert bytes(opened.buf[:8]) == layout.SEGMENT_MAGIC
        opened.close()

    with Publisher(area) as publisher, Forks() as forks:
        publisher.publish(row("v1"))
        forks.start(work).finish()
