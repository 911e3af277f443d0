"""Reads an area from any process: rows as bytes, at one generation at a time.

`RowReader` is not thread-safe by itself; `shmroute.worker.reader.Reader` protects it by a lock. It never writes, and
takes no lock that another process could hold.

Each read is validated: a copy from a segment is used only if *oldest*, read after the copy, says that the segment was
not void (docs/format.md, "Validated reads").
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple, Self
from zlib import crc32

import msgspec

from shmroute.errors import AreaUnreadable, NotReady, ShmrouteError, SnapshotExpired
from shmroute.shm.control import ControlReader
from shmroute.shm.fences import LOADS_IN_ORDER, fence, fence_loads
from shmroute.shm.hashing import hasher
from shmroute.shm.layout import (
    CHECKSUM_BYTES,
    DELETED,
    KEY_PLACE_SHIFT,
    KIND_BYTES,
    MAX_GENERATION,
    RECORD,
    RECORD_BYTES,
    RESET,
    SEALED,
    VALUE_LENGTH_MASK,
    WORD_BYTES,
    WORD_MASK,
    Batch,
    unpack_hash,
)
from shmroute.shm.names import segment_name
from shmroute.shm.segment import Record, Segment

_ATTEMPTS: Final = 200
"""Maximum attempts to open the current segment. Before each further one, the writer has made a whole new base."""

_ATTEMPTS_WITHOUT_NEWS: Final = 4
"""Maximum attempts to read the same unreadable segment, since a writer may be in the middle of a change."""

_PAUSE_SECONDS: Final = 0.0005
"""Pause between attempts, so that a writer on the same core can finish its change."""

_ROWS_A_CHECK: Final = 256
"""Rows listed between two checks of *oldest*. They are returned only after the check."""

_BODY: Final = RECORD_BYTES - CHECKSUM_BYTES
"""Offset of a record's value within the bytes that the checksum covers."""

_unpack_record: Final = RECORD.unpack_from

_QUICK_BYTES: Final = 1 << 16
"""Limit of the values that are copied with their record and then verified, which is faster. Larger values are verified
in place and copied once."""

_UNUSUAL: Final = DELETED | VALUE_LENGTH_MASK & ~(_QUICK_BYTES - 1)
"""Bits of a deleted row or a large value."""


class _Place(msgspec.Struct, frozen=True):
    """Position of a reader. It is replaced as one value, so that an interrupt never leaves half a change.

    A struct and no tuple: a look-up reads two of its fields in half the time.
    """

    segment: Segment
    generation: int
    end: int
    """Offset at which the log ends for this generation, in bytes."""


class RowChange(NamedTuple):
    """A row's value before and after a change; None if the row did not exist."""

    kind: int
    key: str
    old: bytes | None
    new: bytes | None


