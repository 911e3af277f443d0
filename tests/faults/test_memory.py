"""Faults of shared memory: full, damaged, foreign, truncated, owned by another user."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from shmroute.errors import AreaUnreadable, ModelNotFound, NoAccess, OutOfSharedMemory
from shmroute.rows import Kind, encode
from shmroute.shm import layout, posix
from shmroute.shm.names import control_name, lock_name, path_of
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from tests.faults.processes import taken_bytes
from tests.faults.test_processes import wait_for_message, wait_until
from tests.forks import Child, Forks, Pipe
from tests.namespaces import in_own_shm, needs_own_shm, resize_own_shm
from tests.processes import bound
from tests.shm.ground import NO_SHARED_MEMORY, Make, as_root, become_nobody, objects, poke, remove
from tests.shm.tables import Table, current_segment, segments, table

MIB = 1 << 20


class Looks(NamedTuple):
    """How a worker looks rows up again and again."""

    step: int
    """Distance between two rows that are looked up: a page of memory holds about 40 rows."""
    pause_seconds: float
    """Between two rounds, which leaves CPU time for the writer."""


EACH_PAGE = Looks(step=9, pause_seconds=0.1)
EACH_ROW = Looks(step=1, pause_seconds=0.0)

each_form_of_looks = pytest.mark.parametrize(
    "looks", [EACH_PAGE, pytest.param(EACH_ROW, marks=pytest.mark.long)], ids=["each page", "each row"]
)


def routes(count: int, version: str = "v1") -> Table:
    """Return the rows of `count` models, about 80 bytes each."""
    return {
        (Kind.MODEL, f"model-{number}"): encode(Route(f"model-{number}", version, "app", "v1", "ns", "app"))
        for number in range(count)
    }


# --- a full or tiny /dev/shm (27) -----------------------------------------------------------------------------


def watch_area(pipe: Pipe, area: str, looks: Looks) -> None:
    """Read rows of every page again and again, as a worker, and answer each request with the rows seen."""
    reader = Reader(area)
    reader.wait_ready(30.0)
    while True:
        count = len(reader.models())
        for number in range(0, count, looks.step):
            assert reader.resolve(f"model-{number}").app == "app"
        with pytest.raises(ModelNotFound):
            reader.resolve("no-such-model")
        if pipe.poll(looks.pause_seconds):
            if pipe.recv() == "end":
                return
            pipe.send((reader.generation, len(reader.models()), reader.resolve("model-0").version))


def ask(child: Child) -> tuple[int, int, str]:
    """Return the rows that the worker sees now. Fails if the worker has ended."""
    child.pipe.send("say")
    wait_for_message(child, 30.0)
    seen: tuple[int, int, str] = child.pipe.recv()
    return seen


def outgrow(pipe: Pipe, area: str, looks: Looks) -> None:
    """Publish more than fits, in a /dev/shm of 1 MiB."""
    with Forks() as forks, Publisher(area) as publisher:
        publisher.replace(routes(1000))
        workers = [forks.start(watch_area, area, looks) for _ in range(2)]
        assert [ask(worker) for worker in workers] == [(1, 1000, "v1")] * 2

        too_many = routes(12_000, "v2")
        for _ in range(3):
            with pytest.raises(OutOfSharedMemory) as caught:
                publisher.replace(too_many)
            needed = caught.value.needed_bytes
            assert needed > sum(map(len, too_many.values()))
            assert caught.value.free_bytes < MIB
            assert str(needed) in str(caught.value)
            assert "last generation stays served" in str(caught.value)
            assert len(segments(area)) == 1, "what was begun is gone"
            assert [ask(worker) for worker in workers] == [(1, 1000, "v1")] * 2

        assert publisher.replace(routes(1000, "v3")) == 2, "what fits is published meanwhile"
        assert [ask(worker) for worker in workers] == [(2, 1000, "v3")] * 2

        resize_own_shm("64m")
        assert publisher.replace(too_many) == 3, "by the same publisher, without a restart"
        assert [ask(worker) for worker in workers] == [(3, 12_000, "v2")] * 2
        for worker in workers:
            worker.pipe.send("end")
            worker.finish()


@needs_own_shm
@each_form_of_looks
def test_table_beyond_1_mib_is_published_once_there_is_room(area: str, looks: Looks) -> None:
    with Forks() as forks:
        forks.start(in_own_shm, "1m", outgrow, area, looks).finish()


def fill_with_changes(pipe: Pipe, area: str, looks: Looks) -> None:
    """Publish single changes in a /dev/shm of 1 MiB until neither the log nor a rebuild has room."""
    logging.getLogger("shmroute").setLevel(logging.CRITICAL)
    with Forks() as forks:
        publisher = Publisher(area)
        publisher.replace(routes(3000))
        first = publisher.generation
        workers = [forks.start(watch_area, area, looks) for _ in range(2)]
        expected: dict[str, str] = {}
        numbers = itertools.count(1)

        def change_one() -> int:
            number = next(numbers)
            model, version = f"model-{number % 3000}", f"v-{number}"
            publisher.publish({(Kind.MODEL, model): encode(Route(model, version, "app", "v1", "ns", "app"))})
            expected[model] = version
            return number

        number = 0
        full: OutOfSharedMemory | None = None
        while full is None:
            try:
                number = change_one()
            except OutOfSharedMemory as error:
                full = error
            assert number < 100_000
        assert full.needed_bytes < MIB
        assert number > 1000
        free = MIB - taken_bytes()
        if free:
            Path("/dev/shm/filler").write_bytes(bytes(free))
        assert taken_bytes() == MIB, "not a page is left"

        def check(published: Publisher) -> None:
            for model, version in expected.items():
                row = published.get(Kind.MODEL, model)
                assert row is not None
                assert version.encode() in row
            generation = published.generation
            assert [ask(worker)[:2] for worker in workers] == [(generation, 3000)] * 2
            late = RowReader(area)
            assert late.generation == generation
            assert len(table(late)) == 3000

        check(publisher)
        with pytest.raises(OutOfSharedMemory, match="65536 bytes are needed and 0 are free"):
            Publisher(f"{area}-b")
        assert objects(f"{area}-b") == []

        generation = publisher.generation
        publisher.close()
        publisher = Publisher(area)  # a watcher that starts when all is full looks behind the end of the log
        assert publisher.generation == generation
        check(publisher)
        with pytest.raises(OutOfSharedMemory):
            publisher.publish({(Kind.MODEL, "model-0"): bytes(300_000)})
        check(publisher)

        Path("/dev/shm/filler").unlink(missing_ok=True)
        resize_own_shm("8m")
        for number in range(3000):
            publisher.publish(
                {(Kind.MODEL, f"model-{number}"): encode(Route(f"model-{number}", "last", "app", "v1", "ns", "app"))}
            )
            expected[f"model-{number}"] = "last"
            publisher.maintain()
        check(publisher)
        assert RowReader(area).segment.header.start > first, "and a new base was built at last"
        publisher.close(remove=True)


@pytest.mark.fault(27)
@needs_own_shm
@each_form_of_looks
def test_filling_dev_shm_causes_no_sigbus_in_any_process(area: str, looks: Looks) -> None:
    with Forks() as forks:
        forks.start(in_own_shm, "1m", fill_with_changes, area, looks).finish(100.0)


def too_small_for_anything(pipe: Pipe, area: str) -> None:
    with pytest.raises(OutOfSharedMemory, match="65536 bytes are needed"):
        Publisher(area)
    assert objects(area) == []
    resize_own_shm("128k")
    with Publisher(area) as publisher:
        with pytest.raises(OutOfSharedMemory):
            publisher.replace(routes(5000))
        assert objects(area) == [control_name(area), lock_name(area)]
        resize_own_shm("4m")
        assert publisher.replace(routes(5000)) == 1
        publisher.close(remove=True)


@needs_own_shm
def test_first_snapshot_without_room_is_published_once_there_is_room(area: str) -> None:
    with Forks() as forks:
        forks.start(in_own_shm, "48k", too_small_for_anything, area).finish()


MANIFEST = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {{name: {name}, namespace: ns}}
spec:
  app: {name}
  version: v1
  models:
{models}
"""


