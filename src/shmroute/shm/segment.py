"""A mapped segment seen from a given end of its log: find a row, walk the batches, list what lives.

Used by readers and by the publisher alike. Never writes. All offsets named `*_word` are in units of 8 bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from zlib import crc32

from shmroute.errors import AreaUnreadable
from shmroute.shm import memory
from shmroute.shm.layout import (
    BATCH,
    BATCH_BYTES,
    DELETED,
    HINT_AT,
    KEY_PLACE_SHIFT,
    KIND_SHIFT,
    MAX_KEY_BYTES,
    MAX_KIND,
    QUICK_READ,
    RECORD,
    RECORD_BYTES,
    SLOTS_AT,
    VALUE_LENGTH_OFFSET,
    WORD_BYTES,
    WORD_MASK,
    Batch,
    SegmentHeader,
    align,
    batch_checksum,
    record_checksum,
    record_length,
    slot_entry,
    suits_cell,
    unpack_segment_header,
)

_SLOTS_A_TURN: Final = 65536
"""Slots copied at a time while listing: enough to be quick, few enough to cost little memory."""

Find = Callable[[int, bytes, int], bytes | None]
"""`find(kind, key, end_word)`: the row's value before that end of the log, or None."""


Slots = tuple[memoryview, memoryview, int, mmap.mmap, int]
"""The low and the high halves of the slots, the number of slots less one, the whole mapping, and the end of the log in
words.

By halves, since CPython takes half as long for integers of 32 bits. A slot is stored as a whole: whoever gets the
halves of two different stores sees that they do not belong together (`layout.WORD_MASK`)."""

Quick = tuple[memoryview, int, int, Slots]
"""What `shmroute.worker.lookup` needs to find rows: the cells, how many there are and their size, and the slots."""


class Record(NamedTuple):
    """A record as it lies in a segment. `value` is None for a deletion."""

    kind: int
    key: bytes
    value: bytes | None
    previous_word: int
    size: int


