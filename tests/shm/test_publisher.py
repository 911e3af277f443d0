"""Publishing: one generation for each change, no loss between bases, and take-over from a former writer."""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import AreaUnreadable, OutOfSharedMemory
from shmroute.shm import layout, posix
from shmroute.shm.control import ControlReader
from shmroute.shm.names import path_of, segment_name
from shmroute.shm.reader import RowReader
from shmroute.shm.writing import publisher as publishing
from shmroute.shm.writing import segment_writer
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_memory import WritableSegment
from shmroute.shm.writing.segment_writer import SegmentWriter
from tests.shm.ground import objects, poke
from tests.shm.tables import Table, current_segment, published, segments, table


def finish_rebuild(publisher: Publisher) -> None:
    for _ in range(10_000):
        if not publisher.maintain():
            return
    raise AssertionError("a rebuild does not end")


def test_each_change_is_one_generation(area: str) -> None:
    with Publisher(area) as publisher:
        assert publisher.generation == 0
        assert publisher.publish({(1, "a"): b"1", (2, "b"): b"2"}) == 1
        assert publisher.publish({(1, "a"): b"11"}) == 2
        assert publisher.publish({(1, "a"): None}) == 3
        assert ControlReader(area).generation == publisher.generation == 3
        assert table(RowReader(area)) == {(2, "b"): b"2"}


@pytest.mark.fault(7)
def test_unchanged_rows_are_not_published(area: str) -> None:
    with Publisher(area) as publisher:
        assert publisher.publish({}) == 0
        assert publisher.publish({(1, "a"): None}) == 0
        publisher.publish({(1, "a"): b"1"})
        assert publisher.publish({(1, "a"): b"1", (1, "b"): None}) == 1
        assert publisher.replace({(1, "a"): b"1"}) == 1


def test_an_area_without_rows_can_be_published(area: str) -> None:
    with Publisher(area) as publisher:
        assert publisher.replace({}) == 1
        assert table(RowReader(area)) == {}


def test_replace_removes_all_other_rows_in_one_generation(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1", (1, "b"): b"2", (2, "a"): b"3"})
        assert publisher.replace({(1, "b"): b"22", (3, "c"): b"4"}) == 2
        assert table(RowReader(area)) == {(1, "b"): b"22", (3, "c"): b"4"}


def test_the_same_key_may_exist_in_each_kind(area: str) -> None:
    with Publisher(area) as publisher:
        rows = {(kind, "same"): b"%d" % kind for kind in range(256)}
        publisher.publish(rows)
        assert table(RowReader(area)) == rows
        assert dict(publisher.rows(7)) == {"same": b"7"}
        assert publisher.get(9, "same") == b"9"
        assert publisher.get(9, "other") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("", b""), ("", b"value"), ("key", b""), ("ä\0ö\U0001f600", bytes(range(256))), ("k" * 65535, b"v" * 1_000_000)],
)
def test_any_key_and_value_is_read_back(area: str, key: str, value: bytes) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(0, key): value, (255, "other"): b"x"})
        assert RowReader(area).get(0, key) == value
        publisher.publish({(0, key): value + b"!"})
        assert RowReader(area).get(0, key) == value + b"!"


@pytest.mark.parametrize(
    "change",
    [{(65536, "a"): b""}, {(-1, "a"): b""}, {(1, "k" * 65536): b""}, {(1, "ö" * 32768): b""}, {(1, "\udc80"): b""}],
)
def test_rows_that_do_not_fit_are_refused_and_change_nothing(area: str, change: Table) -> None:
    with Publisher(area) as publisher:
        for refused in (publisher.publish, publisher.replace):
            with pytest.raises(ValueError):  # noqa: PT011 - which one, the parameters say
                refused({(1, "b"): b"2"} | change)
        assert publisher.publish({(1, "a"): b"1"}) == 1
        writer = publisher._writer
        for refused in (publisher.publish, publisher.replace):
            with pytest.raises(ValueError):  # noqa: PT011
                refused({(1, "b"): b"2"} | change)
            publisher.publish({})
            assert publisher._writer is writer, "there is nothing to recover from"
        assert table(RowReader(area)) == {(1, "a"): b"1"}


