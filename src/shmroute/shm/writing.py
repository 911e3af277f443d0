"""Writing one segment: append records, append a batch, point slots at it. Bytes only; no protocol between segments.

Used by `shmroute.shm.publisher` and `shmroute.shm.rebuild`.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from shmroute.errors import LayoutMismatch
from shmroute.shm import memory
from shmroute.shm.control import fence
from shmroute.shm.layout import (
    BATCH_BYTES,
    HINT_AT,
    LIVE_ROWS_AT,
    MAX_SEGMENT_BYTES,
    SLOTS_AT,
    SLOTS_USED_AT,
    WORD_BYTES,
    SegmentHeader,
    pack_batch,
    pack_record,
    pack_segment_header,
    slots_for,
)
from shmroute.shm.segment import Segment

Change = tuple[int, bytes, bytes | None]
"""`(kind, key, value)`; value None deletes the row."""


class SegmentWriter:
    """One segment while it grows: first its base (`add`, then `finish_base`), then its log (`append`).

    `rows` and `record_bytes` are what the base is expected to hold, `log_bytes` the address space for the log (memory
    is taken only as it is written).

    Raises:
        OutOfSharedMemory: no room; the object is gone again.
    """

    def __init__(
        self,
        area: str,
        start: int,
        ownership: memory.Ownership,
        *,
        rows: int,
        record_bytes: int,
        log_bytes: int,
    ) -> None:
        slots = slots_for(rows)
        records_at = SLOTS_AT + slots * WORD_BYTES
        capacity = min(records_at + record_bytes + log_bytes, MAX_SEGMENT_BYTES)
        name = memory.segment_name(area, start)
        self.start = start
        self.name = name
        self._memory = memory.WritableSegment(name, capacity, ownership)
        self.header = SegmentHeader(start, slots, records_at, records_at, capacity)
        self.end = records_at
        """Bytes in use: where the next record or batch goes."""
        self.slots_used = 0
        self.live_rows = 0
        try:
            self._memory.ensure(records_at + record_bytes, exactly=True)
        except BaseException:
            self.abandon()
            raise
        self._map_slots()
        self._reading: Segment | None = None

    @classmethod
    def adopt(cls, segment: Segment, end: int) -> SegmentWriter:
        """Go on in a segment that a former writer left, whose valid content ends at `end`."""
        self = cls.__new__(cls)
        self.start = segment.header.start
        self.name = segment.name
        self.header = segment.header
        self._memory = memory.WritableSegment.adopt(segment.name, reserved=end)
        self.end = end
        self._map_slots()
        self._reading = segment
        self.slots_used = segment.slots_used
        self.live_rows = segment.live_rows
        return self

    def _map_slots(self) -> None:
        self._buffer = self._memory.buffer
        self._slots = self._buffer[SLOTS_AT : self.header.records_at].cast("Q")
        self._words = self._buffer[:SLOTS_AT].cast("Q")

    @property
    def reading(self) -> Segment:
        """The same segment, as readers see it. Only after `finish_base`."""
        if self._reading is None:
            self._reading = Segment(self.name)
        return self._reading

    @property
    def reserved(self) -> int:
        """Bytes of /dev/shm this segment takes."""
        return self._memory.reserved

    @property
    def log_used(self) -> int:
        """Bytes of the log in use."""
        return self.end - self.header.log_at

    def add(self, kind: int, key: bytes, value: bytes) -> None:
        """Add one row to the base. Keys must be distinct."""
        record = pack_record(kind, 0, key, value, 0)
        end = self.end + len(record)
        self._memory.ensure(end)
        self._buffer[self.end : end] = record
        wanted = crc32(key, kind)
        mask = self.header.slots - 1
        slot = wanted & mask
        slots = self._slots
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = wanted << 32 | self.end >> 3
        self.end = end
        self.slots_used += 1

    def finish_base(self) -> None:
        """Close the base: what comes after is the log. Writes the header, so that the segment can be attached."""
        self.header = self.header._replace(log_at=self.end)
        self._words[SLOTS_USED_AT // WORD_BYTES] = self.slots_used
        self._set_live_rows(self.slots_used)
        data = pack_segment_header(self.header)
        self._buffer[: len(data)] = data
        fence()

    def has_room(self, record_bytes: int, new_rows: int) -> bool:
        """Whether a batch of that size fits, and the slots stay loose enough for short probes."""
        return (
            self.end + BATCH_BYTES + record_bytes <= self.header.capacity
            and (self.slots_used + new_rows) * 8 <= self.header.slots * 7
        )

    def append(self, generation: int, changes: Iterable[Change], *, flags: int = 0, next_start: int = 0) -> None:
        """Append one generation's batch, then point the slots at its records. Readers do not look at it yet.

        Raises:
            OutOfSharedMemory: no room; nothing has changed.
        """
        reading = self.reading
        records: list[bytes] = []
        words: list[tuple[int, bytes, int, int]] = []
        at = self.end + BATCH_BYTES
        live = self.live_rows
        for kind, key, value in changes:
            _, previous = reading.slot_of(kind, key)
            live += (value is not None) - (previous != 0 and reading.record_at(previous).value is not None)
            record = pack_record(kind, value is None, key, value or b"", previous)
            words.append((kind, key, previous, at // WORD_BYTES))
            records.append(record)
            at += len(record)
        batch = pack_batch(generation, b"".join(records), len(records), flags, next_start)
        end = self.end + len(batch)
        if end > self.header.capacity:
            raise LayoutMismatch(self.name, f"a batch of {len(batch)} bytes is larger than its log")
        self._memory.ensure(end)
        self._buffer[self.end + WORD_BYTES : end] = batch[WORD_BYTES:]
        fence()
        self._buffer[self.end : self.end + WORD_BYTES] = batch[:WORD_BYTES]
        fence()
        for kind, key, previous, word in words:
            self._point(kind, key, previous, word)
        self._words[SLOTS_USED_AT // WORD_BYTES] = self.slots_used
        self._set_live_rows(live)
        fence()
        self._words[HINT_AT // WORD_BYTES] = self.end
        self.end = end

    def _point(self, kind: int, key: bytes, previous: int, word: int) -> None:
        wanted = crc32(key, kind)
        mask = self.header.slots - 1
        slot = wanted & mask
        slots = self._slots
        sought = wanted << 32 | previous if previous else 0
        entry = wanted << 32 | word
        while (found := slots[slot]) not in (sought, entry):
            slot = (slot + 1) & mask
        self.slots_used += found == 0
        slots[slot] = entry

    def _set_live_rows(self, count: int) -> None:
        self.live_rows = count
        self._words[LIVE_ROWS_AT // WORD_BYTES] = count

    def redo(self, offset: int, length: int, records: Iterable[tuple[int, int, bytes, int]]) -> None:
        """Point the slots at an already valid batch again (after a crash in the middle of it).

        `records` are `(kind, previous_word, key, word)`; doing it twice changes nothing.
        """
        for kind, previous, key, word in records:
            self._point(kind, key, previous, word)
        self._words[SLOTS_USED_AT // WORD_BYTES] = self.slots_used
        fence()
        self._words[HINT_AT // WORD_BYTES] = offset
        self.end = offset + length

    def close(self) -> None:
        """Let go of the mapping; readers are not affected."""
        self._reading = None
        self._slots.release()
        self._words.release()
        self._buffer = memoryview(b"")
        self._memory.close()

    def abandon(self) -> None:
        """Take back a segment that nobody has been told about."""
        memory.unlink(self.name)
        self._slots = memoryview(b"")
        self._words = memoryview(b"")
        self._buffer = memoryview(b"")
        self._memory.close()
