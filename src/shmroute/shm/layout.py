"""The bytes of a control block and of a segment: offsets, structs, checksums. Pure functions over values and buffers.

Used by the publisher and the reader; nobody else needs to know an offset. All integers are little-endian; every word
that is stored or loaded as one lies at a multiple of 8 (asserted below).
"""

from __future__ import annotations

import struct
import sys
from typing import Final, NamedTuple
from zlib import adler32, crc32

from shmroute.errors import LayoutMismatch

FORMAT_VERSION: Final = 1
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

SEGMENT_HEADER: Final = struct.Struct("<8sIIQQQQQQ")
"""magic, format version, crc32 of the rest, start generation, slots, records' start, log's start, capacity, rows"""
HINT_AT: Final = 64  # uint64: byte offset of the newest batch, 0 before the first
SLOTS_AT: Final = 128

WORD_MASK: Final = 0xFFFFFFFF
"""A slot's low half: the offset of the row's newest record in 8-byte units. The high half is the row's hash, xored with
that offset, so that a damaged one cannot lead to an older record of the same row."""

RECORD: Final = struct.Struct("<IIII")
"""crc32 of what follows (seeded with the rest), head, value length, superseded record in 8-byte units.

Behind it come the quick part, the value and the key."""
QUICK: Final = struct.Struct("<IB")
"""adler32 of the value, seeded with the hash of the row; length of the value.

For look-ups that cannot afford more (`shmroute.hotpath`): the checksum says by itself that this is the value of the row
that was asked for, or of one whose key has the same hash. An Adler sum of so few bytes takes a third of the time of a
CRC (50 ns against 165); it misses one in some ten million random changes, and none of one or two bytes.
"""
QUICK_READ: Final = struct.Struct("<16xI255p")
"""The checksum and the value, from the beginning of a record: a length and so many bytes are a string of Pascal's."""
MAX_QUICK_BYTES: Final = 254
"""A longer value, and a deletion, have a quick part that matches nothing."""
RECORD_BYTES: Final = RECORD.size + QUICK.size
KIND_SHIFT: Final = 16
"""A record's head: key length in the low 16 bits, kind in the next 8, flags in the last 8."""
DELETED: Final = 1 << 24
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

assert sys.byteorder == "little", "the format is little-endian"  # noqa: S101
for _offset in (GENERATION_AT, SEGMENT_AT, HEARTBEAT_AT, CONTACT_AT, SYNCED_AT, HINT_AT, SLOTS_AT, *STATUS_AT):
    assert _offset % WORD_BYTES == 0  # noqa: S101
assert BATCH_BYTES % WORD_BYTES == 0  # noqa: S101
assert SEGMENT_HEADER.size <= HINT_AT  # noqa: S101


class SegmentHeader(NamedTuple):
    """What a segment says of itself; sizes and offsets in bytes."""

    start: int
    slots: int
    records_at: int
    log_at: int
    capacity: int
    rows: int
    """Rows of the base."""


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


def record_size(key_length: int, value_length: int) -> int:
    """Bytes a record takes in a segment."""
    return align(RECORD_BYTES + key_length + value_length)


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
        LayoutMismatch: not a segment, damaged, cut short, or of another format version.
    """
    if len(data) < SLOTS_AT:
        raise LayoutMismatch(name, f"{len(data)} bytes are too few for a segment")
    magic, version, checksum, *fields = SEGMENT_HEADER.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise LayoutMismatch(name, "not a segment of shmroute (bad magic)")
    if version != FORMAT_VERSION:
        raise LayoutMismatch(name, f"format version {version}, this process reads version {FORMAT_VERSION}")
    header = SegmentHeader(*fields)
    if crc32(SEGMENT_HEADER.pack(magic, version, 0, *header)) != checksum:
        raise LayoutMismatch(name, "its header is damaged (checksum)")
    # What follows cannot fail for a header of ours: it guards against one made up by somebody else.
    slots = header.slots
    if slots < 1 or slots & (slots - 1) or header.records_at != SLOTS_AT + slots * WORD_BYTES:
        raise LayoutMismatch(name, "its header contradicts itself")
    if (header.log_at | header.capacity) % WORD_BYTES or not header.records_at <= header.log_at <= header.capacity:
        raise LayoutMismatch(name, "its header contradicts itself")
    if header.capacity > size:
        raise LayoutMismatch(name, f"cut short: {size} bytes, its header speaks of {header.capacity}")
    return header


def check_control_header(name: str, data: bytes) -> None:
    """Raises `LayoutMismatch` unless `data` begins a control block of this format version."""
    if len(data) < CONTROL_HEADER.size:
        raise LayoutMismatch(name, f"{len(data)} bytes are too few for a control block")
    magic, version, _ = CONTROL_HEADER.unpack_from(data)
    if magic != CONTROL_MAGIC:
        raise LayoutMismatch(name, "not a control block of shmroute (bad magic)")
    if version != FORMAT_VERSION:
        raise LayoutMismatch(name, f"format version {version}, this process reads version {FORMAT_VERSION}")
    if len(data) < CONTROL_BYTES:
        raise LayoutMismatch(name, f"cut short: {len(data)} bytes instead of {CONTROL_BYTES}")


def slot_entry(hashed: int, word: int) -> int:
    """The slot of the row with that hash (crc32 of the key, seeded with the kind), whose newest record is there."""
    return (hashed ^ word) << 32 | word


def pack_record(kind: int, key: bytes, value: bytes | None, previous: int) -> bytes:
    """One record, padded to whole words; value None deletes the row.

    `previous` is the superseded record's offset in words, 0 for none.
    """
    head = len(key) | kind << KIND_SHIFT | (DELETED if value is None else 0)
    hashed = crc32(key, kind)
    if value is None or len(value) > MAX_QUICK_BYTES:
        quick = QUICK.pack(~hashed & 0xFFFFFFFF, 0)
    else:
        quick = QUICK.pack(adler32(value, hashed), len(value))
    value = value or b""
    data = quick + value + key
    header = RECORD.pack(record_checksum(head, previous, data), head, len(value), previous)
    return header + data + b"\0" * (-(RECORD.size + len(data)) & 7)


def record_checksum(head: int, previous: int, data: bytes) -> int:
    """The checksum of a record: its seed makes a damaged header show too."""
    return crc32(data, head ^ previous)


def pack_batch(batch: Batch, records: bytes) -> bytes:
    """A batch of already packed records; `batch.length` is their length and that of the header."""
    return BATCH.pack(*batch, batch_checksum(batch, records)) + records


def batch_checksum(batch: Batch, records: bytes) -> int:
    """The checksum that `pack_batch` stores."""
    return crc32(records, crc32(BATCH.pack(*batch, 0)))