def write_manifest(folder: Path, name: str, models: int) -> None:
    listed = "\n".join(f"  - {{name: {name}_{number}, version: v1}}" for number in range(models))
    beside = folder / f".{name}.new"
    beside.write_text(MANIFEST.format(name=name, models=listed))
    beside.rename(folder / f"{name}.yaml")


def watch_folder_in_small_shm(pipe: Pipe, area: str, folder: Path) -> None:
    write_manifest(folder, "one", 100)  # and with the next ones far more than 1 MiB
    log = (folder.parent / "log").open("w+")
    watcher = subprocess.Popen(
        bound([sys.executable, "-m", "shmroute", "watch", "--manifests", str(folder), "--area", area]), stderr=log
    )
    try:
        reader = Reader(area)
        reader.wait_ready(60.0)
        assert reader.resolve("one_99").app == "one"
        for name in ("big1", "big2"):
            write_manifest(folder, name, 8_000)
        write_manifest(folder, "one", 101)

        def logged() -> str:
            return Path(log.name).read_text()

        wait_until(lambda: "no room in /dev/shm" in logged(), "the watcher says that there is no room", 60.0)
        assert "bytes are needed and" in logged()
        assert reader.resolve("one_99").app == "one"
        assert reader.get("big1_1") is None or reader.get("big2_1") is None
        assert watcher.poll() is None
        resize_own_shm("64m")
        wait_until(lambda: reader.get("big1_7999") is not None, "what found no room is published", 60.0)
        wait_until(lambda: reader.get("big2_7999") is not None, "what found no room is published", 60.0)
        assert reader.resolve("one_100").app == "one"
        assert watcher.poll() is None, "without a restart"
    finally:
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(30.0) == 0
        log.close()