def test_a_value_beyond_the_limit_is_refused(area: str) -> None:
    beyond = bytes(layout.MAX_VALUE_BYTES + 1)
    with Publisher(area) as publisher:
        for _ in range(2):
            with pytest.raises(ValueError, match="of 'a' has 67108864 bytes, the limit is 67108863"):
                publisher.publish({(1, "a"): beyond})
            publisher.publish({(1, "b"): b"2"})
        assert table(RowReader(area)) == {(1, "b"): b"2"}


@pytest.mark.fault(28)
def test_a_batch_over_its_limit_is_published_as_a_new_base(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        before = ControlReader(area).segment
        monkeypatch.setattr(layout, "MAX_BATCH_BYTES", 1000)
        publisher.publish({(1, "b"): bytes(2000)})
        assert ControlReader(area).segment != before
        assert set(table(RowReader(area))) == {(1, "a"), (1, "b")}


def test_heartbeat_continues_in_each_long_part_of_a_publish(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_ROWS_BETWEEN_PAUSES", 10)
    monkeypatch.setattr(segment_writer, "CHANGES_BETWEEN_PAUSES", 10)
    monkeypatch.setattr(segment_writer, "CHUNK_ROWS", 10)
    beats: Counter[str] = Counter()
    part = "other"

    def timed(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal part
            before, part = part, name
            try:
                return function(*arguments, **options)
            finally:
                part = before

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (SegmentWriter, "plan"),
        (SegmentWriter, "append"),
        (Publisher, "_encoded"),
        (Publisher, "_publish_anew"),
        (Publisher, "_merged"),
    ):
        timed(owner, name)

    with Publisher(area, pause=lambda: beats.update([part])) as publisher:
        publisher.replace({(1, f"model-{number}"): b"1" for number in range(200)})
        assert beats["_publish_anew"] >= 2 * 19, "while it is measured, and while it is packed"
        publisher.publish({(1, f"model-{number}"): b"2" for number in range(200)})
        assert beats["_encoded"] >= 19
        assert beats["plan"] >= 19
        assert beats["append"] >= 2 * 19, "while it is packed, and while its slots are set"
        with monkeypatch.context() as full:
            full.setattr(SegmentWriter, "has_room", lambda *_: False)
            publisher.publish({(1, "new"): b"1"})
        assert beats["_merged"] >= 19
        assert beats["other"] == 0
        publisher.replace({(1, "one"): b"1"})
        assert beats["other"] >= 19, "while the rows are found that are there no more"


def test_rows_whose_keys_share_a_checksum_differ(area: str) -> None:
    """`plumless` and `buckeroo` have the same CRC-32."""
    with Publisher(area) as publisher:
        rows = {(0, "plumless"): b"1", (0, "buckeroo"): b"2"}
        publisher.publish({(0, "plumless"): b"1"})
        reader = RowReader(area)
        assert reader.get(0, "buckeroo") is None
        publisher.publish({(0, "buckeroo"): b"2"})
        assert table(RowReader(area)) == rows
        assert reader.get(0, "buckeroo") is None
        publisher.publish({(0, "plumless"): None})
        assert table(RowReader(area)) == {(0, "buckeroo"): b"2"}


# --- bases ----------------------------------------------------------------------------------------------------


@pytest.mark.fault(31)
@pytest.mark.usefixtures("small_segments")
def test_a_grown_log_becomes_a_new_base_while_publishing_continues(area: str) -> None:
    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): b"0" for number in range(100)}
        publisher.replace(rows)
        seen = []
        for turn in range(300):
            change = {(1, f"k{turn % 100}"): b"%d" % turn * 5}
            rows |= change
            publisher.publish(change)
            seen.append(publisher._writer.start if publisher._writer else 0)
            assert len(segments(area)) <= 2
        assert len(set(seen)) > 5
        assert table(RowReader(area)) == rows


@pytest.mark.usefixtures("small_segments")
def test_publishing_while_a_base_is_built_is_in_the_new_base(area: str) -> None:
    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): bytes(50) for number in range(2000)}
        publisher.replace(rows)
        number = 0
        while not publisher.rebuilding:
            publisher.publish(change := {(1, f"k{number}"): b"new"})
            rows |= change
            number += 1
        before = ControlReader(area).segment
        for number in range(200):
            change2 = {(1, f"m{number}"): b"more", (1, f"k{number}"): None if number % 2 else b"newer"}
            publisher.publish(change2)
            rows = {key: value for key, value in (rows | change2).items() if value is not None}
            publisher.maintain(0.0)
        finish_rebuild(publisher)
        assert ControlReader(area).segment != before
        assert table(RowReader(area)) == rows
        assert publisher.sizes.rows == len(rows)


