"""A mapped segment seen from a given end of its log: find a row, walk the batches, list the rows that exist.

Used by readers and by the publisher alike. Never writes, and never looks at *oldest*: whether what it returns is still
valid is for the caller to ask (`shmroute.shm.reader`). All offsets named `*_word` are in units of 8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

from shmroute.errors import AreaUnreadable
from shmroute.shm import posix
from shmroute.shm.hashing import hasher
from shmroute.shm.layout import (
    BATCH,
    BATCH_BYTES,
    CHECKSUM_BYTES,
    DELETED,
    HINT_AT,
    KEY_PLACE_SHIFT,
    KIND_BYTES,
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

__all__ = ["NO_END", "Record", "Segment"]

NO_END: Final = 1 << 32
"""An end of the log, in words, behind every record: the newest version of each row."""

_BODY: Final = RECORD_BYTES - CHECKSUM_BYTES
"""Where a record's value begins in what its checksum covers."""

_unpack_record: Final = RECORD.unpack_from

_QUICK_BYTES: Final = 1 << 16
"""Values up to this size are copied with their record and then checked, which is quicker; larger ones are checked where
they lie, and copied once."""

_SLOTS_A_TURN: Final = 65536
"""Slots copied at a time while listing: enough to be quick, few enough to cost little memory."""


class Record(NamedTuple):
    """A record as it lies in a segment."""

    kind: int
    key: bytes
    value: bytes | None
    """None for a deletion; b"" where only the key was asked for."""
    previous_word: int
    """The record that this one supersedes; 0 for none."""
    at: int
    """Offset in bytes."""
    size: int
    """Bytes, padding included."""