@pytest.mark.fault(27)
@needs_own_shm
def test_a_watcher_in_1_mib_keeps_serving_and_recovers_without_a_restart(area: str, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    with Forks() as forks:
        forks.start(in_own_shm, "1m", watch_folder_in_small_shm, area, folder).finish(110.0)


# --- damage under a reader's hands (29) -----------------------------------------------------------------------


def damaged_then_mended(area: str, damage: Callable[[Publisher], None], *, seen: bool) -> None:
    """Assert that a worker keeps its rows during the damage, reports it, and follows the next readable generation."""
    with Publisher(area) as publisher:
        publisher.replace(routes(50, "good"))
        now = time.monotonic_ns()
        publisher.control.beat(now, now, synced=True)
        reader = Reader(area)
        assert {reader.resolve(f"model-{number}").version for number in range(50)} == {"good"}
        fresh = Reader(area)
        fresh.attach()
        damage(publisher)
        for number in range(50):
            assert reader.resolve(f"model-{number}").version == "good"
            assert fresh.resolve(f"model-{number}").version == "good", "not even warm"
        assert len(reader.models()) == 50
        assert (reader.fault is not None) == seen
        assert reader.generation == 1
        assert reader.age < 3600
        publisher.replace(routes(51, "mended"))
        for each in (reader, fresh):
            assert each.resolve("model-50").version == "mended"
            assert each.resolve("model-0").version == "mended"
            assert each.fault is None


@pytest.mark.parametrize("word", [float("nan"), float("-inf"), 0.0, -1.0, 0.5, 7.5, 1e300, 2.0**53])
def test_a_worker_keeps_its_rows_when_the_generation_is_damaged(area: str, word: float) -> None:
    def damage(publisher: Publisher) -> None:
        poke(control_name(area), layout.GENERATION_AT, struct.pack("<d", word))

    damaged_then_mended(area, damage, seen=True)


def test_worker_keeps_its_rows_when_a_generation_is_missing(area: str) -> None:
    def damage(publisher: Publisher) -> None:
        poke(control_name(area), layout.GENERATION_AT, struct.pack("<d", 1000.0))

    damaged_then_mended(area, damage, seen=True)


@pytest.mark.parametrize("offset", [*range(0, 64, 4), *range(layout.SEGMENT_AT, layout.SYNCED_AT + 16, 8), 5000, 65535])
def test_attached_worker_ignores_damage_read_only_when_attaching(area: str, offset: int) -> None:
    def damage(publisher: Publisher) -> None:
        poke(control_name(area), offset, b"\xff")

    damaged_then_mended(area, damage, seen=False)


@pytest.mark.parametrize("number", range(20))
def test_worker_keeps_its_rows_when_the_control_block_is_damaged(area: str, number: int) -> None:
    garbage = random.Random(number).randbytes(layout.CONTROL_BYTES)

    def damage(publisher: Publisher) -> None:
        poke(control_name(area), 0, garbage)

    damaged_then_mended(area, damage, seen=True)


def test_unreadable_batch_leaves_the_worker_at_the_former_generation(
    area: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(50, "good"))
        reader = Reader(area)
        assert reader.resolve("model-7").version == "good"
        end = publisher._writer.end if publisher._writer else 0
        publisher.publish(routes(10, "new"))
        at = current_segment(area)
        newest = poke(at, end + 100, b"\xff")
        for _ in range(100):
            assert reader.resolve("model-7").version == "good"
        assert isinstance(reader.fault, AreaUnreadable)
        assert caplog.text.count("cannot be read") == 1, "told once, not at each look-up"
        assert reader.generation == 1
        with pytest.raises(AreaUnreadable, match="newest batch is damaged"):
            Reader(area).resolve("model-7")
        poke(at, end + 100, newest)
        wait_until(lambda: reader.resolve("model-7").version == "new", "it is tried again without news")
        assert reader.fault is None


@pytest.mark.fault(29)
def test_age_does_not_hide_a_fault(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(5))
        reader = Reader(area)
        reader.attach()
        poke(control_name(area), layout.GENERATION_AT, struct.pack("<d", 1000.0))
        reader.resolve("model-1")
        time.sleep(0.05)
        now = time.monotonic_ns()
        publisher.control.beat(now, now, synced=True)
        assert reader.age >= 0.05, "the writer is in step with its source, this worker is not in step with the writer"
        assert reader.age < float("inf"), "it was in step until then"


@pytest.mark.fault(29)
def test_a_damaged_row_is_refused_and_the_others_are_served(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(50, "good"))
        segment = current_segment(area)
        at = Path(path_of(segment)).read_bytes().index(b"model-7")
        reader = Reader(area)
        poke(segment, at, b"M")
        with pytest.raises(AreaUnreadable, match="damaged"):
            reader.resolve("model-7")
        with pytest.raises(AreaUnreadable, match="damaged"):
            reader.models()
        assert {reader.resolve(f"model-{number}").version for number in range(50) if number != 7} == {"good"}
        assert publisher.replace(routes(50, "good")) == 2, "the next whole list mends it"
        assert reader.resolve("model-7").version == "good"


def test_foreign_rows_do_not_become_routes(area: str) -> None:
    """An area written by `Publisher` for another use."""
    with Publisher(area) as publisher:
        publisher.replace({(kind, "x"): b"no msgpack of ours" for kind in range(1, 8)})
        reader = Reader(area)
        for read in (lambda: reader.resolve("x"), lambda: reader.app("x"), reader.models, reader.apps):
            with pytest.raises(AreaUnreadable, match="row"):
                read()


@pytest.mark.parametrize("make", NO_SHARED_MEMORY)
@pytest.mark.parametrize("which", ["control block", "segment"])
def test_worker_refuses_a_foreign_file_named_like_an_area(area: str, make: Make, which: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(5))
    path = Path(path_of(control_name(area) if which == "control block" else current_segment(area)))
    path.unlink()
    make(path)
    try:
        reader = Reader(area)
        for call in (
            lambda: reader.resolve("model-1"),
            lambda: reader.get("model-1"),
            lambda: reader.age,
            lambda: reader.wait_ready(0.02),
            lambda: next(reader.changes()),
        ):
            with pytest.raises(AreaUnreadable, match="not a shared memory object"):
                call()
    finally:
        remove(path)


@pytest.mark.fault(29)
@pytest.mark.parametrize("size", [0, 1, 11, 16, 63, 64, 127, 128, 200, 4096, 65535, 8320, 8392])
@pytest.mark.parametrize("which", ["", ".1"])
def test_truncated_files_are_refused(area: str, size: int, which: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(5))
    path = Path(path_of(control_name(area) if which == "control block" else current_segment(area)))
    content = path.read_bytes()[:size]
    path.unlink()  # a file that is cut while it is mapped is beyond anybody's help: nobody but the owner can
    path.write_bytes(content)
    with pytest.raises(AreaUnreadable):
        Reader(area).resolve("model-1")
    with Publisher(area) as publisher:
        publisher.replace(routes(5, "anew"))
        assert Reader(area).resolve("model-1").version == "anew"


@pytest.mark.fault(29)
def test_other_format_version_is_refused_until_it_is_replaced(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(5, "old"))
        staying = Reader(area)
        assert staying.resolve("model-1").version == "old"
    poke(control_name(area), 8, struct.pack("<I", layout.FORMAT_VERSION + 1))
    reader = Reader(area)
    with pytest.raises(AreaUnreadable, match=rf"version {layout.FORMAT_VERSION + 1}.* version {layout.FORMAT_VERSION}"):
        reader.resolve("model-1")
    with Publisher(area) as publisher:
        publisher.replace(routes(5, "new"))
        assert reader.resolve("model-1").version == "new"
        assert staying.resolve("model-1").version == "old", "and grows stale"


def test_worker_waits_for_a_watcher_of_its_own_version(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace(routes(5, "old"))
    poke(control_name(area), 8, struct.pack("<I", layout.FORMAT_VERSION + 1))

    def wait(pipe: Pipe) -> None:
        reader = Reader(area)
        pipe.send("waiting")
        reader.wait_ready(30.0)
        assert reader.resolve("model-1").version == "new"

    with Forks() as forks:
        child = forks.start(wait)
        child.pipe.recv()
        time.sleep(0.05)
        with Publisher(area) as publisher:
            publisher.replace(routes(5, "new"))
            child.finish()


# --- another user ---------------------------------------------------------------------------------------------


@as_root
def test_another_users_area_is_a_clear_error_for_workers_and_watchers(area: str) -> None:
    def work(pipe: Pipe) -> None:
        become_nobody()
        reader = Reader(area)
        words = "user 0 owns it, mode 0600; this process is user 65534"
        for call in (lambda: reader.resolve("model-1"), lambda: reader.wait_ready(0.01), lambda: Publisher(area)):
            with pytest.raises(NoAccess, match=words) as caught:
                call()
            assert isinstance(caught.value.__cause__, PermissionError)

    with Publisher(area) as publisher, Forks() as forks:
        publisher.replace(routes(5))
        forks.start(work).finish()


@as_root
def test_a_worker_of_another_user_in_the_group_reads_and_follows(area: str) -> None:
    def work(pipe: Pipe) -> None:
        become_nobody([4711])
        reader = Reader(area)
        assert reader.resolve("model-1").version == "v1"
        pipe.send("attached")
        pipe.recv()
        assert reader.resolve("model-1").version == "v2"
        pipe.send("followed")
        pipe.recv()
        assert reader.resolve("model-1000").version == "v3", "into a segment that was made later"

    with Publisher(area, group=4711) as publisher, Forks() as forks:
        publisher.replace(routes(5))
        child = forks.start(work)
        child.pipe.recv()
        publisher.replace(routes(5, "v2"))
        child.pipe.send("go on")
        child.pipe.recv()
        publisher.replace(routes(20_000, "v3"))
        child.pipe.send("go on")
        child.finish()


@as_root
def test_worker_without_read_access_keeps_its_rows(area: str) -> None:
    """The area loses its group, so the worker cannot open the next segment."""

    def work(pipe: Pipe) -> None:
        become_nobody([4711])
        reader = Reader(area)
        assert reader.resolve("model-1").version == "v1"
        pipe.send("attached")
        pipe.recv()
        assert reader.resolve("model-1").version == "v1"
        assert isinstance(reader.fault, NoAccess)

    with Publisher(area, group=4711) as publisher, Forks() as forks:
        publisher.replace(routes(5))
        child = forks.start(work)
        child.pipe.recv()
        publisher._ownership = posix.Ownership()
        publisher.replace(routes(20_000, "v2"))
        child.pipe.send("look")
        child.finish()


def test_umask_and_current_folder_do_not_matter(area: str, tmp_path: Path) -> None:
    folder = Path.cwd()
    before = os.umask(0o777)
    try:
        os.chdir(tmp_path)
        with Publisher(area) as publisher:
            publisher.replace(routes(5))
            assert Reader(area).resolve("model-1").version == "v1"
    finally:
        os.umask(before)
        os.chdir(folder)
