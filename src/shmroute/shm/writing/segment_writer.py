"""Writes one segment: fills its base, appends batches, points slots at records. Knows nothing of other segments.

Used by `shmroute.shm.writing.publisher` and `shmroute.shm.writing.rebuild`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from shmroute.errors import AreaUnreadable
from shmroute.shm import layout, posix
from shmroute.shm.fences import fence
from shmroute.shm.layout import (
    BATCH_BYTES,
    HINT_AT,
    LOG_SPARE_BYTES,
    MAX_SEGMENT_BYTES,
    MAX_SLOTS,
    SEALED,
    SLOTS_AT,
    WORD_BYTES,
    Batch,
    SegmentHeader,
    align,
    hash_test,
    pack_batch,
    pack_record,
    pack_segment_header,
    record_size,
    slot_entry,
)
from shmroute.shm.segment import NO_END, Segment
from shmroute.shm.writing.packing import Row, pack_rows, point_slots
from shmroute.shm.writing.segment_memory import WritableSegment

Change = tuple[int, bytes, bytes | None]
"""`(kind, key, value)`; the value None deletes the row."""

CHUNK_ROWS: Final = 256
"""Rows of a base written between two pauses: about 0.4 ms."""

_ZEROS: Final = bytes(1 << 18)
"""Zeros for clearing the slots, piece by piece: about 0.05 ms each."""


CHANGES_BETWEEN_PAUSES: Final = 4096
"""Changes looked up between two calls of `pause`: about 10 ms."""


class Planned(NamedTuple):
    """A change, and the place of its row in the segment."""

    kind: int
    key: bytes
    value: bytes | None
    hashed: int
    slot: int
    previous_word: int
    """Offset of the row's newest record in words; 0 if it has none."""
    existed: bool
    """Whether the row exists before the change."""


class NoRoom(Exception):
    """The base has more rows or bytes than the segment was made for."""


