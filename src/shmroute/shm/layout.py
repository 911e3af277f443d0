"""The bytes of a control block and of a segment: offsets, structs, checksums. Pure functions over values and buffers.

Used by the publisher and the reader; nobody else needs to know an offset. All integers are little-endian; every word
that is stored or loaded as one lies at a multiple of 8 (asserted below).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import adler32, crc32

from shmroute.errors import AreaUnreadable

FORMAT_VERSION: Final = 2
"""Raised with every change of this module or of `shmroute.rows`."""

CONTROL_MAGIC: Final = b"shmrctl\n"
SEGMENT_MAGIC: Final = b"shmrseg\n"

WORD_BYTES: Final = 8

# --- control block -----------------------------------------------------------------------------------------

CONTROL_BYTES: Final = 65536
CONTROL_HEADER: Final = struct.Struct("<8sII")  # magic, format version, pad

GENERATION_AT: Final = 64  # float64, alone on its cache line: the only word a reader must look at
RETIRED: Final = float("inf")
"""The word of an area whose name has been taken away: whoever maps it looks for a new area of that name."""
SEGMENT_AT: Final = 128  # uint64: the start generation of the current segment, part of its name
WRITER_PID_AT: Final = 136
WRITER_STARTED_AT: Final = 144  # monotonic nanoseconds
HEARTBEAT_AT: Final = 152  # monotonic nanoseconds
CONTACT_AT: Final = 160  # monotonic nanoseconds of the last proof of being in step with every source; signed, since
# what a checkpoint brings may be older than the machine's clock
SYNCED_AT: Final = 168  # 1 once this writer has published a complete list
AWAITED_AT: Final = 176  # monotonic nanoseconds: when a watcher that stands by last tried to take the area

STATUS_AT: Final = (4096, 4096 + 30720)
"""Two slots for the status page, written in turn."""
STATUS_BYTES: Final = 30720
STATUS_HEADER: Final = struct.Struct("<QII")  # sequence, length, crc32 of the payload

# --- segment -----------------------------------------------------------------------------------------------

SEGMENT_HEADER: Final = struct.Struct("<8sIIQQQQQQQQ")
"""magic, format version, crc32 of the rest, and the fields of `SegmentHeader`"""
HINT_AT: Final = 96  # uint64: byte offset of the newest batch, 0 before the first
SLOTS_AT: Final = 128

WORD_MASK: Final = 0xFFFFFFFF
"""A slot's low half: the offset of the row's newest record in 8-byte units. The high half is the row's hash, xored with
that offset, so that a damaged one cannot lead to an older record of the same row."""

RECORD: Final = struct.Struct("<IIII")
"""crc32 of what lies behind the quick sum (seeded with the rest), head, value length, superseded record in words.

Behind it come the quick part, the value, and the key, unless that stands in the value."""
QUICK: Final = struct.Struct("<IB")
"""The quick sum: adler32 of the value, seeded with the hash of the row; and the length of the value.

For look-ups that cannot afford more (`shmroute.worker.lookup`): the sum says by itself that this is the value of the
row that was asked for, or of one whose key has the same hash. An Adler sum of so few bytes takes a third of the time of
a CRC (50 ns against 165); it misses one in some ten million random changes, and none of one or two bytes.
"""
QUICK_READ: Final = struct.Struct("<16xI255p")
"""The quick sum and the value, from the beginning of a record: a length and so many bytes are a string of Pascal's."""
NO_QUICK_SUM: Final = 0xFFFFFFFF
"""Stands for the sum of what must not be found by it: a deletion, a value that is too long, a record of the base that
has been superseded. No Adler sum has a half above 65,520 (RFC 1950, 8.2)."""
QUICK_SUM_OFFSET: Final = RECORD.size
VALUE_LENGTH_OFFSET: Final = QUICK_SUM_OFFSET + 4
"""What lies from here on a record's checksum covers."""
MAX_QUICK_BYTES: Final = 254
"""The longest value with a quick sum: its length is one byte."""
RECORD_BYTES: Final = RECORD.size + QUICK.size
KIND_SHIFT: Final = 16
"""A record's head: key length in the low 16 bits, kind in the next 8, deleted in the next one, and in the last 7 where
in the value the key stands; 0 where it does not, and follows the value."""
DELETED: Final = 1 << 24
KEY_PLACE_SHIFT: Final = 25
MAX_KEY_PLACE: Final = 127
MAX_KIND: Final = 0xFF
MAX_KEY_BYTES: Final = 0xFFFF
MAX_VALUE_BYTES: Final = 1 << 30
"""A look-up copies a value; more than this is a mistake. Keeps a batch's length within its 32 bits, too."""

