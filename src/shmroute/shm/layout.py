"""The byte layout of all files of an area: offsets, structs, checksums. Pure functions over values and buffers.

docs/format.md describes the format. Used by the publisher and the readers; no other module knows an offset. All
integers are little-endian; a word that is loaded or stored atomically lies at a multiple of 8 (asserted below).
"""

from __future__ import annotations

import struct
import sys
from typing import Final
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from shmroute.errors import AreaUnreadable
from shmroute.shm.hashing import hasher

FORMAT_VERSION: Final = 3
"""Version of the format; raise it with every change of this module or of `shmroute.rows`."""

CONTROL_MAGIC: Final = b"shmrctl\n"
SEGMENT_MAGIC: Final = b"shmrseg\n"

WORD_BYTES: Final = 8

# --- control block -----------------------------------------------------------------------------------------

CONTROL_BYTES: Final = 65536
CONTROL_HEADER: Final = struct.Struct("<8sII")  # magic, format version, 0

GENERATION_AT: Final = 64  # float64, on a cache line with `OLDEST_AT` only: readers read both
RETIRED: Final = float("inf")
"""Generation word of a removed area. A process that maps such an area looks for a new one of the same name."""
OLDEST_AT: Final = 72  # uint64: segments whose base began before this generation are void
SEGMENT_AT: Final = 128  # uint64: identity of the current segment, part of its name
FIRST_SEGMENT_AT: Final = 136  # uint64: identities of the area's two segments
SECOND_SEGMENT_AT: Final = 144
WRITER_PID_AT: Final = 152
WRITER_STARTED_AT: Final = 160  # monotonic nanoseconds
HEARTBEAT_AT: Final = 168  # monotonic nanoseconds
CONTACT_AT: Final = 176  # monotonic nanoseconds; signed, since the time in a checkpoint may be older than the clock
SYNCED_AT: Final = 192  # 1 once this writer has published a complete list
AWAITED_AT: Final = 200  # monotonic nanoseconds: when a standby watcher last tried to take the area
AREA_ID_AT: Final = 208  # uint64, random

STATUS_AT: Final = (4096, 4096 + 30720)
"""Offsets of the two places for the status page, which are written alternately."""
STATUS_BYTES: Final = 30720
STATUS_HEADER: Final = struct.Struct("<QII")  # sequence, length, crc32 of the payload

# --- segment -----------------------------------------------------------------------------------------------

SEGMENT_HEADER: Final = struct.Struct("<8sIIQQQQQQQQQII")
"""Magic, format version, 0, the fields of `SegmentHeader`, crc32 of all the bytes before, 0."""
_CHECKED_HEADER: Final = struct.Struct("<8sIIQQQQQQQQQ")
HASH_TEST_DATA: Final = b"shmroute"
"""Data whose hash is `SegmentHeader.hash_test`."""
HINT_AT: Final = 96  # uint64: byte offset of the newest batch, 0 before the first
SLOTS_AT: Final = 128

WORD_MASK: Final = 0xFFFFFFFF
"""Mask of a slot's low half: the offset of the row's newest record in 8-byte units. The high half is the row's hash,
xored with that offset, so that a damaged slot cannot lead to an older record of the same row."""

RECORD: Final = struct.Struct("<IHHII")
"""crc32 of the rest, length of the key, kind, length of the value with `KEY_PLACE_SHIFT` and `DELETED`, offset of the
superseded record in words. The value follows, then the key unless it is part of the value."""
RECORD_BYTES: Final = RECORD.size
CHECKSUM_BYTES: Final = 4
"""Size of a record's checksum, which covers all bytes after it, padding included."""
VALUE_LENGTH_MASK: Final = (1 << 26) - 1
KEY_PLACE_SHIFT: Final = 26
MAX_KEY_PLACE: Final = 31
DELETED: Final = 1 << 31
MAX_KIND: Final = 0xFFFF
FIRST_TABLE_KIND: Final = 16
"""First kind for tables that users define; lower kinds are built in."""
MAX_KEY_BYTES: Final = 0xFFFF
MAX_VALUE_BYTES: Final = VALUE_LENGTH_MASK

BATCH: Final = struct.Struct("<QQIIIIII")
"""Generation, identity of the next segment (0 unless sealed), length in bytes, records, flags, slots in use and number
of rows after the batch, crc32."""
_CHECKED_BATCH: Final = struct.Struct("<QQIIIII")
BATCH_BYTES: Final = BATCH.size
MAX_BATCH_BYTES: Final = 0xFFFFFFFF
SEALED: Final = 1
RESET: Final = 2
LOG_SPARE_BYTES: Final = BATCH_BYTES
"""Bytes reserved behind every batch: a header of zeros, which ends the log for readers that search the next batch. A
sealing batch replaces it, and so can always be written."""

