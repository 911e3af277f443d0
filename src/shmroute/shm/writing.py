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
    LOG_SPARE_BYTES,
    MAX_BATCH_BYTES,
    MAX_SEGMENT_BYTES,
    SEALED,
    SLOTS_AT,
    WORD_BYTES,
    Batch,
    SegmentHeader,
    align,
    pack_batch,
    pack_record,
    pack_segment_header,
    record_size,
    slot_entry,
    slots_for,
)
from shmroute.shm.segment import Segment

Change = tuple[int, bytes, bytes | None]
"""`(kind, key, value)`; value None deletes the row."""


class NoRoom(Exception):
    """The base has more rows or bytes than were announced."""


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
        capacity = min(align(records_at + record_bytes + log_bytes + LOG_SPARE_BYTES), MAX_SEGMENT_BYTES)
        self.start = start
        self.name = memory.segment_name(area, start)
        self.header = SegmentHeader(start, slots, records_at, records_at, capacity, 0)
        self.end = records_at
        """Bytes in use: where the next record or batch goes."""
        self.slots_used = 0
        self.live_rows = 0
        self._reading: Segment | None = None
        self._memory = memory.WritableSegment.create(self.name, capacity, ownership)
        self._map_slots()
        try:
            self._memory.ensure(records_at + record_bytes + LOG_SPARE_BYTES, exactly=True)
        except BaseException:
            self.abandon()
            raise

    @classmethod
    def adopt(cls, segment: Segment, end: int, newest: Batch | None, ownership: memory.Ownership) -> SegmentWriter:
        """Go on in a segment that a former writer left, whose valid content ends at `end` with the batch `newest`."""
        self = cls.__new__(cls)
        self.start = segment.header.start
        self.name = segment.name
        self.header = segment.header
        self.end = end
        self.slots_used = newest.slots_used if newest else segment.header.rows
        self.live_rows = newest.live_rows if newest else segment.header.rows
        self._reading = segment
        self._memory = memory.WritableSegment(segment.name, end + LOG_SPARE_BYTES, ownership)
        self._map_slots()
        return self

    def _map_slots(self) -> None:
        self._buffer = self._memory.buffer
        self._slots = self._buffer[SLOTS_AT : self.header.records_at].cast("Q")
        self._words = self._buffer[: self.header.capacity].cast("Q")

    @property
    def reading(self) -> Segment:
        """The same segment, as readers see it. Only after `finish_base`."""
        if self._reading is None:
            self._reading = Segment(self.name)
        return self._reading

    @property
    def reserved(self) -> int:
        """Bytes of /dev/shm this segment takes."""
        return self._memory.taken

    @property
    def log_used(self) -> int:
        """Bytes of the log in use."""
        return self.end - self.header.log_at

    def add(self, kind: int, key: bytes, value: bytes) -> None:
        """Add one row to the base. Keys must be distinct.

        Raises:
            OutOfSharedMemory: no room in /dev/shm.
            NoRoom: no room in the segment.
        """
        record = pack_record(kind, key, value, 0)
        end = self.end + len(record)
        if end + LOG_SPARE_BYTES > self.header.capacity or not self._has_slots(1):
            raise NoRoom
        self._memory.ensure(end + LOG_SPARE_BYTES)
        self._buffer[self.end : end] = record
        wanted = crc32(key, kind)
        mask = self.header.slots - 1
        slot = wanted & mask
        slots = self._slots
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = slot_entry(wanted, self.end // WORD_BYTES)
        self.end = end
        self.slots_used += 1

    def finish_base(self) -> None:
        """Close the base: what comes after is the log. Writes the header, so that the segment can be attached."""
        self.live_rows = self.slots_used
        self.header = self.header._replace(log_at=self.end, rows=self.slots_used)
        data = pack_segment_header(self.header)
        self._buffer[: len(data)] = data
        fence()

    def has_room(self, changes: list[Change]) -> bool:
        """Whether a batch of these changes fits, and the slots stay loose enough for short probes."""
        length = BATCH_BYTES + sum(record_size(len(key), len(value or b"")) for _, key, value in changes)
        fits = length <= MAX_BATCH_BYTES and self.end + length + LOG_SPARE_BYTES <= self.header.capacity
        return fits and self._has_slots(len(changes))

    def _has_slots(self, new_rows: int) -> bool:
        return (self.slots_used + new_rows) * 8 <= self.header.slots * 7

    def append(self, generation: int, changes: Iterable[Change], *, flags: int = 0, next_start: int = 0) -> None:
        """Append one generation's batch, then point the slots at its records. Readers do not look at it yet.

        There is always room for a sealing batch.

        Raises:
            OutOfSharedMemory: no room; nothing has changed.
        """
        reading = self.reading
        records: list[bytes] = []
        words: list[tuple[int, bytes, int, int]] = []
        at = self.end + BATCH_BYTES
        slots_used, live_rows = self.slots_used, self.live_rows
        for kind, key, value in changes:
            _, previous = reading.slot_of(kind, key)
            slots_used += not previous
            live_rows += (value is not None) - (reading.value_at(previous) is not None)
            record = pack_record(kind, key, value, previous)
            words.append((kind, key, previous, at // WORD_BYTES))
            records.append(record)
            at += len(record)
        end = at
        spare = 0 if flags & SEALED else LOG_SPARE_BYTES
        if end + spare > self.header.capacity:
            raise LayoutMismatch(self.name, f"a batch of {end - self.end} bytes is larger than its log")
        self._memory.ensure(end + spare)
        batch = pack_batch(
            Batch(generation, next_start, end - self.end, len(records), flags, slots_used, live_rows),
            b"".join(records),
        )
        if spare:  # no batch behind this one, whatever a writer that was killed may have left there
            self._buffer[end : end + BATCH_BYTES] = bytes(BATCH_BYTES)
        self._buffer[self.end + WORD_BYTES : end] = batch[WORD_BYTES:]
        fence()
        self._words[self.end // WORD_BYTES] = generation
        fence()
        for kind, key, previous, word in words:
            self._point(kind, key, previous, word)
        fence()
        self._words[HINT_AT // WORD_BYTES] = self.end
        self.end, self.slots_used, self.live_rows = end, slots_used, live_rows

    def _point(self, kind: int, key: bytes, previous: int, word: int) -> None:
        wanted = crc32(key, kind)
        mask = self.header.slots - 1
        slot = wanted & mask
        slots = self._slots
        sought = slot_entry(wanted, previous) if previous else 0
        entry = slot_entry(wanted, word)
        while (found := slots[slot]) not in (sought, entry):
            if not found:
                raise LayoutMismatch(self.name, "no slot leads to a row that is there")
            slot = (slot + 1) & mask
        slots[slot] = entry

    def redo(self, offset: int, batch: Batch) -> None:
        """Point the slots at an already valid batch again (after a crash in the middle of it).

        Doing it twice changes nothing.
        """
        for word, record in self.reading.records_of(offset, batch):
            self._point(record.kind, record.key, record.previous_word, word)
        fence()
        self._words[HINT_AT // WORD_BYTES] = offset

    def close(self) -> None:
        """Let go of the mapping; readers are not affected."""
        self._reading = None
        self._slots.release()
        self._words.release()
        self._memory.close()

    def abandon(self) -> None:
        """Take back a segment that nobody has been told about."""
        memory.unlink(self.name)
        self.close()
