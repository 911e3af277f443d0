"""Writing one segment: append records, append a batch, point slots at it. Bytes only; no protocol between segments.

Used by `shmroute.shm.publisher` and `shmroute.shm.rebuild`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from zlib import crc32

from shmroute.errors import AreaUnreadable
from shmroute.shm import memory
from shmroute.shm.control import fence
from shmroute.shm.layout import (
    BATCH_BYTES,
    HINT_AT,
    LOG_SPARE_BYTES,
    MAX_BATCH_BYTES,
    MAX_CELLS_PASSED,
    MAX_SEGMENT_BYTES,
    NO_QUICK_SUM,
    QUICK_SUM_OFFSET,
    SEALED,
    SLOTS_AT,
    VALUE_LENGTH_OFFSET,
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
    suits_cell,
)
from shmroute.shm.segment import Segment

Change = tuple[int, bytes, bytes | None]
"""`(kind, key, value)`; value None deletes the row."""

_ROWS_WITHOUT_PAUSE: Final = 64


class NoRoom(Exception):
    """The base has more rows or bytes than were announced."""


class SegmentWriter:
    """One segment while it grows: first its base (`fill`, then `finish_base`), then its log (`append`).

    `rows` are expected in the base, of which `record_bytes` in no cell; `cells` is how many there are and of what size;
    `log_bytes` is address space for the log. Memory is taken by `reserve` and as it is written.

    Raises:
        OutOfSharedMemory: no room, even for the slots; the object is gone again.
    """

    def __init__(
        self,
        area: str,
        start: int,
        ownership: memory.Ownership,
        *,
        rows: int,
        cells: tuple[int, int],
        record_bytes: int,
        log_bytes: int,
    ) -> None:
        slots = slots_for(rows)
        records_at = SLOTS_AT + slots * WORD_BYTES
        self.start = start
        self.name = memory.segment_name(area, start)
        header = SegmentHeader(start, slots, records_at, records_at, 0, 0, *cells)
        self.end = header.packed_at
        """Bytes in use: where the next record or batch goes."""
        capacity = min(align(self.end + record_bytes + log_bytes + LOG_SPARE_BYTES), MAX_SEGMENT_BYTES)
        self.header = header._replace(capacity=capacity)
        self.slots_used = 0
        self.live_rows = 0
        self._reading: Segment | None = None
        self._memory = memory.WritableSegment.create(self.name, capacity, ownership)
        self._map_slots()
        try:
            self.reserve(records_at)
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
        self._half_words = self._buffer[: self.header.capacity].cast("I")

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

    def reserve(self, end: int) -> None:
        """Take memory for what is to come up to that offset. The cells must be there before `fill`.

        Raises:
            OutOfSharedMemory: no room; nothing has changed.
        """
        self._memory.ensure(end + LOG_SPARE_BYTES, exactly=True)

    def fill(self, rows: Iterable[tuple[int, bytes, bytes]]) -> Iterator[None]:
        """Add rows to the base, with a pause after every few. Keys must be distinct.

        Raises:
            OutOfSharedMemory: no room in /dev/shm.
            NoRoom: no room in the segment.
        """
        header, buffer, slots = self.header, self._buffer, self._slots
        mask = header.slots - 1
        cells_at, cells, cell_bytes = header.records_at, header.cells, header.cell_bytes
        behind_cells = cells_at + cells * cell_bytes
        room = header.slots * 7 // 8
        for count, (kind, key, value) in enumerate(rows, 1):
            if count > room:
                raise NoRoom
            record = pack_record(kind, key, value, 0)
            size = len(record)
            hashed = crc32(key, kind)
            at = 0
            if size <= cell_bytes and suits_cell(kind, len(value)):
                at = cells_at + hashed % cells * cell_bytes
                too_far = min(at + MAX_CELLS_PASSED * cell_bytes, behind_cells)
                while buffer[at + VALUE_LENGTH_OFFSET]:
                    at += cell_bytes
                    if at == too_far:
                        at = 0
                        break
            if not at:
                at = self.end
                if at + size + LOG_SPARE_BYTES > header.capacity:
                    raise NoRoom
                self._memory.ensure(at + size + LOG_SPARE_BYTES)
                self.end = at + size
            buffer[at : at + size] = record
            slot = hashed & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            word = at >> 3
            slots[slot] = (hashed ^ word) << 32 | word  # `slot_entry`, as fast as it can be
            self.slots_used = count
            if count % _ROWS_WITHOUT_PAUSE == 0:
                yield

    def finish_base(self) -> None:
        """Close the base: what comes after is the log. Writes the header, so that the segment can be attached."""
        self.live_rows = self.slots_used
        self.header = self.header._replace(log_at=self.end, rows=self.slots_used)
        data = pack_segment_header(self.header)
        self._buffer[: len(data)] = data
        fence()

    def has_room(self, changes: list[Change]) -> bool:
        """Whether a batch of these changes fits, and the slots stay loose enough for short probes."""
        length = BATCH_BYTES + sum(record_size(key, value) for _, key, value in changes)
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
            raise AreaUnreadable(self.name, f"a batch of {end - self.end} bytes is larger than its log")
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
        """Lead to a record that supersedes another. One of the base loses its quick sum, so that none finds it by that;
        who still stands before this generation finds it by its slot."""
        if 0 < previous * WORD_BYTES < self.header.log_at:
            self._half_words[(previous * WORD_BYTES + QUICK_SUM_OFFSET) // 4] = NO_QUICK_SUM
        wanted = crc32(key, kind)
        mask = self.header.slots - 1
        slot = wanted & mask
        slots = self._slots
        sought = slot_entry(wanted, previous) if previous else 0
        entry = slot_entry(wanted, word)
        while (found := slots[slot]) not in (sought, entry):
            if not found:
                raise AreaUnreadable(self.name, "no slot leads to a row that is there")
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
        self._half_words.release()
        self._memory.close()

    def abandon(self) -> None:
        """Take back a segment that nobody has been told about."""
        memory.unlink(self.name)
        self.close()