class Segment:
    """A read-only mapping of one segment, its header checked.

    Raises:
        FileNotFoundError: there is no object of that name.
        NoAccess: the operating system refuses it to this process.
        AreaUnreadable: it is damaged, foreign, cut short or of another format version.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._map = memory.attach(name)
        self.header: SegmentHeader = unpack_segment_header(name, self._map[:SLOTS_AT], len(self._map))
        view = memoryview(self._map)
        self._slots = view[SLOTS_AT : self.header.records_at].cast("Q")
        halves = view[SLOTS_AT : self.header.records_at].cast("I")
        self._halves = halves[::2], halves[1::2]
        self._words = view[:SLOTS_AT].cast("Q")
        self._cells = view[self.header.records_at : self.header.packed_at + QUICK_READ.size]
        self.find: Find = _make_find(name, self._map, self._slots, self.header)

    def quick(self, end: int) -> Quick:
        """What `shmroute.worker.lookup` needs to find rows before that end of the log, in bytes."""
        header = self.header
        slots = *self._halves, header.slots - 1, self._map, end // WORD_BYTES
        if not header.cells:
            return memoryview(b""), 1, 1, slots
        return self._cells, header.cells, header.cell_bytes, slots

    @property
    def live_rows(self) -> int:
        """How many rows there are after the newest batch; not checked, for estimates."""
        hint = self._words[HINT_AT // WORD_BYTES]
        if not self.header.log_at <= hint <= self.header.capacity - BATCH_BYTES:
            return self.header.rows
        return Batch(*BATCH.unpack_from(self._map, hint)[:-1]).live_rows

    # --- the log -------------------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """`(generation, offset)` of a place in the log close to its end, from which `batch_at` leads on.

        Raises:
            AreaUnreadable: the hint leads nowhere.
        """
        hint = self._words[HINT_AT // WORD_BYTES]
        if not hint:
            return self.header.start, self.header.log_at
        if self.header.log_at <= hint <= self.header.capacity - BATCH_BYTES:
            generation = int.from_bytes(self._map[hint : hint + WORD_BYTES], "little")
            if generation > self.header.start and self.batch_at(hint, generation) is not None:
                return generation - 1, hint
        raise AreaUnreadable(self.name, "its newest batch is damaged")

    def batch_at(self, offset: int, generation: int) -> Batch | None:
        """The batch of that generation at that offset, or None where there is no valid one."""
        if offset % WORD_BYTES or offset + BATCH_BYTES > self.header.capacity:
            return None
        *fields, checksum = BATCH.unpack_from(self._map, offset)
        batch = Batch(*fields)
        end = offset + batch.length
        if batch.generation != generation or batch.length < BATCH_BYTES or end > self.header.capacity:
            return None
        if batch_checksum(batch, self._map[offset + BATCH_BYTES : end]) != checksum:
            return None
        return batch

    def records_of(self, offset: int, batch: Batch) -> Iterator[tuple[int, Record]]:
        """`(word, record)` of each record of a valid batch."""
        at = offset + BATCH_BYTES
        for _ in range(batch.records):
            record = self.record_at(at // WORD_BYTES)
            yield at // WORD_BYTES, record
            at += record.size

    def changed_keys(self, offset: int, batch: Batch) -> list[tuple[int, bytes]]:
        """`(kind, key)` of each record of a valid batch: all that a memo has to know, read in one pass."""
        at = offset + BATCH_BYTES
        data = self._map
        unpack = RECORD.unpack_from
        changed = []
        for _ in range(batch.records):
            _, head, value_length, _ = unpack(data, at)
            key_length = head & MAX_KEY_BYTES
            place = head >> KEY_PLACE_SHIFT
            begin = at + RECORD_BYTES + (place or value_length)
            changed.append((head >> KIND_SHIFT & MAX_KIND, data[begin : begin + key_length]))
            at += align(record_length(head, value_length))
        return changed

    # --- rows ----------------------------------------------------------------------------------------------

    def record_at(self, word: int) -> Record:
        """The record at that offset.

        Raises:
            AreaUnreadable: there is none, or it is damaged.
        """
        return _record_at(self.name, self._map, self.header, word)

    def value_at(self, word: int) -> bytes | None:
        """The value a row had in the record at that offset; None for a deletion, and for 0: no record."""
        return self.record_at(word).value if word else None

    def slot_of(self, kind: int, key: bytes) -> tuple[int, int]:
        """`(slot, word)` of the newest record of the row, whatever the end; word 0 where it has none yet.

        Before it says that there is none, it checks all that lies on the way: a damaged slot must not make a row look
        absent.

        Raises:
            AreaUnreadable: something on the way is damaged.
        """
        wanted = crc32(key, kind)
        slots = self._slots
        mask = self.header.slots - 1
        first = slot = wanted & mask
        while entry := slots[slot]:
            word = entry & WORD_MASK
            if entry >> 32 ^ word == wanted:
                record = self._record_of(entry)
                if record.key == key and record.kind == kind:
                    return slot, word
            slot = (slot + 1) & mask
            if slot == first:
                raise AreaUnreadable(self.name, "no slot is free")
        for passed in range(first, slot if slot >= first else slot + mask + 1):
            self._record_of(slots[passed & mask])
        return slot, 0

    def _record_of(self, entry: int) -> Record:
        """The newest record of the row a slot stands for, after a check that both speak of one row."""
        word = entry & WORD_MASK
        record = self.record_at(word)
        if slot_entry(crc32(record.key, record.kind), word) != entry:
            raise AreaUnreadable(self.name, "a slot leads to a record of another row")
        return record

    def rows(self, end_word: int, kind: int | None = None, *, leave_out_damaged: bool = False) -> Iterator[Record]:
        """The rows that exist before that end of the log, of one kind or of all, in no order.

        Raises:
            AreaUnreadable: one of them is damaged, and those are not to be left out.
        """
        slots = self.header.slots
        for start in range(0, slots, _SLOTS_A_TURN):
            for entry in self._slots[start : min(start + _SLOTS_A_TURN, slots)].tolist():
                if not entry:
                    continue
                try:
                    record = self._record_before(entry, end_word)
                except AreaUnreadable:
                    if not leave_out_damaged:
                        raise
                    continue
                if record is not None and record.value is not None and kind in (None, record.kind):
                    yield record

    def sizes(self) -> Iterator[int]:
        """Bytes of the newest record of each row that may lie in a cell, else 0; not checked, for estimates."""
        last = self.header.capacity - RECORD_BYTES
        unpack = RECORD.unpack_from
        for word in self._halves[0]:
            at = word * WORD_BYTES
            if not self.header.records_at <= at <= last:
                continue
            _, head, value_length, _ = unpack(self._map, at)
            suits = suits_cell(head >> KIND_SHIFT & MAX_KIND, value_length)
            yield align(record_length(head, value_length)) if suits else 0

    def _record_before(self, entry: int, end_word: int) -> Record | None:
        """The record of a slot's row before that end of the log; None where it has none."""
        record = self._record_of(entry)
        word = entry & WORD_MASK
        if word < end_word:
            return record
        word = _earlier(self.name, self._map, self.header, word, end_word)  # written after the generation we read
        return self.record_at(word) if word else None


