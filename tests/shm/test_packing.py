"""Packing the rows of a base: the plain and the C twin make the same bytes, and each takes over from the other."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmroute.shm import posix
from shmroute.shm.layout import MAX_KEY_BYTES, MAX_VALUE_BYTES
from shmroute.shm.names import segment_name
from shmroute.shm.reader import RowReader
from shmroute.shm.writing import packing, publisher, segment_writer
from shmroute.shm.writing.packing import Row
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_memory import FRESH_BYTES, WritableSegment
from shmroute.shm.writing.segment_writer import SegmentWriter
from tests.shm.tables import Table, table
from tests.twins import NATIVE, needs_native

HASH_KEY = 0x123456789ABCDEF0


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Return distinct rows. Many of their values contain the key, which is then not stored twice."""
    keys = st.tuples(st.integers(0, 65535), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    row_keys = draw(st.lists(keys, unique=True, max_size=30))
    made = []
    for kind, name in row_keys:
        before, after = draw(st.binary(max_size=40)), draw(st.binary(max_size=9))
        made.append(((kind, name), before + name.encode() * draw(st.booleans()) + after))
    return made


def use(monkeypatch: pytest.MonkeyPatch, twin: str) -> None:
    """Pack by that twin."""
    chosen = packing if twin == "plain" else NATIVE
    prefix = "plain_" if twin == "plain" else ""
    for module, name in (
        (publisher, "measure_rows"),
        (segment_writer, "pack_rows"),
        (segment_writer, "point_slots"),
    ):
        monkeypatch.setattr(module, name, getattr(chosen, prefix + name))


@needs_native
@given(rows=rows(), hash_key=st.integers(0, 2**63 - 1))
@example(
    rows=[((1, ""), b""), ((1, "k"), b"k"), ((2, "key"), b"x" * 31 + b"key"), ((3, "key"), b"x" * 32 + b"key")],
    hash_key=0,
)
@example(rows=[((65535, "k" * MAX_KEY_BYTES), b"x" + b"k" * MAX_KEY_BYTES)], hash_key=2**63 - 1)
def test_both_twins_pack_the_same_bytes(rows: list[Row], hash_key: int) -> None:
    assert NATIVE is not None
    assert NATIVE.measure_rows(rows) == packing.plain_measure_rows(rows)
    plain, native = packing.plain_pack_rows(rows, hash_key), NATIVE.pack_rows(rows, hash_key)
    assert native == plain
    slots = [memoryview(bytearray(8 * (len(rows) + 3))).cast("Q") for _ in range(2)]
    packing.plain_point_slots(slots[0], plain[1], 17)
    NATIVE.point_slots(slots[1], native[1], 17)
    assert slots[0] == slots[1]


@needs_native
def test_both_twins_write_the_same_segment(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [((number % 20, f"model-{number}"), b"\x93\xa3app%d model-%d" % (number, number)) for number in range(1000)]
    written = []
    for twin in ("plain", "native"):
        use(monkeypatch, twin)
        name = segment_name(area, 7)
        memory = WritableSegment.create(name, FRESH_BYTES, posix.Ownership(None))
        sizes = {"rows": len(made), "base_bytes": 100 * len(made), "log_bytes": 4096}
        writer = SegmentWriter(memory, 7, 1, hash_key=HASH_KEY, **sizes)
        for _ in itertools.chain(writer.clear(), writer.fill(made)):
            pass
        writer.finish_base()
        written.append(bytes(memory.buffer))
        writer.close()
        posix.unlink(name)
    assert written[0] == written[1]


@needs_native
@pytest.mark.parametrize(("first", "then"), [("plain", "native"), ("native", "plain")])
def test_each_twin_continues_what_the_other_has_published(
    area: str, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    made: Table = {(number % 20, f"model-{number}"): b"row %d" % number for number in range(500)}
    use(monkeypatch, first)
    with Publisher(area) as publisher:
        publisher.replace(made)
        publisher.publish({(1, "model-1"): b"changed"})
    use(monkeypatch, then)
    made[1, "model-1"] = b"changed"
    with Publisher(area) as publisher:
        assert publisher.replace(made) == 2, "nothing is published anew"
        publisher._publish_anew(made | {(3, "new"): b"row"})
        assert table(RowReader(area)) == made | {(3, "new"): b"row"}


@needs_native
@pytest.mark.parametrize(
    ("row", "error"),
    [
        (((65536, "a"), b""), ValueError),
        (((-1, "a"), b""), ValueError),
        (((1 << 70, "a"), b""), ValueError),
        (((1, "k" * (MAX_KEY_BYTES + 1)), b""), ValueError),
        (((1, "a"), bytes(MAX_VALUE_BYTES + 1)), ValueError),
        (((1, "\udc80"), b""), ValueError),
        (((1, "a"), "text"), TypeError),
        (((1, b"a"), b""), TypeError),
        ((("1", "a"), b""), TypeError),
        (((1, "a"),), TypeError),
        (((1,), b""), TypeError),
        ("row", TypeError),
    ],
)
def test_invalid_rows_are_refused_in_c(row: object, error: type[Exception]) -> None:
    assert NATIVE is not None
    with pytest.raises(error):
        NATIVE.pack_rows([((1, "a"), b"1"), row], HASH_KEY)
    with pytest.raises(error):
        NATIVE.measure_rows([row]) or packing.plain_measure_rows([row])  # type: ignore[list-item]


@needs_native
def test_full_slot_table_ends_the_search_in_c() -> None:
    assert NATIVE is not None
    slots = memoryview(bytearray(16)).cast("Q")
    with pytest.raises(ValueError, match="no slot is free"):
        NATIVE.point_slots(slots, [1, 1, 1], 1)
    with pytest.raises(ValueError, match="no slot is free"):
        NATIVE.point_slots(slots[:0], [1], 1)
    with pytest.raises(ValueError, match="no table of slots"):
        NATIVE.point_slots(memoryview(bytearray(17))[1:], [1], 1)
    with pytest.raises(TypeError):
        NATIVE.point_slots(slots, ["1"], 1)
    with pytest.raises(OverflowError):
        NATIVE.point_slots(memoryview(bytearray(16)), [-1], 1)
