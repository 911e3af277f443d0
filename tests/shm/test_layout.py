"""The bytes of control blocks and segments."""

from __future__ import annotations

import re
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shmroute.errors import AreaUnreadable
from shmroute.shm import layout
from shmroute.shm.layout import Batch, SegmentHeader

SOURCE = Path(layout.__file__).read_text()


def header(**changes: int) -> SegmentHeader:
    slots = 1024
    records_at = layout.SLOTS_AT + slots * 8
    whole = SegmentHeader(7, 99, 5, layout.hash_test(5), slots, records_at, records_at + 800, records_at + 8000, 5)
    return replace(whole, **changes)


@pytest.mark.fault(34)
def test_atomic_words_are_aligned() -> None:
    words = {
        name: value
        for name, value in vars(layout).items()
        if name.endswith("_AT") and isinstance(value, int) and name != "STATUS_AT"
    }
    assert len(words) >= 9
    assert {name: value % 8 for name, value in words.items()} == dict.fromkeys(words, 0)
    assert all(start % 8 == 0 for start in layout.STATUS_AT)


def test_the_generation_has_its_own_cache_line() -> None:
    line_bytes = 64
    words = (
        layout.SEGMENT_AT,
        layout.WRITER_PID_AT,
        layout.WRITER_STARTED_AT,
        layout.HEARTBEAT_AT,
        layout.CONTACT_AT,
        layout.SYNCED_AT,
    )
    assert layout.GENERATION_AT // line_bytes not in {word // line_bytes for word in words}
    assert layout.CONTROL_HEADER.size <= layout.GENERATION_AT // line_bytes * line_bytes


def test_the_parts_of_a_control_block_do_not_overlap() -> None:
    ends = [layout.CONTROL_HEADER.size, layout.GENERATION_AT, layout.SEGMENT_AT, layout.SYNCED_AT + 8]
    assert ends == sorted(ends)
    first, second = layout.STATUS_AT
    assert first >= layout.SYNCED_AT + 8
    assert first + layout.STATUS_BYTES <= second
    assert second + layout.STATUS_BYTES <= layout.CONTROL_BYTES


@pytest.mark.fault(34)
def test_sizes_of_records_and_batches_are_multiples_of_8() -> None:
    assert layout.BATCH_BYTES % 8 == 0
    for key in range(20):
        for value in range(20):
            record = layout.pack_record(1, b"k" * key, b"v" * value, 0)
            assert len(record) == layout.record_size(b"k" * key, b"v" * value)
            assert len(record) % 8 == 0


@pytest.mark.fault(34)
def test_alignment_is_asserted_where_the_layout_is_defined() -> None:
    assert re.search(r"for _offset in \(.*GENERATION_AT.*HINT_AT.*\):\n    assert _offset % WORD_BYTES == 0", SOURCE)


@given(
    start=st.integers(0, 2**53),
    identity=st.integers(1, 2**64 - 1),
    key=st.integers(0, 2**63 - 1),
    slots=st.integers(1, 2**24),
    records=st.integers(0, 2**20).map(lambda words: words * 8),
    log=st.integers(0, 2**20).map(lambda words: words * 8),
    rows=st.integers(0, 2**32),
)
def test_a_segment_header_is_unpacked_as_it_was_packed(
    start: int, identity: int, key: int, slots: int, records: int, log: int, rows: int
) -> None:
    records_at = layout.SLOTS_AT + slots * 8
    log_at = records_at + records
    packed = SegmentHeader(start, identity, key, layout.hash_test(key), slots, records_at, log_at, log_at + log, rows)
    data = layout.pack_segment_header(packed).ljust(layout.SLOTS_AT, b"\0")
    assert layout.unpack_segment_header("name", data, packed.capacity) == packed


def test_a_segment_of_a_python_with_another_hash_is_refused() -> None:
    data = layout.pack_segment_header(header(hash_test=1)).ljust(layout.SLOTS_AT, b"\0")
    with pytest.raises(AreaUnreadable, match="computes another hash"):
        layout.unpack_segment_header("name", data, header().capacity)


@pytest.mark.fault(29)
def test_a_header_with_any_byte_changed_is_refused() -> None:
    good = layout.pack_segment_header(header())
    for position in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(good.ljust(layout.SLOTS_AT, b"\0"))
            data[position] ^= flip
            with pytest.raises(AreaUnreadable):
                layout.unpack_segment_header("name", bytes(data), header().capacity)


@pytest.mark.parametrize(
    "contradiction",
    [
        {"slots": 0},
        {"slots": 1000},
        {"slots": 1 << 32, "records_at": layout.SLOTS_AT + 8 * (1 << 32)},
        {"hash_key": 1 << 63},
        {"records_at": 0},
        {"log_at": 8},
        {"log_at": header().log_at + 1},
        {"capacity": header().log_at - 8},
        {"capacity": header().capacity + 4},
    ],
)
def test_inconsistent_header_is_refused_despite_a_right_checksum(
    contradiction: dict[str, int],
) -> None:
    data = layout.pack_segment_header(header(**contradiction)).ljust(layout.SLOTS_AT, b"\0")
    with pytest.raises(AreaUnreadable, match="contradicts"):
        layout.unpack_segment_header("name", data, 1 << 40)


