"""A mapped segment seen from a given end of its log: find a row, walk the batches, list what lives.

Used by readers and by the publisher alike. Never writes. All offsets named `*_word` are in units of 8 bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from zlib import crc32

from shmroute.errors import LayoutMismatch
from shmroute.shm import memory
from shmroute.shm.layout import (
    BATCH,
    BATCH_BYTES,
    DELETED,
    HINT_AT,
    LIVE_ROWS_AT,
    RECORD,
    RECORD_BYTES,
    RECORD_READ,
    SLOTS_AT,
    SLOTS_USED_AT,
    WORD_BYTES,
    Batch,
    SegmentHeader,
    align,
    batch_checksum,
    record_seed,
    unpack_segment_header,
)

_SLOTS_A_TURN: Final = 65536
"""Slots copied at a time while listing: enough to be quick, few enough to cost little memory."""

Find = Callable[[int, bytes, int], bytes | None]
"""`find(kind, key, end_word)`: the row's value before that end of the log, or None."""


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
        LayoutMismatch: it is damaged, foreign, cut short or of another format version.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._map = memory.attach(name)
        except ValueError as error:
            raise LayoutMismatch(name, "it is empty") from error
        self.header: SegmentHeader = unpack_segment_header(name, self._map[:SLOTS_AT], len(self._map))
        self._view = memoryview(self._map)
        self._slots = self._view[SLOTS_AT : self.header.records_at].cast("Q")
        self.find: Find = _make_find(name, self._map, self._slots, self.header)

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._map[offset : offset + WORD_BYTES], "little")

    @property
    def slots_used(self) -> int:
        """Slots that were filled when the newest batch was written."""
        return self._word(SLOTS_USED_AT)

    @property
    def live_rows(self) -> int:
        """Rows that existed when the newest batch was written."""
        return self._word(LIVE_ROWS_AT)

    def position(self) -> tuple[int, int]:
        """`(generation, offset)` of a place in the log close to its end, from which `batch_at` leads on.

        Raises:
            LayoutMismatch: the hint leads nowhere.
        """
        hint = self._word(HINT_AT)
        if not hint:
            return self.header.start, self.header.log_at
        generation = self._word(hint)
        batch = self.batch_at(hint, generation) if hint >= self.header.log_at else None
        if batch is None or generation <= self.header.start:
            raise LayoutMismatch(self.name, "its newest batch is damaged")
        return generation - 1, hint

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
        unpack = RECORD_READ.unpack_from
        changed = []
        for _ in range(batch.records):
            _, key_length, kind, _, value_length = unpack(data, at)
            begin = at + RECORD_BYTES
            changed.append((kind, data[begin : begin + key_length]))
            at += align(RECORD_BYTES + key_length + value_length)
        return changed

    def record_at(self, word: int) -> Record:
        """The record at that offset.

        Raises:
            LayoutMismatch: there is none, or it is damaged.
        """
        at = word * WORD_BYTES
        if not self.header.records_at <= at <= self.header.capacity - RECORD_BYTES:
            raise LayoutMismatch(self.name, f"an offset leads out of it ({at})")
        checksum, key_length, kind, flags, value_length, previous = RECORD.unpack_from(self._map, at)
        begin = at + RECORD_BYTES
        middle = begin + key_length
        data = self._map[begin : middle + value_length]
        if crc32(data, record_seed(kind, flags, key_length)) != checksum:
            raise LayoutMismatch(self.name, f"the record at {at} is damaged (checksum)")
        value = None if flags & DELETED else data[key_length:]
        return Record(kind, data[:key_length], value, previous, align(RECORD_BYTES + len(data)))

    def slot_of(self, kind: int, key: bytes) -> tuple[int, int]:
        """`(slot, word)` of the newest record of the row, whatever the end; word 0 where it has none yet."""
        wanted = crc32(key, kind)
        mask = self.header.slots - 1
        slot = wanted & mask
        for _ in range(self.header.slots):
            entry = self._slots[slot]
            if not entry:
                return slot, 0
            if entry >> 32 == wanted:
                record = self.record_at(entry & 0xFFFFFFFF)
                if record.key == key and record.kind == kind:
                    return slot, entry & 0xFFFFFFFF
            slot = (slot + 1) & mask
        raise LayoutMismatch(self.name, "no slot is free")

    def live_words(self, end_word: int, first_slot: int = 0, last_slot: int | None = None) -> Iterator[int]:
        """Offsets of the rows that exist before that end of the log, from a range of slots, in no order."""
        last_slot = self.header.slots if last_slot is None else last_slot
        for start in range(first_slot, last_slot, _SLOTS_A_TURN):
            for entry in self._slots[start : min(start + _SLOTS_A_TURN, last_slot)].tolist():
                word = entry & 0xFFFFFFFF
                while word >= end_word:
                    previous = self.record_at(word).previous_word
                    if previous >= word:
                        raise LayoutMismatch(self.name, "a record supersedes one that is newer than itself")
                    word = previous
                if word:
                    yield word

    def rows(self, end_word: int, kind: int | None = None) -> Iterator[Record]:
        """The rows that exist before that end of the log, of one kind or of all, in no order."""
        for word in self.live_words(end_word):
            record = self.record_at(word)
            if record.value is not None and kind in (None, record.kind):
                yield record


def _make_find(name: str, data: mmap.mmap, slots: memoryview, header: SegmentHeader) -> Find:
    """The look-up, as a closure: attribute loads would cost a quarter of it."""
    mask = header.slots - 1
    unpack = RECORD_READ.unpack_from
    unpack_all = RECORD.unpack_from
    records_at = header.records_at
    last = header.capacity - RECORD_BYTES

    def find(kind: int, key: bytes, end_word: int) -> bytes | None:
        wanted = crc32(key, kind)
        slot = wanted & mask
        probes = mask
        while entry := slots[slot]:
            if entry >> 32 == wanted:
                at = (entry & 0xFFFFFFFF) << 3
                while at >> 3 >= end_word:  # written after the generation we read
                    previous = unpack_all(data, at)[5] << 3
                    if previous >= at:
                        raise LayoutMismatch(name, "a record supersedes one that is newer than itself")
                    at = previous
                if at:
                    if not records_at <= at <= last:
                        raise LayoutMismatch(name, f"an offset leads out of it ({at})")
                    checksum, key_length, found_kind, flags, value_length = unpack(data, at)
                    at += 16
                    middle = at + key_length
                    found = data[at : middle + value_length]
                    if crc32(found, found_kind << 24 | flags << 16 | key_length) != checksum:
                        raise LayoutMismatch(name, f"the record at {at} is damaged (checksum)")
                    if found_kind == kind and key_length == len(key) and found.startswith(key):
                        return None if flags else found[key_length:]
            slot = (slot + 1) & mask
            probes -= 1
            if probes < 0:
                raise LayoutMismatch(name, "no slot is free")
        return None

    return find
