"""Reads a mapped segment up to a given end of its log: finds a row, walks the batches, lists the existing rows.

Used by readers and the publisher. Never writes, and never reads *oldest*: the caller must check whether the result is
still valid (`shmroute.shm.reader`). Offsets named `*_word` count 8-byte units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from zlib import crc32

import msgspec

from shmroute.errors import AreaUnreadable
from shmroute.shm import posix
from shmroute.shm.layout import (
    BATCH,
    BATCH_BYTES,
    CHECKSUM_BYTES,
    DELETED,
    HINT_AT,
    KEY_PLACE_SHIFT,
    MAX_KEY_PLACE,
    RECORD,
    RECORD_BYTES,
    SLOTS_AT,
    VALUE_LENGTH_MASK,
    WORD_BYTES,
    WORD_MASK,
    Batch,
    SegmentHeader,
    batch_checksum,
    hash_of,
    slot_entry,
    unpack_segment_header,
)

NO_END: Final = 1 << 32
"""An end of the log, in words, that lies behind every record: selects the newest version of each row."""

_SLOTS_A_TURN: Final = 65536
"""Slots copied at a time while listing: enough to be fast, few enough to take little memory."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A decoded record of a segment."""

    kind: int
    key: bytes
    value: bytes | None
    """None for a deletion; b"" if only the key was read."""
    previous_word: int
    """Offset of the superseded record in words; 0 for none."""
    at: int
    """Offset of the record in bytes."""
    size: int
    """Size of the record in bytes, padding included."""