BATCH: Final = struct.Struct("<QQIIIIII")
"""generation, next segment's start generation (0 unless sealed), length in bytes, records, flags, slots in use and rows
that exist after it, crc32"""
BATCH_BYTES: Final = BATCH.size
MAX_BATCH_BYTES: Final = 0xFFFFFFFF
SEALED: Final = 1
RESET: Final = 2
LOG_SPARE_BYTES: Final = BATCH_BYTES
"""Reserved behind every batch: a header of zeros, which ends the log, for whoever looks for one batch more. A sealing
batch takes its place, and so can always be written."""

MAX_SEGMENT_BYTES: Final = 8 << 32
"""Offsets are kept in 32 bits of 8-byte units."""

MAX_GENERATION: Final = 1 << 53
"""Beyond this a float64 cannot tell a number from the next."""

MIN_SLOTS: Final = 1024
SLOTS_PER_ROW: Final = 2
"""At least so many slots for each row of the base: short probes, and room for rows to come."""

CELL_KIND: Final = 1
"""The kind of the rows that lie in cells: the one that is looked up in somebody's hottest path."""
CELLS_PER_ROW: Final = 2
"""Cells for each row that lies in one. With fewer a look-up meets more rows that are not its own: at 1.5 a first touch
takes a twentieth longer."""
ROWS_WITHOUT_CELL: Final = 32
"""One row in so many may be too large for a cell: the largest would make all of them large."""
MAX_CELL_MEDIANS: Final = 1.5
"""A cell is at most so many times as large as the median row, where sizes differ much."""
MAX_CELLS_PASSED: Final = 32
"""A row that would lie farther from where it is looked for lies in no cell."""

assert sys.byteorder == "little", "the format is little-endian"  # noqa: S101
for _offset in (GENERATION_AT, SEGMENT_AT, HEARTBEAT_AT, CONTACT_AT, SYNCED_AT, HINT_AT, SLOTS_AT, *STATUS_AT):
    assert _offset % WORD_BYTES == 0  # noqa: S101
assert BATCH_BYTES % WORD_BYTES == 0  # noqa: S101
assert SEGMENT_HEADER.size <= HINT_AT  # noqa: S101
assert QUICK_SUM_OFFSET % 4 == 0  # noqa: S101 - it is stored as one, too


class SegmentHeader(NamedTuple):
    """What a segment says of itself; sizes and offsets in bytes."""

    start: int
    slots: int
    records_at: int
    log_at: int
    capacity: int
    rows: int
    """Rows of the base."""
    cells: int = 0
    """So many, and an empty one behind them that ends every search; they lie at the beginning of the base."""
    cell_bytes: int = 0

    @property
    def packed_at(self) -> int:
        """Where the records of the base begin that lie in no cell: one behind the other."""
        return self.records_at + ((self.cells + 1) * self.cell_bytes if self.cells else 0)


class Batch(NamedTuple):
    """The header of one generation's changes."""

    generation: int
    next_start: int
    length: int
    records: int
    flags: int
    slots_used: int
    live_rows: int


def align(size: int) -> int:
    """`size` rounded up to a whole word."""
    return (size + 7) & ~7


def key_place(key: bytes, value: bytes) -> int:
    """Where in the value its key stands, so that it need not be stored twice; 0 if it does not, or at the beginning."""
    return max(0, value.find(key, 0, MAX_KEY_PLACE + len(key)))


def record_length(head: int, value_length: int) -> int:
    """Bytes of a record without its padding, as its header says."""
    return RECORD_BYTES + value_length + (0 if head >> KEY_PLACE_SHIFT else head & MAX_KEY_BYTES)


def record_size(key: bytes, value: bytes | None) -> int:
    """Bytes a record takes in a segment."""
    value = value or b""
    return align(RECORD_BYTES + len(value) + (0 if key_place(key, value) else len(key)))


def cells_for(sizes: Mapping[int, int]) -> tuple[int, int]:
    """How many cells of what size suit a base, given how many records that may lie in one have each size.

    Returns:
        `(cells, bytes of a cell)`; none for no rows.
    """
    rows = sum(sizes.values())
    fitting = median = chosen = 0
    for size in sorted(sizes):
        if fitting * 2 < rows:
            median = size
        if size > median * MAX_CELL_MEDIANS or rows - fitting <= rows // ROWS_WITHOUT_CELL:
            break
        chosen = size
        fitting += sizes[size]
    return fitting * CELLS_PER_ROW, chosen


def slots_for(rows: int) -> int:
    """The number of slots (a power of two) for a base of `rows` rows."""
    return max(MIN_SLOTS, 1 << (rows * SLOTS_PER_ROW - 1).bit_length() if rows else 0)


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The header's bytes, checksum included."""
    body = SEGMENT_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, 0, *header)
    return SEGMENT_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, crc32(body), *header)