MAX_SEGMENT_BYTES: Final = 8 << 32
"""Largest segment: offsets have 32 bits and count 8-byte units."""

MAX_GENERATION: Final = 1 << 53
"""Limit of generations: a float64 cannot distinguish larger numbers from their successors."""

MIN_SLOTS: Final = 1024
SLOTS_PER_ROW: Final = 2
"""Slots for each row of the base: short searches, and room for new rows. At half full, a search for an existing row
reads 1.5 slots on average (Knuth, The Art of Computer Programming, volume 3, 6.4)."""
MAX_SLOTS: Final = 0xFFFFFFFF

# --- register and event log ---------------------------------------------------------------------------------

REGISTER_MAGIC: Final = b"shmrwrk\n"
REGISTER_HEADER: Final = struct.Struct("<8sIIQ")  # magic, format version, 0, `AREA_ID_AT` of the control block
REGISTER_HEADER_BYTES: Final = 4096
REGISTER_PLACES: Final = 1024
WORKER: Final = struct.Struct("<IIQQQQHBB")
"""crc32 of the rest, process id, generation, times of taking the place and of the last note (monotonic nanoseconds),
generation that cannot be read, length of the reason, which follows, look-up in use (an index into `LOOK_UPS`), 0."""
LOOK_UPS: Final = ("", "native", "plain")
WORKER_BYTES: Final = 128
MAX_REASON_BYTES: Final = WORKER_BYTES - WORKER.size
REGISTER_BYTES: Final = REGISTER_HEADER_BYTES + REGISTER_PLACES * WORKER_BYTES

EVENTS_MAGIC: Final = b"shmrevt\n"
EVENTS_HEADER_BYTES: Final = 4096
EVENTS_PLACES: Final = 1024
EVENT_BYTES: Final = 256
EVENT_HEADER: Final = struct.Struct("<QQII")  # sequence, Unix nanoseconds, length of the payload, crc32
MAX_EVENT_BYTES: Final = EVENT_BYTES - EVENT_HEADER.size
EVENTS_BYTES: Final = EVENTS_HEADER_BYTES + EVENTS_PLACES * EVENT_BYTES

assert sys.byteorder == "little", "the format is little-endian"  # noqa: S101
for _offset in (GENERATION_AT, OLDEST_AT, SEGMENT_AT, HEARTBEAT_AT, CONTACT_AT, SYNCED_AT, HINT_AT, SLOTS_AT):
    assert _offset % WORD_BYTES == 0  # noqa: S101
assert BATCH_BYTES % WORD_BYTES == 0  # noqa: S101
assert SEGMENT_HEADER.size <= HINT_AT  # noqa: S101


class SegmentHeader(msgspec.Struct, frozen=True, gc=False):
    """The header of a segment. Sizes and offsets are in bytes."""

    start: int
    """Generation of the base."""
    identity: int
    """Number in the segment's name."""
    hash_key: int
    hash_test: int
    slots: int
    records_at: int
    log_at: int
    capacity: int
    rows: int
    """Number of rows in the base."""


class Batch(msgspec.Struct, frozen=True, gc=False):
    """The header of one generation's changes."""

    generation: int
    next_segment: int
    length: int
    records: int
    flags: int
    slots_used: int
    live_rows: int


def align(size: int) -> int:
    """Return `size` rounded up to a multiple of 8."""
    return (size + 7) & ~7


unpack_hash: Final = struct.Struct("<I4x").unpack
"""Returns the hash of a row as a tuple of one number: the low 32 bits of what the hasher has returned."""


def hash_of(hash_key: int, kind: int, key: bytes) -> int:
    """Return a row's 32-bit hash in a segment with this key."""
    hashed: int = unpack_hash(hasher(hash_key, KIND_BYTES[kind] + key))[0]
    return hashed


class _KindBytes(dict[int, bytes]):
    """Kind -> its two bytes for the hash. Cached, since most look-ups use a few kinds."""

    def __missing__(self, kind: int) -> bytes:
        self[kind] = data = kind.to_bytes(2, "little")
        return data


KIND_BYTES: Final = _KindBytes()


def record_size(key: bytes, value: bytes | None) -> int:
    """Return the bytes that a record takes in a segment."""
    value = value or b""
    return align(RECORD_BYTES + len(value) + (0 if _key_place(key, value) else len(key)))