class Segment:
    """A read-only mapping of one segment, its header checked.

    Raises:
        FileNotFoundError: there is no file of this name.
        NoAccess: this process may not open the file, or does not trust its owner.
        AreaUnreadable: the file is damaged, foreign, truncated, of another format version, or has no complete base yet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.map = posix.attach(name)
        self.header: SegmentHeader = unpack_segment_header(name, self.map[:SLOTS_AT], len(self.map))
        """Header at the time of mapping; a recycled segment may have another one now."""
        self.buffer = memoryview(self.map)
        """The whole mapping, read-only, for the native look-up."""
        self.slots = self.buffer[SLOTS_AT : self.header.records_at].cast("Q")
        self.slot_count = self.header.slots
        self.start = self.header.start
        self.hash_key = self.header.hash_key
        self._hint = self.buffer[HINT_AT : HINT_AT + WORD_BYTES].cast("Q")

    # --- the log -------------------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """Return `(generation, offset)` of a place near the end of the log, from which `batch_at` can go on.

        Raises:
            AreaUnreadable: the hint does not lead to a valid batch.
        """
        hint = self._hint[0]
        if not hint:
            return self.header.start, self.header.log_at
        if self.header.log_at <= hint <= self.header.capacity - BATCH_BYTES:
            generation = int.from_bytes(self.map[hint : hint + WORD_BYTES], "little")
            if generation > self.header.start and self.batch_at(hint, generation) is not None:
                return generation - 1, hint
        raise AreaUnreadable(self.name, "its newest batch is damaged")

    def batch_at(self, offset: int, generation: int) -> Batch | None:
        """Return the batch of this generation at this offset, or None if there is no valid one."""
        if offset % WORD_BYTES or offset + BATCH_BYTES > self.header.capacity:
            return None
        *fields, checksum = BATCH.unpack_from(self.map, offset)
        batch = Batch(*fields)
        end = offset + batch.length
        if batch.generation != generation or batch.length < BATCH_BYTES or end > self.header.capacity:
            return None
        if batch_checksum(batch, self.map[offset + BATCH_BYTES : end]) != checksum:
            return None
        return batch

    def records_of(self, offset: int, batch: Batch) -> Iterator[tuple[int, Record]]:
        """Yield `(word, record)` for each record of a valid batch."""
        at = offset + BATCH_BYTES
        for _ in range(batch.records):
            record = self.record_at(at // WORD_BYTES)
            yield at // WORD_BYTES, record
            at += record.size

    def changed_keys(self, offset: int, batch: Batch) -> list[tuple[int, bytes]]:
        """Return `(kind, key)` of each record of a valid batch.

        Raises:
            AreaUnreadable: the batch has been overwritten meanwhile.
        """
        end = offset + batch.length
        data = self.map[offset:end]
        at = BATCH_BYTES
        changed = []
        for _ in range(batch.records):
            if at > batch.length - RECORD_BYTES:
                raise AreaUnreadable(self.name, f"the batch at {offset} is damaged (its records do not fit)")
            _, key_length, kind, sized, _ = RECORD.unpack_from(data, at)
            length = sized & VALUE_LENGTH_MASK
            place = sized >> KEY_PLACE_SHIFT & MAX_KEY_PLACE
            begin = at + RECORD_BYTES + (place or length)
            changed.append((kind, data[begin : begin + key_length]))
            at += RECORD_BYTES + length + (0 if place else key_length) + 7 & ~7
        return changed

    # --- rows ----------------------------------------------------------------------------------------------

    def find(self, kind: int, key: bytes, end_word: int) -> bytes | None:
        """Return the row's newest value before this end of the log, or None.

        Raises:
            AreaUnreadable: a record or slot on the search path is damaged.
        """
        hashed, slot, word, value = self.probe(kind, key, end_word)
        if not word:
            self.check_way(hashed, slot, set())
        return value

    def has(self, kind: int, key: bytes, end_word: int) -> bool:
        """Return whether the row exists before this end of the log. Its value is neither copied nor verified.

        Raises:
            AreaUnreadable: a record or slot on the search path is damaged.
        """
        hashed, slot, word, value = self.probe(kind, key, end_word, values=False)
        if not word:
            self.check_way(hashed, slot, set())
        return value is not None

    def probe(self, kind: int, key: bytes, end_word: int, *, values: bool = True) -> tuple[int, int, int, bytes | None]:
        """Search a row. The only function that knows how slots are searched. `values` is as for `record_at`.

        Returns:
            `(hash, slot, word, value)`: the row's slot, its newest record before this end of the log, and the value in
            that record. Word 0: the row has no record, and `slot` is the free slot for it. Value None with another
            word: the row is deleted, or was added after this end.

        Raises:
            AreaUnreadable: a record or slot on the search path is damaged.
        """
        header = self.header
        slots, slot_count = self.slots, header.slots
        hashed = hash_of(header.hash_key, kind, key)
        first = slot = hashed * slot_count >> 32
        while entry := slots[slot]:
            word = entry & WORD_MASK
            if entry >> 32 ^ word == hashed:
                record = self.record_at(word, values=values)
                if record.key == key and record.kind == kind:
                    if word >= end_word:  # written after the reader's generation
                        word = self._earlier(word, end_word)
                        if not word:
                            return hashed, slot, NO_END, None
                        record = self.record_at(word)
                    return hashed, slot, word, record.value
                if hash_of(header.hash_key, record.kind, record.key) != hashed:
                    raise AreaUnreadable(self.name, "a slot leads to a record of another row")
            slot += 1
            if slot == slot_count:
                slot = 0
            if slot == first:
                raise AreaUnreadable(self.name, "no slot is free")
        return hashed, slot, 0, None

    def check_way(self, hashed: int, free: int, verified: set[int]) -> None:
        """Verify all slots between the one where the search for a row began and the free one where it ended.

        Otherwise a damaged slot could make a row look absent.

        Args:
            hashed: the hash of the row.
            free: the free slot.
            verified: slots that need not be verified again; those on the way are added.

        Raises:
            AreaUnreadable: a slot or record there is damaged.
        """
        slots = self.header.slots
        slot = hashed * slots >> 32
        while slot != free:
            if slot not in verified and (entry := self.slots[slot]):
                self._row_of(entry, NO_END, values=False)
                verified.add(slot)
            slot = slot + 1 if slot + 1 < slots else 0

    def record_at(self, word: int, *, values: bool = True) -> Record:
        """Return the record at this offset.

        Args:
            word: the offset in words.
            values: False: read only kind and key, and return b"" as the value. Then the checksum is verified only for a
                record without a value: the caller compares kind and key with the hash in the slot.

        Raises:
            AreaUnreadable: there is no record, or it is damaged.
        """
        at = word * WORD_BYTES
        header = self.header
        if not header.records_at <= at <= header.capacity - RECORD_BYTES:
            raise AreaUnreadable(self.name, f"an offset lies outside it ({at})")
        checksum, key_length, kind, sized, previous = RECORD.unpack_from(self.map, at)
        length = sized & VALUE_LENGTH_MASK
        key_at = sized >> KEY_PLACE_SHIFT & MAX_KEY_PLACE or length
        size = RECORD_BYTES + max(length, key_at + key_length) + 7 & ~7
        value: bytes | None = b""
        if values or not length or sized & DELETED:  # only the checksum proves that a row was deleted
            if crc32(self.buffer[at + CHECKSUM_BYTES : at + size]) != checksum:
                raise AreaUnreadable(self.name, f"the record at {at} is damaged (checksum)")
            begin = at + RECORD_BYTES
            value = None if sized & DELETED else self.map[begin : begin + length]
        key_at += at + RECORD_BYTES
        return Record(kind, self.map[key_at : key_at + key_length], value, previous, at, size)

    def raw_row(self, entry: int, end_word: int) -> tuple[int, bytes]:
        """Return the hash of a slot's row, and its packed record before this end of the log; b"" if there is none.

        Raises:
            AreaUnreadable: the record is damaged, or the slot leads to another row.
        """
        record = self._row_of(entry, end_word)
        raw = self.map[record.at : record.at + record.size] if record and record.value is not None else b""
        return entry >> 32 ^ entry & WORD_MASK, raw

    def _row_of(self, entry: int, end_word: int, *, values: bool = True) -> Record | None:
        """Return the newest record of a slot's row before this end of the log; None if there is none."""
        word = entry & WORD_MASK
        record = self.record_at(word, values=values)
        if slot_entry(hash_of(self.header.hash_key, record.kind, record.key), word) != entry:
            raise AreaUnreadable(self.name, "a slot leads to a record of another row")
        if word < end_word:
            return record
        word = self._earlier(word, end_word)  # the newest record was written after the reader's generation
        return self.record_at(word) if word else None

    def rows(
        self, end_word: int, kind: int | None = None, *, leave_out_damaged: bool = False, values: bool = True
    ) -> Iterator[Record]:
        """Yield the rows that exist before this end of the log, of one kind or of all, in no order.

        `values` is as for `record_at`.

        Raises:
            AreaUnreadable: a row is damaged, and `leave_out_damaged` is False.
        """
        for entry in self.entries():
            try:
                record = self._row_of(entry, end_word, values=values)
            except AreaUnreadable:
                if not leave_out_damaged:
                    raise
                continue
            if record is not None and record.value is not None and kind in (None, record.kind):
                yield record

    def entries(self) -> Iterator[int]:
        """Yield the slots that are in use."""
        slots = self.header.slots
        for start in range(0, slots, _SLOTS_A_TURN):
            yield from filter(None, self.slots[start : min(start + _SLOTS_A_TURN, slots)].tolist())

    def _earlier(self, word: int, end_word: int) -> int:
        """Return the newest record before this end of the log in the chain that begins at `word`; 0 if there is none.

        Raises:
            AreaUnreadable: a record in the chain is damaged.
        """
        while word >= end_word:
            previous = self.record_at(word).previous_word
            if previous >= word:
                raise AreaUnreadable(self.name, "a record supersedes one that is newer than itself")
            word = previous
        return word