class RowReader:
    """Attaches to `area` at its newest generation, and stays there until `refresh` or `advance` is called.

    The writer may overwrite a generation that is two bases old. Then reads raise `SnapshotExpired`; `refresh` always
    works.

    Raises:
        NotReady: the area does not exist, or holds no rows yet.
        AreaUnreadable: the area is damaged, foreign or of another format version.
        NoAccess: this process may not open the area, or does not trust its owner.
    """

    def __init__(self, area: str) -> None:
        self.area = area
        try:
            self.control = ControlReader(area)
        except FileNotFoundError:
            raise NotReady(area) from None
        self._place = self._newest()

    @property
    def generation(self) -> int:
        """Generation whose rows are read."""
        return self._place.generation

    @property
    def segment(self) -> Segment:
        """Segment that is read, for the native look-up."""
        return self._place.segment

    @property
    def end(self) -> int:
        """Offset at which the segment's log ends for this reader, in bytes; for the native look-up."""
        return self._place.end

    @property
    def expired(self) -> bool:
        """Whether this generation may have been overwritten, so that reads fail."""
        return _is_void(self.control, self._place)

    def snapshot(self) -> Self:
        """Return a second reader at the same generation. It stays there, until it expires, when this one moves."""
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        return view

    # --- rows ----------------------------------------------------------------------------------------------

    def get(self, kind: int, key: str) -> bytes | None:
        """Return the row's value at this reader's generation, or None.

        Raises:
            AreaUnreadable: the row is damaged.
            SnapshotExpired: this generation has been overwritten.
        """
        place = self._place
        segment = place.segment
        value = None
        try:
            name = key.encode()
            # Handle the usual case, a match in the first slot with the row's hash, in half the time of `find`, which
            # handles all other cases.
            slots, slot_count = segment.slots, segment.slot_count
            (hashed,) = unpack_hash(hasher(segment.hash_key, KIND_BYTES[kind] + name))
            slot = hashed * slot_count >> 32
            while (entry := slots[slot]) and entry >> 32 ^ (word := entry & WORD_MASK) != hashed:
                slot += 1
                if slot == slot_count:
                    break
            if entry and (at := word * WORD_BYTES) <= place.end - RECORD_BYTES:
                checksum, key_length, found_kind, sized, _ = _unpack_record(segment.map, at)
                if kind == found_kind and not sized & _UNUSUAL:
                    length = sized & VALUE_LENGTH_MASK
                    key_at = sized >> KEY_PLACE_SHIFT
                    size = length if key_at else length + key_length
                    raw = segment.map[at + CHECKSUM_BYTES : at + RECORD_BYTES + (size + 7 & ~7)]
                    begin = _BODY + (key_at or length)
                    if raw[begin : begin + key_length] == name and crc32(raw) == checksum:
                        value = raw[_BODY : _BODY + length]
            if value is None:
                value = segment.find(kind, name, place.end >> 3)
        except UnicodeEncodeError:  # a lone surrogate, as from os.fsdecode: no row's key contains one
            return None
        except AreaUnreadable:
            self._check(place)
            raise
        if not LOADS_IN_ORDER:
            fence()
        if self.control.oldest_word[()] > segment.start:  # void, or a damaged word
            self._check(place)
        return value

    def has(self, kind: int, key: str) -> bool:
        """Return whether the row exists at this reader's generation. Its value is neither copied nor verified.

        Raises:
            AreaUnreadable, SnapshotExpired: as `get`.
        """
        place = self._place
        try:
            found = place.segment.has(kind, key.encode(), place.end >> 3)
        except UnicodeEncodeError:
            return False
        except AreaUnreadable:
            self._check(place)
            raise
        fence_loads()
        self._check(place)
        return found

    def keys(self, kind: int) -> Iterator[str]:
        """Yield the keys of all rows of a kind, as `rows` does. Values are neither copied nor verified."""
        for record in self._records(self._place, kind, values=False):
            if record.value is not None:
                yield record.key.decode()

    def rows(self, kind: int | None = None) -> Iterator[tuple[int, str, bytes]]:
        """Yield `(kind, key, value)` of all rows, or of those of one kind, at this reader's generation, unordered.

        Raises:
            AreaUnreadable: a row is damaged.
            SnapshotExpired: this generation has been overwritten, possibly after some rows were returned.
        """
        for record in self._records(self._place, kind):
            if record.value is not None:
                yield record.kind, record.key.decode(), record.value

    def _records(self, place: _Place, kind: int | None = None, *, values: bool = True) -> Iterator[Record]:
        records = place.segment.rows(place.end // WORD_BYTES, kind, values=values)
        while True:
            try:
                some = list(islice(records, _ROWS_A_CHECK))
            except AreaUnreadable:
                self._check(place)
                raise
            self._check(place)
            if not some:
                return
            yield from some

    def _check(self, place: _Place) -> None:
        """Check that the bytes just read from the place have not been overwritten.

        Raises:
            SnapshotExpired: they may have been.
            AreaUnreadable: *oldest* declares the newest generation void. It never is, so *oldest* is damaged.
        """
        if _is_void(self.control, place):
            if self.control.generation == place.generation:
                raise AreaUnreadable(self.control.name, f"its word 'oldest' is damaged ({self.control.oldest})")
            raise SnapshotExpired(self.area, place.generation)

    # --- moving --------------------------------------------------------------------------------------------

    def moved(self, generation: int, end: int) -> None:
        """Set the place in this segment's log that the native look-up has moved to."""
        self._place = _Place(self._place.segment, generation, end)

    def refresh(self) -> list[tuple[int, bytes]] | None:
        """Go to the newest generation. If the area was removed, go to the new area of the same name, if there is one.

        Returns:
            `(kind, key)` of every row that may have changed; None if all rows may have changed.

        Raises:
            AreaUnreadable, NoAccess: the newest generation cannot be read. The reader stays at its generation.
        """
        published = self._published()
        if not published:
            return None if self._enter_next_area() else []
        place = self._place
        if published <= place.generation:
            return []
        changed: list[tuple[int, bytes]] = []
        followed = None
        try:
            followed = self._follow(place, published, changed)
        except AreaUnreadable:
            if not _is_void(self.control, place):
                raise
        if followed is None or _is_void(self.control, place):
            self._place = self._newest()
            return None
        self._place, complete = followed
        return changed if complete else None

    def advance(self) -> list[RowChange] | None:
        """Go to the next generation, and return exactly its changes.

        A reader that is behind by more than a whole base may find no log to the next generation. Then it goes to the
        newest one, and returns the differences between the two generations, in no order.

        Returns:
            The changes, possibly none; None if this is the newest generation.

        Raises:
            AreaUnreadable, NoAccess: the next generation cannot be read. The reader stays at its generation.
            SnapshotExpired: this reader's generation has been overwritten, so the changes since then are unknown.
        """
        published = self._published()
        before = self._place
        if not published:
            if not self._enter_next_area():
                return None
            return self._differences(before, self._place)
        if published <= before.generation:
            return None
        try:
            changes, place = self._one_step(before)
        except AreaUnreadable:
            self._check(before)
            raise
        self._check(before)
        self._place = place
        return changes

    def _one_step(self, before: _Place) -> tuple[list[RowChange], _Place]:
        segment, generation, end = before.segment, before.generation, before.end
        batch = segment.batch_at(end, generation + 1)
        if batch is not None and not batch.flags & SEALED:
            changes = []
            for _, record in segment.records_of(end, batch):
                old = segment.record_at(record.previous_word).value if record.previous_word else None
                changes.append(RowChange(record.kind, record.key.decode(), old, record.value))
            return changes, _Place(segment, generation + 1, end + batch.length)
        place = self._behind(batch) if batch is not None else None
        if place is not None and batch is not None and not batch.flags & RESET:
            return [], place
        place = place or self._newest()
        return self._differences(before, place), place

    def seek(self, generation: int) -> bool:
        """Go back to an earlier generation, so that `advance` continues from there.

        Returns:
            Whether the log reaches back that far; if not, the reader stays at its generation.
        """
        segment = self._place.segment
        start = segment.header.start
        if not start <= generation <= self._place.generation:
            return False
        followed = self._follow(_Place(segment, start, segment.header.log_at), generation, None)
        if followed is None or _is_void(self.control, self._place):
            return False
        self._place = followed[0]
        return True

    # --- inside --------------------------------------------------------------------------------------------

    def _published(self) -> int:
        """Return the newest generation; 0 if the area has been removed.

        Raises:
            AreaUnreadable: this generation cannot follow ours.
        """
        published = self.control.generation
        segment, generation = self._place.segment, self._place.generation
        if not published and self.control.retired:
            return 0
        if published < generation:
            # If the former rows were lost, the writer names the new segment before it stores the generation. It may
            # have been killed between the two; then the next writer publishes this generation.
            if not published or not published + 1 == generation == segment.header.start:
                raise AreaUnreadable(self.control.name, f"its generation went back from {generation} to {published}")
        elif published > generation:
            fence_loads()
        return published

    def _enter_next_area(self) -> bool:
        """Go to the new area of the same name. Returns False if there is none yet."""
        try:
            following = RowReader(self.area)
        except NotReady:
            return False
        self.control, self._place = following.control, following._place
        return True

    def _newest(self) -> _Place:
        """Return the place of the newest generation, starting from the control block."""
        seen, times = (0, 0), 0
        problem: ShmrouteError = NotReady(self.area)
        for _ in range(_ATTEMPTS):
            published, identity = self.control.generation, self.control.segment
            if not published:
                raise NotReady(self.area)
            fence_loads()
            times = times + 1 if seen == (published, identity) else 1
            seen = published, identity
            name = segment_name(self.area, identity)
            try:
                segment = Segment(name)
                place = _Place(segment, *segment.position())
                followed = self._follow(place, published, None)
            except FileNotFoundError:
                problem = AreaUnreadable(name, "the control block names it, but it is gone")
            except AreaUnreadable as error:  # the writer may have retired it, and may be overwriting it
                problem = error
            else:
                if followed is None:
                    problem = AreaUnreadable(name, f"its log does not lead to generation {published}")
                elif _is_void(self.control, place):
                    problem = AreaUnreadable(name, "the control block names it, but it is void")
                elif place.generation <= published or times == _ATTEMPTS_WITHOUT_NEWS:
                    return followed[0]
                # Else the generation exists, and its writer is about to store the word, or was killed before that.
            if times == _ATTEMPTS_WITHOUT_NEWS:
                raise problem
            time.sleep(_PAUSE_SECONDS)
        raise problem

    def _follow(
        self, place: _Place, published: int, changed: list[tuple[int, bytes]] | None
    ) -> tuple[_Place, bool] | None:
        """Follow the log from `place` to `published`, and collect the changed rows in `changed`.

        The result is valid only if `place` is not void afterwards; then no later segment on the way is void either.

        Returns:
            The new place, and whether `changed` is complete; None if the log does not lead there.
        """
        segment, generation, end = place.segment, place.generation, place.end
        complete = True
        while generation < published:
            batch = segment.batch_at(end, generation + 1)
            if batch is None:
                return None
            if batch.flags & SEALED:
                following = self._behind(batch)
                if following is None:
                    return None
                complete = complete and not batch.flags & RESET
                segment, generation, end = following.segment, following.generation, following.end
                continue
            if changed is not None:
                changed.extend(segment.changed_keys(end, batch))
            end += batch.length
            generation += 1
        return _Place(segment, generation, end), complete

    def _behind(self, seal: Batch) -> _Place | None:
        """Return the place where a sealed log continues, after the sealing generation; None if the segment is gone."""
        try:
            segment = Segment(segment_name(self.area, seal.next_segment))
        except (FileNotFoundError, AreaUnreadable):
            return None
        generation, end = segment.position()
        if seal.flags & RESET or generation > seal.generation:  # the hint is too far: search from the log's beginning
            generation, end = segment.header.start, segment.header.log_at
        if generation > seal.generation:  # the segment has been recycled
            return None
        while generation < seal.generation:
            batch = segment.batch_at(end, generation + 1)
            if batch is None:
                return None
            generation += 1
            end += batch.length
        return _Place(segment, generation, end)

    def _differences(self, old: _Place, new: _Place) -> list[RowChange]:
        """Return the differences between the rows of two places."""
        changes = []
        for record in new.segment.rows(new.end // WORD_BYTES):
            before = old.segment.find(record.kind, record.key, old.end // WORD_BYTES)
            if before != record.value:
                changes.append(RowChange(record.kind, record.key.decode(), before, record.value))
        changes.extend(
            RowChange(record.kind, record.key.decode(), record.value, None)
            for record in old.segment.rows(old.end // WORD_BYTES)
            if new.segment.find(record.kind, record.key, new.end // WORD_BYTES) is None
        )
        return changes


def _is_void(control: ControlReader, place: _Place) -> bool:
    """Return whether bytes of the place that were read before this call may have been overwritten.

    A value of *oldest* that is not a generation is damage and is ignored: before the writer overwrites anything, it
    stores a valid one.
    """
    fence_loads()
    return place.segment.header.start < control.oldest < MAX_GENERATION