def _key_place(key: bytes, value: bytes) -> int:
    """Return the key's offset in the value, so that it need not be stored twice; 0: not in it, or at its beginning."""
    return max(0, value.find(key, 0, MAX_KEY_PLACE + len(key)))


def slots_for(rows: int) -> int:
    """Return the number of slots for a base of `rows` rows."""
    return max(MIN_SLOTS, rows * SLOTS_PER_ROW)


def pack_segment_header(header: SegmentHeader) -> bytes:
    """Return the header's bytes, checksum included."""
    fields = astuple(header)
    body = _CHECKED_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, 0, *fields)
    return SEGMENT_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, 0, *fields, crc32(body), 0)


def unpack_segment_header(name: str, data: bytes, size: int) -> SegmentHeader:
    """Decode the header in the first bytes of a segment of `size` bytes.

    Raises:
        AreaUnreadable: this is not a segment, or one that is being written, damaged, truncated, or of another format
            version; or this Python computes another hash.
    """
    if len(data) < SLOTS_AT:
        raise AreaUnreadable(name, f"{len(data)} bytes are too few for a segment")
    magic, version, _, *fields, checksum, zero = SEGMENT_HEADER.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise AreaUnreadable(name, "not a segment of shmroute, or one without a complete base (bad magic)")
    if version != FORMAT_VERSION:
        raise AreaUnreadable(name, f"format version {version}, this process reads version {FORMAT_VERSION}")
    if crc32(data[: _CHECKED_HEADER.size]) != checksum or zero:
        raise AreaUnreadable(name, "its header is damaged (checksum)")
    header = SegmentHeader(*fields)
    # These checks cannot fail for a header that shmroute wrote: they guard against a forged one.
    contradiction = (
        not 1 <= header.slots <= MAX_SLOTS
        or header.records_at != SLOTS_AT + header.slots * WORD_BYTES
        or (header.log_at | header.capacity) % WORD_BYTES
        or not header.records_at <= header.log_at <= header.capacity <= MAX_SEGMENT_BYTES
        or header.hash_key >= 1 << 63
    )
    if contradiction:
        raise AreaUnreadable(name, "its header contradicts itself")
    if header.capacity > size:
        raise AreaUnreadable(name, f"cut short: {size} bytes, its header says {header.capacity}")
    if hash_test(header.hash_key) != header.hash_test:
        raise AreaUnreadable(name, "this Python computes another hash than its writer: use the same build for both")
    return header


def hash_test(hash_key: int) -> int:
    """Return the header's test value, by which a process whose hash function differs notices that."""
    return int.from_bytes(hasher(hash_key, HASH_TEST_DATA), "little")


def check_control_header(name: str, data: bytes) -> None:
    """Raise `AreaUnreadable` unless `data` begins a control block of this format version."""
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
    """Return the slot of a row: its hash, and the offset of its newest record in words."""
    return (hashed ^ word) << 32 | word


_pack_head: Final = struct.Struct("<HHII").pack
_pack_checksum: Final = struct.Struct("<I").pack
_PADDING: Final = [bytes(-length & 7) for length in range(8)]


def pack_record(kind: int, key: bytes, value: bytes | None, previous: int) -> bytes:
    """Return a record, padded to whole words. The value None deletes the row.

    `previous` is the superseded record's offset in words; 0 for none.
    """
    if value is None:
        data, sized = key, DELETED
    else:
        sized = len(value)
        place = value.find(key, 0, MAX_KEY_PLACE + len(key))
        if place > 0:
            data = value
            sized |= place << KEY_PLACE_SHIFT
        else:
            data = value + key
    body = _pack_head(len(key), kind, sized, previous) + data + _PADDING[len(data) & 7]
    return _pack_checksum(crc32(body)) + body


def unlinked_record(record: bytes) -> bytes:
    """Return the record without the link to its superseded one, for the copy in a new base."""
    if record[12:16] == b"\0\0\0\0":
        return record
    body = record[4:12] + b"\0\0\0\0" + record[16:]
    return _pack_checksum(crc32(body)) + body


def pack_batch(batch: Batch, records: bytes) -> bytes:
    """Return the bytes of a batch of packed records. `batch.length` includes the header."""
    return BATCH.pack(*astuple(batch), batch_checksum(batch, records)) + records


def batch_checksum(batch: Batch, records: bytes) -> int:
    """Return the checksum that `pack_batch` stores."""
    return crc32(records, crc32(_CHECKED_BATCH.pack(*astuple(batch))))