class SegmentWriter:
    """The writer of one segment: first of its base (`clear`, `fill`, `finish_base`), then of its log (`append`).

    Args:
        memory: the segment's file, new or recycled; enlarged if it is too small.
        identity: the number in the segment's name.
        start: the generation of the base.
        rows: largest number of rows in the base.
        base_bytes: largest size of the base's records.
        log_bytes: room for the log behind the largest base.
        hash_key: below 2**63; by default a new random one.

    Raises:
        OutOfSharedMemory: the file may not become so large.
    """

    def __init__(
        self,
        memory: WritableSegment,
        identity: int,
        start: int,
        *,
        rows: int,
        base_bytes: int,
        log_bytes: int,
        hash_key: int | None = None,
    ) -> None:
        slots = min(layout.slots_for(rows), MAX_SLOTS)
        records_at = SLOTS_AT + slots * WORD_BYTES
        needed = align(records_at + base_bytes + log_bytes + LOG_SPARE_BYTES)
        memory.enlarge(min(1 << (needed - 1).bit_length(), MAX_SEGMENT_BYTES))
        key = secrets.randbits(63) if hash_key is None else hash_key
        self.header = SegmentHeader(start, identity, key, hash_test(key), slots, records_at, records_at, memory.size, 0)
        self.name = memory.name
        self.start = start
        self.identity = identity
        self.end = records_at
        """Bytes in use; the offset of the next record or batch."""
        self.slots_used = 0
        self.live_rows = 0
        self._log_bytes = log_bytes
        self._reading: Segment | None = None
        self.memory = memory
        self.fresh = memory.fresh
        """Whether the file is new, so that no reader can have mapped it."""
        self._map_words()

    @classmethod
    def adopt(
        cls, segment: Segment, end: int, newest: Batch | None, log_bytes: int, ownership: posix.Ownership
    ) -> SegmentWriter:
        """Continue a segment that a former writer left, whose valid content ends at `end` with the batch `newest`.

        Raises:
            FileNotFoundError, NoAccess, AreaUnreadable: the file cannot be opened for writing.
        """
        self = cls.__new__(cls)
        self.header = segment.header
        self.name = segment.name
        self.start = segment.header.start
        self.identity = segment.header.identity
        self.end = end
        self.slots_used = newest.slots_used if newest else segment.header.rows
        self.live_rows = newest.live_rows if newest else segment.header.rows
        self._log_bytes = log_bytes
        self._reading = segment
        self.memory = WritableSegment(segment.name, ownership)
        self.fresh = False
        self._map_words()
        return self

    def _map_words(self) -> None:
        self._buffer = self.memory.buffer
        self._slots = self._buffer[SLOTS_AT : self.header.records_at].cast("Q")
        self._words = self._buffer.cast("Q")

    @property
    def reading(self) -> Segment:
        """A read-only view of this segment. Only after `finish_base`."""
        assert self._reading is not None  # noqa: S101
        return self._reading

    @property
    def log_used(self) -> int:
        """Size of the log in bytes."""
        return self.end - self.header.log_at

    # --- the base ------------------------------------------------------------------------------------------

    def reserve_base(self, base_bytes: int) -> None:
        """Reserve memory for the slots and `base_bytes` of records at once, so that a table without room fails early.

        Raises:
            OutOfSharedMemory: there is no room; nothing has changed.
        """
        self.memory.ensure(self.header.records_at + base_bytes + LOG_SPARE_BYTES, exactly=True)

    def clear(self) -> Iterator[None]:
        """Make the file a segment without a base. Yields after every few pages.

        Readers must already know that the former content is void.

        Raises:
            OutOfSharedMemory: there is no room for the slots.
        """
        self._words[0] = 0  # clears the magic, so that nobody can attach
        self._words[HINT_AT // WORD_BYTES] = 0
        fence()
        end = self.header.records_at
        for start in range(SLOTS_AT, end, len(_ZEROS)):
            stop = min(start + len(_ZEROS), end)
            self.memory.ensure(stop + LOG_SPARE_BYTES)
            self._buffer[start:stop] = _ZEROS[: stop - start]
            yield

    def fill(self, rows: Iterable[Row]) -> Iterator[None]:
        """Add rows to the base. Yields after every `CHUNK_ROWS`. Rows must fit (`measure_rows`), with distinct keys.

        Raises:
            OutOfSharedMemory: there is no room in shared memory.
            NoRoom: there is no room in the segment.
        """
        remaining = iter(rows)
        while chunk := list(islice(remaining, CHUNK_ROWS)):
            self.add_records(*pack_rows(chunk, self.header.hash_key))
            yield

    def add_records(self, data: bytes, placed: list[int]) -> None:
        """Add packed records, which supersede none, to the base. The arguments are results of `pack_rows`.

        Raises:
            OutOfSharedMemory: there is no room in shared memory.
            NoRoom: there is no room in the segment.
        """
        header = self.header
        at = self.end
        end = at + len(data)
        self.slots_used += len(placed)
        if self.slots_used * 8 > header.slots * 7 or end + LOG_SPARE_BYTES > header.capacity:
            raise NoRoom
        self.memory.ensure(end + LOG_SPARE_BYTES)
        self._buffer[at:end] = data
        point_slots(self._slots, placed, at // WORD_BYTES)
        self.end = end

    def finish_base(self) -> None:
        """Finish the base, so that the log can follow. Writes the header, so that readers can attach.

        Raises:
            AreaUnreadable, NoAccess: the file has been removed or replaced.
        """
        self.live_rows = self.slots_used
        self.header = replace(self.header, log_at=self.end, rows=self.slots_used)
        self._buffer[self.end : self.end + LOG_SPARE_BYTES] = bytes(LOG_SPARE_BYTES)
        data = pack_segment_header(self.header)
        self._buffer[WORD_BYTES : len(data)] = data[WORD_BYTES:]
        fence()
        self._words[0] = int.from_bytes(data[:WORD_BYTES], "little")
        fence()
        try:
            self._reading = Segment(self.name)
        except FileNotFoundError as error:
            raise AreaUnreadable(self.name, "its file has been removed") from error

    # --- the log -------------------------------------------------------------------------------------------

    def plan(self, changes: Iterable[Change], pause: Callable[[], None]) -> list[Planned]:
        """Find the rows of these changes. Leaves out rows that would not change.

        `pause` is called after every `CHANGES_BETWEEN_PAUSES` changes.

        Raises:
            AreaUnreadable: a row is damaged.
        """
        reading = self.reading
        probe = reading.probe
        verified: set[int] = set()
        planned = []
        for count, (kind, key, value) in enumerate(changes, 1):
            hashed, slot, previous, old = probe(kind, key, NO_END)
            if not previous:
                reading.check_way(hashed, slot, verified)
            if old != value:
                planned.append(Planned(kind, key, value, hashed, slot, previous, old is not None))
            if count % CHANGES_BETWEEN_PAUSES == 0:
                verified.clear()  # bounds its size
                pause()
        return planned

    def has_room(self, planned: Sequence[Planned]) -> bool:
        """Return whether a batch of these changes fits, and leaves enough free slots for short searches."""
        length = BATCH_BYTES + sum(record_size(each.key, each.value) for each in planned)
        limit = min(self.header.capacity, self.header.log_at + self._log_bytes)
        fits = length <= layout.MAX_BATCH_BYTES and self.end + length + LOG_SPARE_BYTES <= limit
        return fits and (self.slots_used + len(planned)) * 8 <= self.header.slots * 7

    def append(
        self,
        generation: int,
        planned: Sequence[Planned],
        pause: Callable[[], None] = lambda: None,
        *,
        flags: int = 0,
        next_segment: int = 0,
    ) -> None:
        """Append one generation's batch, then point the slots at its records. Readers do not see it yet.

        There is always room for a sealing batch. `pause` is called as in `plan`.

        Raises:
            OutOfSharedMemory: there is no room; nothing has changed.
        """
        records: list[bytes] = []
        words: list[int] = []
        at = self.end + BATCH_BYTES
        slots_used, live_rows = self.slots_used, self.live_rows
        for count, each in enumerate(planned, 1):
            record = pack_record(each.kind, each.key, each.value, each.previous_word)
            words.append(at >> 3)
            records.append(record)
            at += len(record)
            slots_used += not each.previous_word
            live_rows += (each.value is not None) - each.existed
            if count % CHANGES_BETWEEN_PAUSES == 0:
                pause()
        batch = Batch(generation, next_segment, at - self.end, len(records), flags, slots_used, live_rows)
        self._write_batch(batch, records)
        for count, (each, word) in enumerate(zip(planned, words, strict=True), 1):
            self._point(each.hashed, each.slot, word, is_new=not each.previous_word)
            if count % CHANGES_BETWEEN_PAUSES == 0:
                pause()
        fence()
        self._words[HINT_AT // WORD_BYTES] = self.end
        self.end, self.slots_used, self.live_rows = at, slots_used, live_rows

    def _write_batch(self, batch: Batch, records: list[bytes]) -> None:
        """Write a batch behind the last one. Its generation is written last, which makes it valid."""
        end = self.end + batch.length
        spare = 0 if batch.flags & SEALED else LOG_SPARE_BYTES
        if end + spare > self.header.capacity:
            raise AreaUnreadable(self.name, f"a batch of {batch.length} bytes is larger than its log")
        self.memory.ensure(end + spare)
        data = pack_batch(batch, b"".join(records))
        if spare:  # ends the log here, even if a killed writer has left a batch behind this place
            self._buffer[end : end + spare] = bytes(spare)
        self._buffer[self.end + WORD_BYTES : end] = data[WORD_BYTES:]
        fence()
        self._words[self.end // WORD_BYTES] = batch.generation
        fence()

    def _point(self, hashed: int, slot: int, word: int, *, is_new: bool) -> None:
        """Point a row's slot at a record. A new row gets the next free slot, starting at `slot`."""
        slots, slot_count = self._slots, self.header.slots
        while is_new and slots[slot]:
            slot = slot + 1 if slot + 1 < slot_count else 0
        slots[slot] = slot_entry(hashed, word)

    def redo(self, offset: int, batch: Batch) -> None:
        """Point the slots at the records of a valid batch again, after a crash before or while they were set.

        A second call changes nothing.
        """
        for word, record in self.reading.records_of(offset, batch):
            hashed, slot, found, _ = self.reading.probe(record.kind, record.key, NO_END)
            if found not in (word, record.previous_word):
                raise AreaUnreadable(self.name, "no slot leads to a row that exists")
            self._point(hashed, slot, word, is_new=not found)
        fence()
        self._words[HINT_AT // WORD_BYTES] = offset

    def close(self) -> None:
        """Unmap the segment. Readers are not affected."""
        self._reading = None
        self._slots.release()
        self._words.release()
        self.memory.close()
