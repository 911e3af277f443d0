"""Reading from any process: one complete generation at a time, across bases, resets and writers."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from shmroute import shm
from shmroute.errors import AreaUnreadable, NoAccess, NotReady, SnapshotExpired
from shmroute.shm import layout, posix
from shmroute.shm import reader as reading
from shmroute.shm.names import control_name, path_of
from shmroute.shm.reader import RowChange, RowReader
from shmroute.shm.segment import Segment
from shmroute.shm.writing import publisher as publishing
from shmroute.shm.writing.publisher import Publisher
from tests.forks import Forks, Pipe
from tests.shm.ground import NO_SHARED_MEMORY, Make, as_root, become_nobody, limit, poke, remove
from tests.shm.tables import Table, changed, current_segment, segments, table


def test_reading_before_the_first_publish_is_not_ready(area: str) -> None:
    with pytest.raises(NotReady, match=area):
        RowReader(area)
    with Publisher(area) as publisher:
        with pytest.raises(NotReady):
            RowReader(area)
        publisher.replace({})
        assert RowReader(area).generation == 1


def test_a_reader_stays_at_its_generation_until_it_is_refreshed(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        reader = RowReader(area)
        publisher.publish({(1, "a"): b"2", (1, "b"): b"3"})
        publisher.publish({(1, "a"): None})
        assert table(reader) == {(1, "a"): b"1"}
        assert reader.generation == 1
        assert sorted(reader.refresh() or []) == [(1, b"a"), (1, b"a"), (1, b"b")]
        assert table(reader) == {(1, "b"): b"3"}
        assert reader.generation == 3
        assert reader.refresh() == []


def test_a_snapshot_stays_at_its_generation(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        reader = RowReader(area)
        snapshot = reader.snapshot()
        publisher.publish({(1, "a"): b"2"})
        reader.refresh()
        assert (snapshot.generation, snapshot.get(1, "a")) == (1, b"1")
        assert (reader.generation, reader.get(1, "a")) == (2, b"2")


def test_an_impossible_key_is_absent(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        reader = RowReader(area)
        assert reader.get(1, "\udc80") is None
        assert reader.get(1, "k" * 100_000) is None
        assert reader.get(1, "") is None
        assert reader.get(300, "a") is None


@pytest.mark.usefixtures("small_segments")
def test_reader_follows_to_a_new_base_and_knows_what_changed(area: str) -> None:
    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): b"0" for number in range(50)}
        publisher.replace(rows)
        reader = RowReader(area)
        bases = set()
        for number in range(400):
            change: Table = {(1, f"k{number % 50}"): b"new %d" % number}
            rows |= change
            publisher.publish(change)
            bases.add(reader.segment.header.start)
            assert reader.refresh() == [(1, f"k{number % 50}".encode())]
        assert len(bases) > 10
        assert table(reader) == rows


@pytest.mark.usefixtures("small_segments")
def test_reader_several_bases_behind_reads_the_newest_rows(area: str) -> None:
    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): b"0" for number in range(50)}
        publisher.replace(rows)
        for behind in (1, 10, 100, 1000):
            reader = RowReader(area)
            for number in range(behind):
                change: Table = {(1, f"k{number % 50}"): b"%d %d" % (behind, number)}
                rows |= change
                publisher.publish(change)
            reader.refresh()
            assert table(reader) == rows
            assert reader.generation == publisher.generation


@pytest.mark.usefixtures("small_segments")
def test_a_snapshot_outlives_one_base_and_then_raises_expired(area: str) -> None:
    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): b"%d" % number for number in range(50)}
        publisher.replace(rows)
        reader = RowReader(area)
        start = reader.segment.header.start
        number = 0

        def publish_until(done: Callable[[], bool]) -> None:
            nonlocal number
            while not done():
                number += 1
                publisher.publish({(1, f"k{number % 50}"): b"other"})

        publish_until(lambda: publisher.control.segment != reader.segment.header.identity)
        assert not reader.expired
        assert table(reader) == rows, "the retired segment is still whole"
        listing = reader.rows()
        seen = [next(listing)]
        publish_until(lambda: publisher.control.oldest > start)
        assert reader.expired
        for read in (lambda: reader.get(1, "k1"), lambda: reader.get(1, "absent"), lambda: list(reader.rows())):
            with pytest.raises(SnapshotExpired, match=area):
                read()
        with pytest.raises(SnapshotExpired):
            reader.advance()
        assert not reader.seek(reader.generation)
        with suppress(SnapshotExpired):
            seen.extend(listing)
        assert all(rows[kind, key] == value for kind, key, value in seen), "what was given out was right"
        assert reader.refresh() is None, "any row may have changed"
        assert reader.generation == publisher.generation
        assert table(reader) == table(RowReader(area))
        assert len(segments(area)) == 2


@pytest.mark.usefixtures("small_segments")
def test_a_snapshot_of_a_removed_area_never_expires(area: str) -> None:
    publisher = Publisher(area)
    rows: Table = {(1, f"k{number}"): b"%d" % number for number in range(50)}
    publisher.replace(rows)
    reader = RowReader(area)
    publisher.close(remove=True)
    with Publisher(area) as publisher:
        for number in range(1000):
            publisher.publish({(1, f"k{number % 50}"): b"%d" % number})
        assert table(reader) == rows


# --- advance and seek -----------------------------------------------------------------------------------------


def test_advance_reports_exactly_what_each_generation_changed(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1", (1, "b"): b"2"})
        reader = RowReader(area)
        assert reader.advance() is None
        publisher.publish({(1, "a"): b"11", (1, "b"): None, (2, "c"): b"3"})
        publisher.publish({(1, "b"): b"22"})
        assert sorted(reader.advance() or []) == [
            RowChange(1, "a", b"1", b"11"),
            RowChange(1, "b", b"2", None),
            RowChange(2, "c", None, b"3"),
        ]
        assert reader.generation == 2
        assert reader.advance() == [RowChange(1, "b", None, b"22")]
        assert reader.advance() is None
        assert reader.generation == 3


@pytest.mark.fault(23)
@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("stay_behind", [1, 3, 50, 500])
def test_changes_from_advance_add_up_to_the_newest_rows(area: str, stay_behind: int) -> None:
    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): b"0" for number in range(40)}
        publisher.replace(rows)
        reader = RowReader(area)
        followed = dict(rows)
        for number in range(1000):
            change = {(1, f"k{number % 45}"): None if number % 7 == 3 else b"%d" % number, (2, "n"): b"%d" % number}
            rows = changed(rows, change)
            publisher.publish(change)
            if number % 250 == 100:  # a whole new table
                publisher.publish(big := {(3, f"big{number}"): bytes(100_000)})
                rows |= big
            if number % stay_behind == 0:
                try:
                    while (changes := reader.advance()) is not None:
                        for kind, key, old, new in changes:
                            assert followed.get((kind, key)) == old
                            assert old != new
                            followed = changed(followed, {(kind, key): new})
                except SnapshotExpired:
                    assert stay_behind > 3
                    assert reader.expired
                    reader.refresh()
                    followed = table(reader)
                assert followed == rows


@pytest.mark.usefixtures("small_segments")
def test_seek_goes_back_to_the_base_of_the_segment(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace({(1, "a"): b"0"})
        for number in range(1, 500):
            publisher.publish({(1, "a"): b"%d" % number})
            reader = RowReader(area)
            start, newest = reader._place.segment.header.start, reader.generation
            before = {}
            for generation in range(start, newest + 1):
                assert reader.seek(generation)
                assert reader.generation == generation
                before[generation] = reader.get(1, "a")
                reader.refresh()
            assert before[newest] == b"%d" % number
            for out_of_reach in (0, start - 1, newest + 1, -1):
                assert not reader.seek(out_of_reach)
                assert reader.generation == newest
            if number > 20 and newest - start > 5:
                reader.seek(newest - 3)
                steps = 0
                while reader.advance() is not None:
                    steps += 1
                assert steps == 3


# --- areas that come and go -----------------------------------------------------------------------------------


def test_reader_of_removed_area_keeps_rows_and_follows_to_the_next(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"old", (1, "b"): b"same"})
        reader, follower = RowReader(area), RowReader(area)
        publisher.close(remove=True)
    assert reader.refresh() == []
    assert follower.advance() is None
    assert table(reader) == {(1, "a"): b"old", (1, "b"): b"same"}
    with Publisher(area) as publisher:
        assert reader.refresh() == []
        publisher.publish({(1, "a"): b"new", (1, "b"): b"same", (1, "c"): b"more"})
        assert reader.refresh() is None
        assert table(reader) == {(1, "a"): b"new", (1, "b"): b"same", (1, "c"): b"more"}
        assert sorted(follower.advance() or []) == [RowChange(1, "a", b"old", b"new"), RowChange(1, "c", None, b"more")]
        assert reader.generation == follower.generation == 1
        publisher.publish({(1, "a"): b"newer"})
        assert reader.refresh() == [(1, b"a")]


def test_reader_attaches_when_the_writer_died_before_publishing(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        publisher.publish({(1, "a"): bytes(10_000_000)})
        assert len(segments(area)) == 2
    poke(control_name(area), layout.GENERATION_AT, struct.pack("<d", 1.0))
    reader = RowReader(area)
    assert reader.generation == 2
    assert reader.refresh() == []
    with Publisher(area) as publisher:
        assert publisher.generation == 2
        publisher.publish({(1, "a"): b"3"})
        assert reader.refresh() == [(1, b"a")]
        assert reader.get(1, "a") == b"3"


# --- what cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NO_SHARED_MEMORY)
@pytest.mark.parametrize("which", ["control block", "segment"])
def test_a_foreign_file_of_that_name_is_refused(area: str, make: Make, which: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
    path = Path(path_of(control_name(area) if which == "control block" else current_segment(area)))
    path.unlink()
    make(path)
    try:
        with pytest.raises(AreaUnreadable, match="not a shared memory object"):
            RowReader(area)
    finally:
        remove(path)


@pytest.mark.parametrize("content", [b"", b"x", b"shmrseg\n", bytes(100_000)])
@pytest.mark.parametrize("which", ["control block", "segment"])
def test_truncated_or_foreign_areas_are_refused(area: str, content: bytes, which: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
    path = Path(path_of(control_name(area) if which == "control block" else current_segment(area)))
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(AreaUnreadable, match=path.name):
        RowReader(area)


@pytest.mark.fault(30)
def test_missing_segment_is_an_error_after_a_few_retries(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def noted(name: str) -> Segment:
        looks.append(name)
        return Segment(name)

    monkeypatch.setattr(reading, "Segment", noted)
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        posix.unlink(current_segment(area))
        with pytest.raises(AreaUnreadable, match="names it, but it is gone"):
            RowReader(area)
    assert len(looks) == 4


@as_root
def test_the_error_for_another_users_area_names_the_owner(area: str) -> None:
    def work(pipe: Pipe) -> None:
        become_nobody()
        with pytest.raises(NoAccess, match="user 0 owns it, mode 0600; this process is user 65534"):
            RowReader(area)
        with pytest.raises(NoAccess, match="user 0 owns it"):
            Publisher(area)

    with Publisher(area) as publisher, Forks() as forks:
        publisher.publish({(1, "a"): b"1"})
        forks.start(work).finish()


@pytest.mark.parametrize("wrong", [(1, "name"), (1, "nam"), (1, "names2"), (2, "names"), 0, 8, 1 << 20, 0xFFFFFFFF])
def test_a_slot_that_leads_elsewhere_is_an_error(area: str, wrong: tuple[int, str] | int) -> None:
    rows = {(1, "names"): b"x", (1, "nam"): b"x", (1, "name"): b"as name", (1, "names2"): b"names", (2, "names"): b"x"}
    with Publisher(area) as publisher:
        publisher.replace(rows)
        reader = RowReader(area)
        assert reader.get(1, "names") == b"x"
        segment, end_word = reader.segment, reader.end // 8
        hashed, slot, _, _ = segment.probe(1, b"names", end_word)
        word = wrong if isinstance(wrong, int) else segment.probe(wrong[0], wrong[1].encode(), end_word)[2]
        poke(segment.name, layout.SLOTS_AT + 8 * slot, layout.slot_entry(hashed, word).to_bytes(8, "little"))
        with pytest.raises(AreaUnreadable):
            reader.get(1, "names")


@pytest.mark.parametrize("word", [float("nan"), 0.0, 1.0, 2.5, -3.0, 1e12, 2.0**53, float("-inf")])
def test_a_damaged_generation_is_refused_and_the_reader_stays(area: str, word: float) -> None:
    with Publisher(area) as publisher:
        for number in range(5):
            publisher.publish({(1, "a"): b"%d" % number})
        reader, follower = RowReader(area), RowReader(area)
        poke(control_name(area), layout.GENERATION_AT, struct.pack("<d", word))
        for _ in range(3):
            with pytest.raises(AreaUnreadable, match="generation"):
                reader.refresh()
            with pytest.raises(AreaUnreadable, match="generation"):
                follower.advance()
        assert reader.get(1, "a") == b"4"
        publisher.publish({(1, "a"): b"mended"})
        assert reader.refresh() == [(1, b"a")]
        assert follower.advance() == [RowChange(1, "a", b"4", b"mended")]


def test_a_reader_skips_a_damaged_batch_by_attaching_again(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"0"})
        reader, follower = RowReader(area), RowReader(area)
        for number in range(1, 4):
            publisher.publish({(1, "a"): b"%d" % number})
        poke(current_segment(area), reader._place.end + 30, b"\xff")
        assert reader.refresh() is None
        assert reader.get(1, "a") == b"3"
        assert follower.advance() == [RowChange(1, "a", b"0", b"3")]


def test_a_reader_without_descriptors_stays_at_its_generation(area: str) -> None:
    def work(pipe: Pipe) -> None:
        with Publisher(area) as publisher:
            publisher.publish({(1, "a"): b"1"})
            reader = RowReader(area)
            publisher.publish({(1, "a"): bytes(10_000_000)})  # in a segment of its own
            with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(NoAccess, match="Too many open files"):
                reader.refresh()
            assert reader.get(1, "a") == b"1"
            assert reader.refresh() is None
            assert reader.get(1, "a") == bytes(10_000_000)

    with Forks() as forks:
        forks.start(work).finish()


# --- what it costs --------------------------------------------------------------------------------------------


def test_a_reader_unmaps_segments_it_no_longer_reads(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MIN_LOG_BYTES", 1024)
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"0"})
        reader, follower = RowReader(area), RowReader(area)
        for number in range(2000):
            publisher.publish({(1, "a"): b"%d" % number})
            reader.refresh()
            while follower.advance() is not None:
                pass
        maps = Path("/proc/self/maps").read_text()
        assert maps.count(f"shmroute-{area}.") <= 6, "the publisher maps a segment twice, each reader once"


def test_importing_shm_does_not_load_the_publisher() -> None:
    code = (
        "import sys, shmroute.shm as shm; shm.RowReader; shm.RowChange;"
        "assert not {'logging', 'multiprocessing', 'shmroute.shm.writing'} & set(sys.modules), sys.modules.keys();"
        "shm.Publisher; assert 'shmroute.shm.writing.publisher' in sys.modules;"
        "assert sorted(shm.__all__) == ['Publisher', 'RowChange', 'RowReader']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        shm.Nothing  # noqa: B018