class Segment:
    """A read-only mapping of one segment, its header checked.

    Raises:
        FileNotFoundError: there is no file of that name.
        NoAccess: this process may not open it, or does not trust its owner.
        AreaUnreadable: it is damaged, foreign, cut short, of another format version, or has no complete base yet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._map = posix.attach(name)
        self.header: SegmentHeader = unpack_segment_header(name, self._map[:SLOTS_AT], len(self._map))
        """As it was when the segment was mapped; a recycled segment has another one now."""
        self.buffer = memoryview(self._map)
        """The whole mapping, read-only, for the native look-up."""
        self._slots = self.buffer[SLOTS_AT : self.header.records_at].cast("Q")
        self.start = self.header.start
        self._hash_key = self.header.hash_key
        self._records_at = self.header.records_at
        self._last_record_at = self.header.capacity - RECORD_BYTES
        self._hint = self.buffer[HINT_AT : HINT_AT + WORD_BYTES].cast("Q")

    @property
    def live_rows(self) -> int:
        """How many rows there are after the newest batch; not checked, for estimates."""
        hint = self._hint[0]
        if not self.header.log_at <= hint <= self.header.capacity - BATCH_BYTES:
            return self.header.rows
        return Batch(*BATCH.unpack_from(self._map, hint)[:-1]).live_rows

    # --- the log -------------------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """`(generation, offset)` of a place in the log close to its end, from which `batch_at` leads on.

        Raises:
            AreaUnreadable: the hint leads nowhere.
        """
        hint = self._hint[0]
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
        """`(kind, key)` of each record of a valid batch.

        Raises:
            AreaUnreadable: the batch has been overwritten meanwhile.
        """
        end = offset + batch.length
        data = self._map[offset:end]
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
        """The row's value before that end of the log, or None.

        Raises:
            AreaUnreadable: a record or slot on the way is damaged.
        """
        # What `probe` would find in the first slot with the row's hash, in half the time. Anything else is left to it.
        slots = self._slots
        hashed = int.from_bytes(hasher(self._hash_key, KIND_BYTES[kind] + key)[:4], "little")
        slot = hashed * len(slots) >> 32
        while (entry := slots[slot]) and entry >> 32 ^ entry & WORD_MASK != hashed and slot + 1 < len(slots):
            slot += 1
        word = entry & WORD_MASK
        at = word * WORD_BYTES
        if word < end_word and self._records_at <= at <= self._last_record_at:
            checksum, key_length, found_kind, sized, _ = _unpack_record(self._map, at)
            length = min(sized & VALUE_LENGTH_MASK, _QUICK_BYTES)  # a longer one fails the checksum below
            key_at = sized >> KEY_PLACE_SHIFT & MAX_KEY_PLACE
            size = length + 7 & ~7 if key_at else length + key_length + 7 & ~7
            raw = self._map[at + CHECKSUM_BYTES : at + RECORD_BYTES + size]
            same = kind == found_kind and len(key) == key_length and raw.startswith(key, _BODY + (key_at or length))
            if same and crc32(raw) == checksum:
                return None if sized & DELETED else raw[_BODY : _BODY + length]
        _, slot, word, value = self.probe(kind, key, end_word)
        if not word:
            self.check_way(kind, key, slot)
        return value

    def has(self, kind: int, key: bytes, end_word: int) -> bool:
        """Whether the row exists before that end of the log. Its value is neither copied nor checked.

        Raises:
            AreaUnreadable: a record or slot on the way is damaged.
        """
        _, slot, word, value = self.probe(kind, key, end_word, values=False)
        if not word:
            self.check_way(kind, key, slot)
        return value is not None

    def probe(self, kind: int, key: bytes, end_word: int, *, values: bool = True) -> tuple[int, int, int, bytes | None]:
        """Search a row. The only place that knows how slots are searched. `values` is that of `record_at`.

        Returns:
            `(hash, slot, word, value)`: the row's slot, its newest record before that end of the log, and its value
            there. Word 0 where the row has no record at all; then `slot` is the free one where it belongs. Value None
            with another word: the row is deleted, or younger than that end.

        Raises:
            AreaUnreadable: a record or slot on the way is damaged.
        """
        header = self.header
        slots, slot_count = self._slots, header.slots
        hashed = int.from_bytes(hasher(header.hash_key, KIND_BYTES[kind] + key)[:4], "little")
        first = slot = hashed * slot_count >> 32
        while entry := slots[slot]:
            word = entry & WORD_MASK
            if entry >> 32 ^ word == hashed:
                record = self.record_at(word, values=values)
                if record.key == key and record.kind == kind:
                    if word >= end_word:  # written after the generation that is read
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

    def check_way(self, kind: int, key: bytes, free: int) -> None:
        """Check every row between the slot where the search for a row begins and the free slot where it ended.

        A damaged slot must not make a row look absent.

        Raises:
            AreaUnreadable: something there is damaged.
        """
        slots = self.header.slots
        slot = hash_of(self.header.hash_key, kind, key) * slots >> 32
        while slot != free:
            if entry := self._slots[slot]:
                self._row_of(entry, NO_END, values=False)
            slot = slot + 1 if slot + 1 < slots else 0

    def record_at(self, word: int, *, values: bool = True) -> Record:
        """The record at that offset.

        Args:
            word: the offset.
            values: False: only kind and key are read, and b"" stands for the value. The checksum of a record with a
                value is not computed then: the caller compares kind and key with the hash in the slot.

        Raises:
            AreaUnreadable: there is none, or it is damaged.
        """
        at = word * WORD_BYTES
        header = self.header
        if not header.records_at <= at <= header.capacity - RECORD_BYTES:
            raise AreaUnreadable(self.name, f"an offset leads out of it ({at})")
        checksum, key_length, kind, sized, previous = RECORD.unpack_from(self._map, at)
        length = sized & VALUE_LENGTH_MASK
        key_at = sized >> KEY_PLACE_SHIFT & MAX_KEY_PLACE or length
        size = RECORD_BYTES + max(length, key_at + key_length) + 7 & ~7
        value: bytes | None = b""
        if values or not length or sized & DELETED:  # nothing but the checksum says that a row was deleted
            if crc32(self.buffer[at + CHECKSUM_BYTES : at + size]) != checksum:
                raise AreaUnreadable(self.name, f"the record at {at} is damaged (checksum)")
            begin = at + RECORD_BYTES
            value = None if sized & DELETED else self._map[begin : begin + length]
        key_at += at + RECORD_BYTES
        return Record(kind, self._map[key_at : key_at + key_length], value, previous, at, size)

    def raw_row(self, entry: int, end_word: int) -> tuple[int, bytes]:
        """The hash and the packed record, before that end of the log, of the row a slot stands for; empty if none.

        Raises:
            AreaUnreadable: it is damaged, or the slot leads to another row.
        """
        record = self._row_of(entry, end_word)
        raw = self._map[record.at : record.at + record.size] if record and record.value is not None else b""
        return entry >> 32 ^ entry & WORD_MASK, raw

    def _row_of(self, entry: int, end_word: int, *, values: bool = True) -> Record | None:
        """The record before that end of the log of the row a slot stands for, None if it has none there."""
        word = entry & WORD_MASK
        record = self.record_at(word, values=values)
        if slot_entry(hash_of(self.header.hash_key, record.kind, record.key), word) != entry:
            raise AreaUnreadable(self.name, "a slot leads to a record of another row")
        if word < end_word:
            return record
        word = self._earlier(word, end_word)  # the newest was written after the generation that is read
        return self.record_at(word) if word else None

    def rows(
        self, end_word: int, kind: int | None = None, *, leave_out_damaged: bool = False, values: bool = True
    ) -> Iterator[Record]:
        """The rows that exist before that end of the log, of one kind or of all, in no order.

        `values` is that of `record_at`.

        Raises:
            AreaUnreadable: one of them is damaged, and those are not to be left out.
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
        """The slots that are in use."""
        slots = self.header.slots
        for start in range(0, slots, _SLOTS_A_TURN):
            yield from filter(None, self._slots[start : min(start + _SLOTS_A_TURN, slots)].tolist())

    def _earlier(self, word: int, end_word: int) -> int:
        """The newest record before that end of the log of the row whose newest is at `word`; 0 where there is none.

        Raises:
            AreaUnreadable: a record on the way is damaged.
        """
        while word >= end_word:
            previous = self.record_at(word).previous_word
            if previous >= word:
                raise AreaUnreadable(self.name, "a record supersedes one that is newer than itself")
            word = previous
        return word
