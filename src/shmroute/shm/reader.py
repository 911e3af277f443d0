"""Reading an area from any process: rows as bytes, at one generation at a time.

`RowReader` is not thread-safe by itself; `shmroute.client.Reader` puts a lock around it. It never writes and takes
no lock that another process could hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from shmroute.errors import LayoutMismatch, NotReady
from shmroute.shm import memory
from shmroute.shm.control import ControlReader, fence
from shmroute.shm.layout import RESET, SEALED, WORD_BYTES
from shmroute.shm.segment import Segment

__all__ = ["RowReader"]

_ATTEMPTS: Final = 200
"""How often a segment that has just been replaced is looked for again: each time means a whole new base."""

_PAUSE_SECONDS: Final = 0.0005
"""Between attempts, so that a writer on the same core can finish what it is doing."""


class RowReader:
    """Attaches to `area` and stands at its newest generation until `refresh` goes on.

    Raises:
        NotReady: the area is not there, or holds no rows yet.
        LayoutMismatch: it is damaged, foreign or of another format version.
        PermissionError: it belongs to another user.
    """

    def __init__(self, area: str) -> None:
        self.area = area
        try:
            self.control = ControlReader(area)
        except FileNotFoundError:
            raise NotReady(area) from None
        self.generation = 0
        """The generation whose rows are read."""
        self._segment: Segment
        self._end = 0
        self._attach()

    def _attach(self) -> None:
        """Open the current segment and go to the newest generation."""
        problem: Exception = NotReady(self.area)
        for _ in range(_ATTEMPTS):
            generation = self.control.generation
            start = self.control.segment
            if not generation:
                raise NotReady(self.area)
            try:
                segment = Segment(memory.segment_name(self.area, start))
                at, end = segment.position()
            except FileNotFoundError as error:
                problem = error
                time.sleep(_PAUSE_SECONDS)
                continue
            self._segment, self.generation, self._end = segment, at, end
            if at > self.control.generation:  # a writer is just before storing the word
                time.sleep(_PAUSE_SECONDS)
            if self._walk(None):
                return
            problem = LayoutMismatch(segment.name, f"its log ends at {self.generation}, {generation} is published")
            time.sleep(_PAUSE_SECONDS)
        if isinstance(problem, FileNotFoundError):
            raise LayoutMismatch(
                memory.segment_name(self.area, self.control.segment), "the control block names it, but it is gone"
            ) from problem
        raise problem

    def refresh(self) -> list[tuple[int, bytes]] | None:
        """Go to the newest generation.

        Returns:
            `(kind, key)` of every row that may have changed, or None if any may have.

        Raises:
            LayoutMismatch: what was published cannot be read. The reader stays where it was.
        """
        changed: list[tuple[int, bytes]] = []
        before = self._segment, self.generation, self._end
        try:
            if self._walk(changed):
                return changed
            self._attach()
        except LayoutMismatch:
            self._segment, self.generation, self._end = before
            raise
        return None

    def _walk(self, changed: list[tuple[int, bytes]] | None) -> bool:
        """Follow the log to the published generation. False if it ends before, or rows may differ in any way."""
        known = True
        while self.generation < self.control.generation:
            batch = self._segment.batch_at(self._end, self.generation + 1)
            if batch is None:
                fence()
                batch = self._segment.batch_at(self._end, self.generation + 1)
                if batch is None:
                    return False
            if batch.flags & SEALED:
                try:
                    segment = Segment(memory.segment_name(self.area, batch.next_start))
                    generation, end = segment.position()
                except FileNotFoundError:
                    return False
                if batch.flags & RESET:
                    known = False
                    self._segment, self.generation, self._end = segment, generation, end
                    continue
                if not self._hop(segment, generation, end):
                    return False
                continue
            if changed is not None:
                changed.extend(self._segment.changed_keys(self._end, batch))
            self._end += batch.length
            self.generation += 1
        return known or changed is None

    def _hop(self, segment: Segment, generation: int, end: int) -> bool:
        """Go on in a segment that holds the same rows, right behind the sealing generation."""
        sealed = self.generation + 1
        if generation > sealed:  # it has gone on already: find the place from its beginning
            generation, end = segment.header.start, segment.header.log_at
        while generation < sealed:
            batch = segment.batch_at(end, generation + 1)
            if batch is None:
                return False
            generation += 1
            end += batch.length
        self._segment, self.generation, self._end = segment, generation, end
        return True

    def get(self, kind: int, key: str) -> bytes | None:
        """The row's value at this reader's generation, or None.

        Raises:
            LayoutMismatch: the row is damaged.
        """
        return self._segment.find(kind, key.encode(), self._end >> 3)

    def rows(self, kind: int | None = None) -> Iterator[tuple[int, str, bytes]]:
        """`(kind, key, value)` of all rows, or those of one kind, at this reader's generation, in no order."""
        for record in self._segment.rows(self._end // WORD_BYTES, kind):
            if record.value is not None:
                yield record.kind, record.key.decode(), record.value
