"""Reading an area from any process: rows as bytes, at one generation at a time.

`RowReader` is not thread-safe by itself; `shmroute.worker.reader.Reader` puts a lock around it. It never writes and
takes no lock that another process could hold.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from shmroute.errors import AreaUnreadable, NotReady, ShmrouteError
from shmroute.shm import memory
from shmroute.shm.control import ControlReader, fence
from shmroute.shm.layout import RESET, SEALED, WORD_BYTES, Batch
from shmroute.shm.segment import Quick, Segment

__all__ = ["RowChange", "RowReader"]

_ATTEMPTS: Final = 200
"""How often a segment that has just been replaced is looked for again: each time means a whole new base."""

_ATTEMPTS_WITHOUT_NEWS: Final = 4
"""How often the same that cannot be read is tried, lest a writer be in the middle of something."""

_PAUSE_SECONDS: Final = 0.0005
"""Between attempts, so that a writer on the same core can finish what it is doing."""


class _Place(NamedTuple):
    """Where a reader stands. One value, so that it changes as a whole whatever interrupts the reader."""

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
    """Attaches to `area` and stands at its newest generation until `refresh` or `advance` goes on.

    Raises:
        NotReady: the area is not there, or holds no rows yet.
        AreaUnreadable: it is damaged, foreign or of another format version.
        NoAccess: the operating system refuses it to this process, for instance since it belongs to another user.
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

    def snapshot(self) -> Self:
        """A second reader at the same generation: it reads on there while this one goes on."""
        return copy.copy(self)

    @property
    def quick(self) -> Quick:
        """Where `shmroute.worker.lookup` finds the rows of this generation. A new one for each call."""
        return self._place.segment.quick(self._place.end)

    @property
    def live_rows(self) -> int:
        """How many rows there are, of any kind; not checked, for estimates."""
        return self._place.segment.live_rows

    # --- rows ----------------------------------------------------------------------------------------------

    def get(self, kind: int, key: str) -> bytes | None:
        """The row's value at this reader's generation, or None.

        Raises:
            AreaUnreadable: the row is damaged.
        """
        segment, _, end = self._place
        try:
            encoded = key.encode()
        except UnicodeEncodeError:  # a lone surrogate, as os.fsdecode makes them: no row's key has one
            return None
        value = segment.find(kind, encoded, end >> 3)
        if value is None:
            segment.slot_of(kind, encoded)  # raises if the row only looks absent, for damage on the way to it
        return value

    def rows(self, kind: int | None = None) -> Iterator[tuple[int, str, bytes]]:
        """`(kind, key, value)` of all rows, or those of one kind, at this reader's generation, in no order.

        Raises:
            AreaUnreadable: a row is damaged.
        """
        segment, _, end = self._place
        for record in segment.rows(end // WORD_BYTES, kind):
            if record.value is not None:
                yield record.kind, record.key.decode(), record.value

    # --- going on ------------------------------------------------------------------------------------------

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
        followed = self._follow(place, published, changed)
        if followed is None:
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
        """
        published = self._published()
        before = self._place
        if not published:
            if not self._enter_next_area():
                return None
            return list(_differences(before, self._place))
        segment, generation, end = before
        if published <= generation:
            return None
        batch = segment.batch_at(end, generation + 1)
        if batch is not None and not batch.flags & SEALED:
            changes = [
                RowChange(record.kind, record.key.decode(), segment.value_at(record.previous_word), record.value)
                for _, record in segment.records_of(end, batch)
            ]
            self._place = _Place(segment, generation + 1, end + batch.length)
            return changes
        place = self._behind(batch) if batch is not None else None
        if place is not None and batch is not None and not batch.flags & RESET:
            self._place = place
            return []
        place = place or self._newest()
        changes = list(_differences(before, place))
        self._place = place
        return changes

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
        if followed is None:
            return False
        self._place = followed[0]
        return True

    # --- inside --------------------------------------------------------------------------------------------

    def _published(self) -> int:
        """The generation to go to, 0 in an area that has been removed.

        Raises:
            AreaUnreadable: it is no generation that can follow ours.
        """
        published = self.control.generation
        segment, generation, _ = self._place
        if not published and self.control.retired:
            return 0
        if published < generation:
            # A table that stands in for one that was lost is named before its generation is stored: a writer may have
            # been killed between the two, and the next one will publish what is there.
            if not published or not published + 1 == generation == segment.header.start:
                raise AreaUnreadable(self.control.name, f"its generation went back from {generation} to {published}")
        elif published > generation:
            fence()
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
            published, start = self.control.generation, self.control.segment
            if not published:
                raise NotReady(self.area)
            fence()
            times = times + 1 if seen == (published, start) else 1
            seen = published, start
            name = memory.segment_name(self.area, start)
            try:
                segment = Segment(name)
                place = _Place(segment, *segment.position())
            except FileNotFoundError:
                problem = AreaUnreadable(name, "the control block names it, but it is gone")
            else:
                followed = self._follow(place, published, None)
                if followed is None:
                    problem = AreaUnreadable(name, f"its log does not lead to generation {published}")
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
        """Where a sealed log goes on, right behind the sealing generation; None if that segment is gone already."""
        try:
            segment = Segment(memory.segment_name(self.area, seal.next_start))
        except FileNotFoundError:
            return None
        generation, end = segment.position()
        if seal.flags & RESET or generation > seal.generation:  # it has gone on: find the place from its beginning
            generation, end = segment.header.start, segment.header.log_at
        while generation < seal.generation:
            batch = segment.batch_at(end, generation + 1)
            if batch is None:
                return None
            generation += 1
            end += batch.length
        return _Place(segment, generation, end)


def _differences(old: _Place, new: _Place) -> Iterator[RowChange]:
    """In what two places differ, whatever lies between them."""
    for record in new.segment.rows(new.end // WORD_BYTES):
        before = old.segment.find(record.kind, record.key, old.end // WORD_BYTES)
        if before != record.value:
            yield RowChange(record.kind, record.key.decode(), before, record.value)
    for record in old.segment.rows(old.end // WORD_BYTES):
        if new.segment.find(record.kind, record.key, new.end // WORD_BYTES) is None:
            yield RowChange(record.kind, record.key.decode(), record.value, None)