def unpack_segment_header(name: str, data: bytes, size: int) -> SegmentHeader:
    """The header in the first bytes of a segment of `size` bytes.

    Raises:
        AreaUnreadable: not a segment, damaged, cut short, or of another format version.
    """
    if len(data) < SLOTS_AT:
        raise AreaUnreadable(name, f"{len(data)} bytes are too few for a segment")
    magic, version, checksum, *fields = SEGMENT_HEADER.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise AreaUnreadable(name, "not a segment of shmroute (bad magic)")
    if version != FORMAT_VERSION:
        raise AreaUnreadable(name, f"format version {version}, this process reads version {FORMAT_VERSION}")
    header = SegmentHeader(*fields)
    if crc32(SEGMENT_HEADER.pack(magic, version, 0, *header)) != checksum:
        raise AreaUnreadable(name, "its header is damaged (checksum)")
    # What follows cannot fail for a header of ours: it guards against one made up by somebody else.
    slots = header.slots
    if slots < 1 or slots & (slots - 1) or header.records_at != SLOTS_AT + slots * WORD_BYTES:
        raise AreaUnreadable(name, "its header contradicts itself")
    if (header.log_at | header.capacity) % WORD_BYTES or not header.packed_at <= header.log_at <= header.capacity:
        raise AreaUnreadable(name, "its header contradicts itself")
    if header.cell_bytes % WORD_BYTES or (header.cells and header.cell_bytes < RECORD_BYTES):
        raise AreaUnreadable(name, "its header contradicts itself")
    if header.capacity > size:
        raise AreaUnreadable(name, f"cut short: {size} bytes, its header speaks of {header.capacity}")
    return header


def check_control_header(name: str, data: bytes) -> None:
    """Raises `AreaUnreadable` unless `data` begins a control block of this format version."""
    if len(data) < CONTROL_HEADER.size:
        raise AreaUnreadable(name, f"{len(data)} bytes are too few for a control block")
    magic, version, _ = CONTROL_HEADER.unpack_from(data)
    if magic != CONTROL_MAGIC:
        raise AreaUnreadable(name, "not a control block of shmroute (bad magic)")
    if version != FORMAT_VERSION:
        raise AreaUnreadable(name, f"format version {version}, this process reads version {FORMAT_VERSION}")
    if len(data) < CONTROL_BYTES:
        raise AreaUnreadable(name, f"cut short: {len(data)} bytes instead of {CONTROL_BYTES}")


def slot_entry(hashed: int, word: int) -> int:
    """The slot of the row with that hash (crc32 of the key, seeded with the kind), whose newest record is there."""
    return (hashed ^ word) << 32 | word


def pack_record(kind: int, key: bytes, value: bytes | None, previous: int) -> bytes:
    """One record, padded to whole words; value None deletes the row.

    `previous` is the superseded record's offset in words, 0 for none.
    """
    head = len(key) | kind << KIND_SHIFT
    if value is None:
        head |= DELETED
        value = b""
        quick_sum, length = NO_QUICK_SUM, 0
    elif len(value) > MAX_QUICK_BYTES:
        quick_sum, length = NO_QUICK_SUM, 0
    else:
        quick_sum, length = adler32(value, crc32(key, kind)), len(value)
    if place := key_place(key, value):
        head |= place << KEY_PLACE_SHIFT
        data = _BYTE[length] + value
    else:
        data = _BYTE[length] + value + key
    header = _RECORD_AND_SUM.pack(crc32(data, head ^ previous), head, len(value), previous, quick_sum)
    return header + data + _PADDING[VALUE_LENGTH_OFFSET + len(data) & 7]


_RECORD_AND_SUM: Final = struct.Struct(RECORD.format + "I")
_BYTE: Final = [bytes([number]) for number in range(256)]
_PADDING: Final = [bytes(-length & 7) for length in range(8)]


def suits_cell(kind: int, value_length: int) -> bool:
    """Whether a row may lie in a cell. An empty value would make its cell look empty."""
    return kind == CELL_KIND and 0 < value_length <= MAX_QUICK_BYTES


def record_checksum(head: int, previous: int, data: bytes) -> int:
    """The checksum of a record: its seed makes a damaged header show too.

    `data` is what lies behind the quick sum, without the padding. That sum is left out: it is one itself, and changes
    when the record is superseded.
    """
    return crc32(data, head ^ previous)


def pack_batch(batch: Batch, records: bytes) -> bytes:
    """A batch of already packed records; `batch.length` is their length and that of the header."""
    return BATCH.pack(*batch, batch_checksum(batch, records)) + records


def batch_checksum(batch: Batch, records: bytes) -> int:
    """The checksum that `pack_batch` stores."""
    return crc32(records, crc32(BATCH.pack(*batch, 0)))