@pytest.mark.usefixtures("small_segments")
def test_deleted_rows_are_left_out_of_a_new_base(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace({(1, f"k{number}"): bytes(100) for number in range(1000)})
        publisher.replace({(1, "k1"): b"1"})
        finish_rebuild(publisher)
        writer = publisher._writer
        assert writer is not None
        assert publisher.sizes.rows == writer.slots_used == 1
        assert writer.end < 2000
        assert table(RowReader(area)) == {(1, "k1"): b"1"}


@pytest.mark.usefixtures("small_segments")
def test_changes_that_do_not_fit_are_published_as_a_new_base(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        reader = RowReader(area)
        rows: Table = {(1, f"k{number}"): bytes(1000) for number in range(500)}
        assert publisher.publish(rows) == 2
        assert reader.refresh() is None, "any row may have changed"
        assert table(reader) == rows | {(1, "a"): b"1"}
        assert len(segments(area)) == 2
        assert current_segment(area) in segments(area)


@pytest.mark.fault(28)
@pytest.mark.usefixtures("small_segments")
def test_slots_never_fill_up_as_rows_are_added_and_removed(area: str) -> None:
    with Publisher(area) as publisher:
        for number in range(2000):
            publisher.publish({(1, f"k{number}"): b"x", (1, f"k{number - 3}"): None})
            writer = publisher._writer
            assert writer is not None
            assert writer.slots_used * 8 <= writer.header.slots * 7
        assert sorted(table(RowReader(area))) == sorted((1, f"k{number}") for number in (1997, 1998, 1999))


@pytest.mark.usefixtures("small_segments")
def test_counts_stay_exact_over_rebuilds_and_adoptions(area: str) -> None:
    rows: Table = {}
    for turn in range(40):
        with Publisher(area) as publisher:
            for number in range(25):
                key = (1, f"k{(turn * 7 + number * 11) % 60}")
                value = None if number % 3 == 0 else b"%d" % turn
                publisher.publish({key: value})
                rows.pop(key, None)
                if value is not None:
                    rows[key] = value
            assert publisher.sizes.rows == len(rows)
            writer = publisher._writer
            assert writer is not None
            assert writer.slots_used == sum(map(bool, writer._slots.tolist()))


def test_reported_sizes_equal_those_of_the_file_system(area: str) -> None:
    with Publisher(area) as publisher:
        assert publisher.sizes.segment_bytes == layout.CONTROL_BYTES
        publisher.publish({(1, f"k{number}"): bytes(1000) for number in range(1000)})
        taken = sum(Path(path_of(name)).stat().st_blocks * 512 for name in [f"shmroute-{area}", *segments(area)])
        assert publisher.sizes.segment_bytes == taken
        assert publisher.sizes.rows == 1000


# --- leaving and taking over ----------------------------------------------------------------------------------


def test_the_next_writer_continues_where_the_last_one_ended(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        publisher.publish({(1, "b"): b"2"})
    reader = RowReader(area)
    with Publisher(area) as publisher:
        assert publisher.generation == 2
        assert publisher.get(1, "a") == b"1"
        assert publisher.publish({(1, "a"): b"11"}) == 3
    assert reader.refresh() == [(1, b"a")]
    assert table(reader) == {(1, "a"): b"11", (1, "b"): b"2"}


def test_a_removed_area_leaves_no_file(area: str) -> None:
    publisher = Publisher(area)
    publisher.publish({(1, "a"): b"1"})
    publisher.close(remove=True)
    assert objects(area) == []


def test_leftovers_are_removed_by_the_next_lock_holder(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
    for name in ("shmroute-%s.999", "shmroute-%s.0123456789abcdef", "shmroute-%s.new-0123456789abcdef"):
        Path(path_of(name % area)).write_bytes(b"left by a crash")
    with Publisher(area):
        assert segments(area) == [current_segment(area)]


@pytest.mark.fault(23)
def test_bytes_left_behind_the_log_are_never_read_as_a_batch(area: str) -> None:
    """A value may hold any bytes, even those of a future batch at the very place of that batch."""
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        writer = publisher._writer
        assert writer is not None
        record = layout.pack_record(1, b"evil", b"never published", 0)
        batch = layout.Batch(3, 0, layout.BATCH_BYTES + len(record), 1, 0, 2, 2)
        small = layout.BATCH_BYTES + layout.record_size(b"k", b"v")
        forged = layout.pack_batch(batch, record)
        writer.memory.ensure(writer.end + 10_000)
        writer._buffer[writer.end + small : writer.end + small + len(forged)] = forged
        publisher.publish({(1, "b"): b"2"})
        assert writer.end == writer.header.log_at + small
        assert writer.reading.batch_at(writer.end, 3) is None
    assert published(area) == {(1, "a"): b"1", (1, "b"): b"2"}


@pytest.mark.fault(29)
@pytest.mark.fault(30)
@pytest.mark.parametrize("damage", ["gone", "cut", "header", "newest batch"])
def test_unadoptable_rows_are_dropped_and_generations_continue(
    area: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        publisher.publish({(1, "a"): b"2"})
        publisher.publish({(1, "a"): b"3"})
        end = publisher._writer.end if publisher._writer else 0
    reader = RowReader(area)
    segment = Path(path_of(current_segment(area)))
    data = bytearray(segment.read_bytes())
    segment.unlink()  # not cut while it is mapped: nobody who reads it would survive that
    if damage == "cut":
        segment.write_bytes(data[:1000])
    elif damage != "gone":
        data[20 if damage == "header" else end - 20] ^= 0xFF
        segment.write_bytes(data)
    with caplog.at_level(logging.WARNING), Publisher(area) as publisher:
        assert "cannot be adopted" in caplog.text
        assert publisher.generation == 3
        assert publisher.get(1, "a") is None
        assert publisher.replace({(1, "a"): b"4"}) == 4
        assert reader.refresh() is None
        assert table(reader) == table(RowReader(area)) == {(1, "a"): b"4"}


def test_a_damaged_row_is_repaired_by_publishing_all_rows(area: str, caplog: pytest.LogCaptureFixture) -> None:
    rows: Table = {(1, f"k{number}"): b"some value %d" % number for number in range(20)}
    with Publisher(area) as publisher:
        publisher.publish(rows)
        segment = Path(path_of(current_segment(area)))
        at = segment.read_bytes().index(b"some value 7")
        with segment.open("r+b") as file:
            os.pwrite(file.fileno(), b"?", at)
        with pytest.raises(AreaUnreadable, match="damaged"):
            publisher.publish({(1, "k7"): b"new"})
        assert publisher.get(1, "k7") is None, "whoever takes the area over must get as far as publishing it anew"
        assert dict(publisher.rows(1)) == {key: value for (_, key), value in rows.items() if key != "k7"}
        assert publisher.publish({(1, "k8"): b"new"}) == 2, "other rows are not concerned"
        rows[1, "k8"] = b"new"
        assert publisher.replace(rows) == 3
        assert "all rows are published anew" in caplog.text
        assert table(RowReader(area)) == rows


class Interrupted(BaseException):
    """An exception raised by a signal handler, as KeyboardInterrupt or a time limit."""


@pytest.mark.fault(23)
@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("step", range(12))
def test_an_exception_in_the_middle_of_a_publish_leaves_no_half_state(
    area: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception is raised at each fence: there is one between any two steps of a publish."""
    from shmroute.shm.writing import control, segment_writer

    with Publisher(area) as publisher:
        rows: Table = {(1, f"k{number}"): b"old" for number in range(8)}
        publisher.replace(rows)
        reader = RowReader(area)
        left = step

        def fence() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Interrupted

        with monkeypatch.context() as patched:
            patched.setattr(segment_writer, "fence", fence)
            patched.setattr(control, "fence", fence)
            new: Table = {(1, f"k{number}"): b"new" for number in range(4)} | {(1, "more"): b"new"}
            with suppress(Interrupted):
                publisher.publish(new)
        reader.refresh()
        assert table(reader) in (rows, rows | new)
        publisher.publish({(1, "after"): b"1"})
        reader.refresh()
        expected = (rows | {(1, "after"): b"1"}, rows | new | {(1, "after"): b"1"})
        assert table(reader) in expected
        assert table(RowReader(area)) == table(reader)
        for number in range(100):
            publisher.publish({(1, f"k{number % 8}"): b"%d" % number})
        assert len(segments(area)) <= 2
        reader.refresh()
        assert table(reader) == table(RowReader(area))
    assert published(area) == table(reader)


@pytest.mark.fault(27)
def test_replace_without_room_changes_nothing(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/faults/test_memory.py tests the same on a small file system."""
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})

        def full(descriptor: int, name: str, start: int, length: int) -> None:
            raise posix.no_room(name, length)

        with monkeypatch.context() as patched:
            patched.setattr(posix, "reserve", full)
            with pytest.raises(OutOfSharedMemory):
                publisher.publish({(1, "b"): bytes(10_000_000)})
            with pytest.raises(OutOfSharedMemory):
                publisher.replace({(1, "b"): bytes(10_000_000)})
        assert segments(area) == [current_segment(area)]
        assert publisher.publish({(1, "b"): b"2"}) == 2
        assert table(RowReader(area)) == {(1, "a"): b"1", (1, "b"): b"2"}


@pytest.mark.usefixtures("small_segments")
def test_base_without_room_is_retried_while_the_old_one_serves(
    area: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(area) as publisher:
        publisher.replace({(1, f"k{number}"): b"0" for number in range(20)})
        create = WritableSegment.create

        def full(name: str, size: int, ownership: posix.Ownership) -> WritableSegment:
            raise posix.no_room(name, size)

        with monkeypatch.context() as patched:
            patched.setattr(WritableSegment, "create", full)
            number = 0
            while "a new base cannot be built" not in caplog.text:
                publisher.publish({(1, "k1"): b"%d" % number})
                number += 1
                assert number < 1000
            assert not publisher.rebuilding
        assert WritableSegment.create == create
        before = ControlReader(area).segment
        while ControlReader(area).segment == before:
            publisher.publish({(1, "k1"): b"%d" % number})
            number += 1
            assert number < 1000
        assert RowReader(area).get(1, "k1") == b"%d" % (number - 1)


@pytest.mark.fault(23)
def test_log_shorter_than_the_generation_is_not_adopted(area: str, caplog: pytest.LogCaptureFixture) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        publisher.control.store_generation(9)  # what has been published last has been lost
    with Publisher(area) as publisher:
        assert "its log ends at generation 1, but generation 9 was published" in caplog.text
        assert publisher.generation == ControlReader(area).generation == 9
        assert publisher.publish({(1, "b"): b"2"}) == 10
        assert table(RowReader(area)) == {(1, "b"): b"2"}


@pytest.mark.fault(23)
def test_segment_of_an_unfinished_switch_is_adopted_with_its_counts(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_generation: int) -> None:
        raise SystemExit

    with Publisher(area) as publisher:
        publisher.publish({(1, f"k{number}"): b"" for number in range(10)})
        publisher.publish({(1, "later"): b""})
        monkeypatch.setattr(publisher, "_advance", killed)
        name = segment_name(area, publisher.control.segment)
        hint = Path(path_of(name)).read_bytes()[layout.HINT_AT :][: layout.WORD_BYTES]
        with pytest.raises(SystemExit):
            publisher._publish_anew({(1, "only"): b"1"})
    poke(name, layout.HINT_AT, hint)  # killed right after the seal was valid
    with Publisher(area) as publisher:
        assert table(RowReader(area)) == {(1, "only"): b"1"}
        assert publisher.sizes.rows == 1
        assert publisher._writer is not None
        assert publisher._writer.slots_used == 1


@pytest.mark.fault(28)
@pytest.mark.usefixtures("small_segments")
def test_base_with_crowded_slots_is_rebuilt_in_time(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.replace({(1, f"k{number}"): b"x" for number in range(6)})
        reader = RowReader(area)
        before = ControlReader(area).segment
        for number in range(6, 40):
            publisher.publish({(1, f"k{number}"): b"x"})
            finish_rebuild(publisher)
            assert reader.refresh() is not None, "only what has changed"
        assert ControlReader(area).segment != before
        assert len(table(reader)) == 40


def test_rows_with_empty_values_do_not_affect_others(area: str) -> None:
    rows = {(1, f"k{number}"): b"x" * (number % 3) for number in range(300)}
    with Publisher(area) as publisher:
        publisher.replace(rows)
    assert published(area) == rows