def test_truncated_segment_is_refused_with_both_sizes() -> None:
    data = layout.pack_segment_header(header()).ljust(layout.SLOTS_AT, b"\0")
    with pytest.raises(AreaUnreadable, match=f"cut short: 5000 bytes.*{header().capacity}"):
        layout.unpack_segment_header("name", data, 5000)
    with pytest.raises(AreaUnreadable, match="3 bytes are too few"):
        layout.unpack_segment_header("name", data[:3], 3)


@pytest.mark.fault(29)
def test_another_format_version_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FORMAT_VERSION", 99)
    data = layout.pack_segment_header(header()).ljust(layout.SLOTS_AT, b"\0")
    control = layout.CONTROL_HEADER.pack(layout.CONTROL_MAGIC, 99, 0).ljust(layout.CONTROL_BYTES, b"\0")
    monkeypatch.undo()
    words = f"format version 99, this process reads version {layout.FORMAT_VERSION}"
    with pytest.raises(AreaUnreadable, match=words):
        layout.unpack_segment_header("name", data, 1 << 40)
    with pytest.raises(AreaUnreadable, match=words):
        layout.check_control_header("name", control)


@pytest.mark.parametrize("data", [b"", b"short", b"something else".ljust(layout.CONTROL_BYTES, b"\0")])
def test_a_file_that_is_not_a_control_block_is_refused(data: bytes) -> None:
    with pytest.raises(AreaUnreadable):
        layout.check_control_header("name", data)


def test_a_truncated_control_block_is_refused() -> None:
    data = layout.CONTROL_HEADER.pack(layout.CONTROL_MAGIC, layout.FORMAT_VERSION, 0)
    with pytest.raises(AreaUnreadable, match="cut short"):
        layout.check_control_header("name", data.ljust(1000, b"\0"))


def test_record_checksum_covers_all_its_other_bytes() -> None:
    record = layout.pack_record(3, b"key", b"value", 77)
    (checksum, *_) = layout.RECORD.unpack_from(record)
    assert crc32(record[layout.CHECKSUM_BYTES :]) == checksum
    assert layout.RECORD.unpack_from(record)[1:] == (3, 3, 5, 77)


@given(kind=st.integers(0, layout.MAX_KIND), key=st.binary(max_size=40), value=st.binary(max_size=40))
def test_a_record_of_a_new_row_has_no_link(kind: int, key: bytes, value: bytes) -> None:
    record = layout.pack_record(kind, key, value, 12345)
    assert layout.unlinked_record(record) == layout.pack_record(kind, key, value, 0)
    assert layout.unlinked_record(layout.unlinked_record(record)) == layout.pack_record(kind, key, value, 0)


@given(
    kind=st.integers(0, layout.MAX_KIND),
    key=st.binary(max_size=40),
    before=st.binary(max_size=140),
    after=st.binary(max_size=200),
)
def test_a_key_contained_in_its_value_is_not_stored_again(kind: int, key: bytes, before: bytes, after: bytes) -> None:
    value = before + key + after
    record = layout.pack_record(kind, key, value, 0)
    _, key_length, its_kind, sized, _ = layout.RECORD.unpack_from(record)
    assert (key_length, its_kind, sized & layout.VALUE_LENGTH_MASK) == (len(key), kind, len(value))
    place = sized >> layout.KEY_PLACE_SHIFT
    stored_length = len(value) + (0 if place else len(key))
    assert len(record) == layout.record_size(key, value) == layout.align(layout.RECORD_BYTES + stored_length)
    assert (place > 0) == (0 < value.find(key) <= layout.MAX_KEY_PLACE)
    stored = record[layout.RECORD_BYTES :]
    at = place or len(value)
    assert (stored[: len(value)], stored[at : at + len(key)]) == (value, key)


def test_batch_checksum_covers_header_and_records() -> None:
    records = layout.pack_record(1, b"key", b"value", 0)
    batch = Batch(9, 0, layout.BATCH_BYTES + len(records), 1, 0, 1, 1)
    good = layout.batch_checksum(batch, records)
    for field in Batch.__struct_fields__:
        assert layout.batch_checksum(replace(batch, **{field: getattr(batch, field) ^ 4}), records) != good
    assert layout.batch_checksum(batch, records[:-1] + b"\1") != good


@given(rows=st.integers(0, 10**7))
def test_half_of_the_slots_of_a_base_are_free(rows: int) -> None:
    assert layout.slots_for(rows) == max(layout.MIN_SLOTS, rows * 2)