def _record_at(name: str, data: mmap.mmap, header: SegmentHeader, word: int) -> Record:
    at = word * WORD_BYTES
    if not header.records_at <= at <= header.capacity - RECORD_BYTES:
        raise AreaUnreadable(name, f"an offset leads out of it ({at})")
    checksum, head, value_length, previous = RECORD.unpack_from(data, at)
    key_length = head & MAX_KEY_BYTES
    length = record_length(head, value_length)
    checked = data[at + VALUE_LENGTH_OFFSET : at + length]
    if record_checksum(head, previous, checked) != checksum:
        raise AreaUnreadable(name, f"the record at {at} is damaged (checksum)")
    key_at = 1 + (head >> KEY_PLACE_SHIFT or value_length)
    value = None if head & DELETED else checked[1 : 1 + value_length]
    kind = head >> KIND_SHIFT & MAX_KIND
    return Record(kind, checked[key_at : key_at + key_length], value, previous, align(length))


def _earlier(name: str, data: mmap.mmap, header: SegmentHeader, word: int, end_word: int) -> int:
    """The newest record before that end of the log of the row whose newest is at `word`; 0 where there is none."""
    while word >= end_word:
        previous = _record_at(name, data, header, word).previous_word
        if previous >= word:
            raise AreaUnreadable(name, "a record supersedes one that is newer than itself")
        word = previous
    return word


def _make_find(name: str, data: mmap.mmap, slots: memoryview, header: SegmentHeader) -> Find:
    """The look-up, as a closure: attribute loads would cost a quarter of it."""
    mask = header.slots - 1
    unpack = RECORD.unpack_from
    records_at = header.records_at
    last = header.capacity - RECORD_BYTES

    def find(kind: int, key: bytes, end_word: int) -> bytes | None:
        wanted = crc32(key, kind)
        slot = wanted & mask
        probes = mask
        while entry := slots[slot]:
            word = entry & WORD_MASK
            if entry >> 32 ^ word == wanted:
                if word >= end_word:  # written after the generation we read
                    word = _earlier(name, data, header, word, end_word)
                if word:
                    at = word << 3
                    if not records_at <= at <= last:
                        raise AreaUnreadable(name, f"an offset leads out of it ({at})")
                    checksum, head, value_length, previous = unpack(data, at)
                    key_length = head & 0xFFFF
                    key_at = head >> 25
                    checked = data[at + 20 : at + 21 + value_length + (0 if key_at else key_length)]
                    if crc32(checked, head ^ previous) != checksum:
                        raise AreaUnreadable(name, f"the record at {at} is damaged (checksum)")
                    key_at = 1 + (key_at or value_length)
                    if key_length == len(key) and head >> 16 & 0xFF == kind and checked.startswith(key, key_at):
                        return None if head & 0x1000000 else checked[1 : 1 + value_length]
                    if crc32(checked[key_at : key_at + key_length], head >> 16 & 0xFF) != wanted:
                        raise AreaUnreadable(name, f"a slot leads to a record of another row ({at})")
            slot = (slot + 1) & mask
            probes -= 1
            if probes < 0:
                raise AreaUnreadable(name, "no slot is free")
        return None

    return find
