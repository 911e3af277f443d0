"""Reading an area from any process: rows as bytes, at one generation at a time.

`RowReader` is not thread-safe by itself; `shmroute.worker.reader.Reader` puts a lock around it. It never writes and
takes no lock that another process could hold.

Each read is validated: what was copied from a segment counts only if *oldest* says afterwards that the segment was not
void (docs/format.md, "Validated reads").
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple, Self

from shmroute.errors import AreaUnreadable, NotReady, ShmrouteError, SnapshotExpired
from shmroute.shm import posix
from shmroute.shm.control import ControlReader
from shmroute.shm.fences import fence_loads
from shmroute.shm.layout import MAX_GENERATION, RESET, SEALED, WORD_BYTES, Batch
from shmroute.shm.segment import Record, Segment

__all__ = ["RowChange", "RowReader"]

_ATTEMPTS: Final = 200
"""How often a segment that has just been replaced is looked for again: each time means a whole new base."""

_ATTEMPTS_WITHOUT_NEWS: Final = 4
"""How often the same that cannot be read is tried, lest a writer be in the middle of something."""

_PAUSE_SECONDS: Final = 0.0005
"""Between attempts, so that a writer on the same core can finish what it is doing."""

_ROWS_A_CHECK: Final = 256
"""Rows listed between two looks at *oldest*: they are given out after it."""


class _Place(NamedTuple):
    """Where a reader is. One value, so that it changes as a whole whatever interrupts the reader."""

    segment: Segment
    generation: int
    end: int
    """The offset in bytes at which the log ends for it."""


class RowChange(NamedTuple):
    """What became of a row: its value before and after, None where it did not exist."""

    kind: int
    key: str
    old: bytes | None
    new: bytes | None


class RowReader:
    """Attaches to `area` and stays at its newest generation until `refresh` or `advance` is called.

    The writer may need the memory of a generation that is two bases old. Then reading it raises `SnapshotExpired`;
    `refresh` always works.

    Raises:
        NotReady: the area is not there, or holds no rows yet.
        AreaUnreadable: it is damaged, foreign or of another format version.
        NoAccess: this process may not open it, or does not trust its owner.
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
        """The generation whose rows are read."""
        return self._place.generation

    @property
    def segment(self) -> Segment:
        """The segment that is read, for the native look-up."""
        return self._place.segment

    @property
    def end(self) -> int:
        """The offset in bytes at which the segment's log ends for this reader, for the native look-up."""
        return self._place.end

    @property
    def expired(self) -> bool:
        """Whether this generation cannot be read any more."""
        return _is_void(self.control, self._place)

    def snapshot(self) -> Self:
        """A second reader at the same generation: it reads on there while this one goes on, until it expires."""
        return copy.copy(self)

    @property
    def live_rows(self) -> int:
        """How many rows there are, of any kind; not checked, for estimates."""
        return self._place.segment.live_rows

    # --- rows ----------------------------------------------------------------------------------------------

    def get(self, kind: int, key: str) -> bytes | None:
        """The row's value at this reader's generation, or None.

        Raises:
            AreaUnreadable: the row is damaged.
            SnapshotExpired: this generation has been overwritten.
        """
        segment, _, end = place = self._place
        try:
            value = segment.find(kind, key.encode(), end >> 3)
        except UnicodeEncodeError:  # a lone surrogate, as os.fsdecode makes them: no row's key has one
            return None
        except AreaUnreadable:
            self._check(place)
            raise
        fence_loads()
        if self.control.oldest > segment.start:  # void, or a damaged word
            self._check(place)
        return value

    def has(self, kind: int, key: str) -> bool:
        """Whether the row exists at this reader's generation. Its value is neither copied nor checked.

        Raises:
            AreaUnreadable, SnapshotExpired: as `get`.
        """
        segment, _, end = place = self._place
        try:
            found = segment.has(kind, key.encode(), end >> 3)
        except UnicodeEncodeError:
            return False
        except AreaUnreadable:
            self._check(place)
            raise
        fence_loads()
        self._check(place)
        return found

    def keys(self, kind: int) -> Iterator[str]:
        """The keys of all rows of a kind, as `rows` gives them. Values are neither copied nor checked."""
        for record in self._records(self._place, kind, values=False):
            if record.value is not None:
                yield record.key.decode()

    def rows(self, kind: int | None = None) -> Iterator[tuple[int, str, bytes]]:
        """`(kind, key, value)` of all rows, or those of one kind, at this reader's generation, in no order.

        Raises:
            AreaUnreadable: a row is damaged.
            SnapshotExpired: this generation has been overwritten, maybe after some rows.
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
        """Refuse what was read of the place if it may have been overwritten.

        Raises:
            SnapshotExpired: it may.
            AreaUnreadable: *oldest* says so of the newest generation, which is never overwritten: it is damaged.
        """
        if _is_void(self.control, place):
            if self.control.generation == place.generation:
                raise AreaUnreadable(self.control.name, f"its word 'oldest' is damaged ({self.control.oldest})")
            raise SnapshotExpired(self.area, place.generation)

    # --- going on ------------------------------------------------------------------------------------------

    def moved(self, generation: int, end: int) -> None:
        """Take over a place to which the native look-up has followed the log of this segment."""
        self._place = _Place(self._place.segment, generation, end)

    def refresh(self) -> list[tuple[int, bytes]] | None:
        """Go to the newest generation; from an area that was removed to the next one of its name, if there is one.

        Returns:
            `(kind, key)` of every row that may have changed, or None if any may have.

        Raises:
            AreaUnreadable, NoAccess: what was published cannot be read. The reader stays where it was.
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
        """Go on by one generation, and say exactly what it changed.

        By more than one where the log does not lead from one to the next any more, because this reader has stayed
        behind by more than a whole base: then it says in what the two generations differ, in no order.

        Returns:
            The changes, possibly none; None if this is the newest generation.

        Raises:
            AreaUnreadable, NoAccess: what was published cannot be read. The reader stays where it was.
            SnapshotExpired: this reader's generation has been overwritten, so what changed since is not known.
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
        segment, generation, end = before
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
        """Go back to an earlier generation, from which `advance` leads on.

        Returns:
            Whether the log reaches back so far; if not, the reader stays where it was.
        """
        segment, newest, _ = self._place
        start = segment.header.start
        if not start <= generation <= newest:
            return False
        followed = self._follow(_Place(segment, start, segment.header.log_at), generation, None)
        if followed is None or _is_void(self.control, self._place):
            return False
        self._place = followed[0]
        return True

    # --- inside --------------------------------------------------------------------------------------------

    def _published(self) -> int:
        """The generation to go to, 0 in an area that has been removed.

        Raises:
            AreaUnreadable: it is not a generation that can follow ours.
        """
        published = self.control.generation
        segment, generation, _ = self._place
        if not published and self.control.retired:
            return 0
        if published < generation:
            # A table that replaces one that was lost is named before its generation is stored: a writer may have
            # been killed between the two, and the next one will publish what is there.
            if not published or not published + 1 == generation == segment.header.start:
                raise AreaUnreadable(self.control.name, f"its generation went back from {generation} to {published}")
        elif published > generation:
            fence_loads()
        return published

    def _enter_next_area(self) -> bool:
        """Go to the new area of this name. False while there is none."""
        try:
            following = RowReader(self.area)
        except NotReady:
            return False
        self.control, self._place = following.control, following._place
        return True

    def _newest(self) -> _Place:
        """A place at the newest generation, by way of the control block."""
        seen, times = (0, 0), 0
        problem: ShmrouteError = NotReady(self.area)
        for _ in range(_ATTEMPTS):
            published, identity = self.control.generation, self.control.segment
            if not published:
                raise NotReady(self.area)
            fence_loads()
            times = times + 1 if seen == (published, identity) else 1
            seen = published, identity
            name = posix.segment_name(self.area, identity)
            try:
                segment = Segment(name)
                place = _Place(segment, *segment.position())
                followed = self._follow(place, published, None)
            except FileNotFoundError:
                problem = AreaUnreadable(name, "the control block names it, but it is gone")
            except AreaUnreadable as error:  # maybe since it has been retired and is written anew
                problem = error
            else:
                if followed is None:
                    problem = AreaUnreadable(name, f"its log does not lead to generation {published}")
                elif _is_void(self.control, place):
                    problem = AreaUnreadable(name, "the control block names it, but it is void")
                elif place.generation <= published or times == _ATTEMPTS_WITHOUT_NEWS:
                    return followed[0]
                # Else a writer is about to store the word of a generation that is there; or it was killed there.
            if times == _ATTEMPTS_WITHOUT_NEWS:
                raise problem
            time.sleep(_PAUSE_SECONDS)
        raise problem

    def _follow(
        self, place: _Place, published: int, changed: list[tuple[int, bytes]] | None
    ) -> tuple[_Place, bool] | None:
        """Follow the log from `place` to `published`, and collect in `changed` which rows that concerns.

        Counts only if `place` is not void afterwards: then no later segment on the way is.

        Returns:
            The place, and whether those are all; None if the log does not lead there.
        """
        segment, generation, end = place
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
                segment, generation, end = following
                continue
            if changed is not None:
                changed.extend(segment.changed_keys(end, batch))
            end += batch.length
            generation += 1
        return _Place(segment, generation, end), complete

    def _behind(self, seal: Batch) -> _Place | None:
        """Where a sealed log continues, right behind the sealing generation; None if that segment is gone already."""
        try:
            segment = Segment(posix.segment_name(self.area, seal.next_segment))
        except (FileNotFoundError, AreaUnreadable):
            return None
        generation, end = segment.position()
        if seal.flags & RESET or generation > seal.generation:  # it is further: find the place from its beginning
            generation, end = segment.header.start, segment.header.log_at
        if generation > seal.generation:  # it has been recycled since
            return None
        while generation < seal.generation:
            batch = segment.batch_at(end, generation + 1)
            if batch is None:
                return None
            generation += 1
            end += batch.length
        return _Place(segment, generation, end)

    def _differences(self, old: _Place, new: _Place) -> list[RowChange]:
        """In what two places differ, whatever lies between them."""
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
    """Whether bytes of that place that were read before this call may have been overwritten.

    A value that is not a generation is damage, and not believed: the writer stores a right one before it overwrites
    anything.
    """
    fence_loads()
    return place.segment.header.start < control.oldest < MAX_GENERATION
