"""A new base, built a slice at a time between publishes.

Called by the publisher only. Incremental, in the writer's own thread, instead of a helper process: nothing to start,
feed, supervise or clean up, no second copy of the rows, and a publish waits for one slice at the most, which is
bounded in time. A helper would halve the wall time on an idle core, which nobody waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Final

from shmroute.errors import LayoutMismatch
from shmroute.shm.layout import WORD_BYTES
from shmroute.shm.memory import Ownership
from shmroute.shm.segment import Segment
from shmroute.shm.writing import NoRoom, SegmentWriter

_ROWS_BETWEEN_CLOCK_READS: Final = 64

_BATCHES_A_STEP: Final = 2
"""Replayed at least, whatever they take: each publish adds one and takes one step, and the end must come nearer."""


class Rebuild:
    """Copies the rows of `source` as they were at `generation` into a new segment, then the batches since.

    Raises:
        OutOfSharedMemory: no room for the new segment.
    """

    def __init__(
        self,
        area: str,
        ownership: Ownership,
        source: SegmentWriter,
        generation: int,
        log_bytes: int,
    ) -> None:
        self._segment: Segment = source.reading
        self._replayed_to = source.end
        self._generation = generation
        record_bytes = source.end - source.header.records_at
        self.writer = SegmentWriter(
            area,
            generation,
            ownership,
            rows=source.live_rows,
            record_bytes=0,
            log_bytes=record_bytes + log_bytes,
        )
        self._copying: Iterator[None] | None = self._copy(source.end // WORD_BYTES)

    def _copy(self, end_word: int) -> Iterator[None]:
        add = self.writer.add
        for count, record in enumerate(self._segment.rows(end_word), 1):
            assert record.value is not None  # noqa: S101 - rows() leaves deletions out
            add(record.kind, record.key, record.value)
            if count % _ROWS_BETWEEN_CLOCK_READS == 0:
                yield
        self.writer.finish_base()

    def step(self, published: int, seconds: float) -> bool:
        """Work for about that long. True once the new segment stands at generation `published`.

        Raises:
            OutOfSharedMemory: no room to go on; call `abandon`.
            NoRoom: the table has changed too much meanwhile; call `abandon` and begin again, with the new sizes.
            LayoutMismatch: the old segment is damaged; call `abandon`.
        """
        deadline = perf_counter() + seconds
        while self._copying is not None:
            try:
                next(self._copying)
            except StopIteration:
                self._copying = None
            if perf_counter() >= deadline:
                return False
        replayed = 0
        while self._generation < published and (replayed < _BATCHES_A_STEP or perf_counter() < deadline):
            self._replay_one()
            replayed += 1
        return self._generation == published

    def _replay_one(self) -> None:
        generation = self._generation + 1
        batch = self._segment.batch_at(self._replayed_to, generation)
        if batch is None:  # our own writer has written it
            raise LayoutMismatch(self._segment.name, f"the batch of generation {generation} is damaged")
        changes = [
            (record.kind, record.key, record.value) for _, record in self._segment.records_of(self._replayed_to, batch)
        ]
        if not self.writer.has_room(changes):
            raise NoRoom
        self.writer.append(generation, changes)
        self._replayed_to += batch.length
        self._generation = generation

    def abandon(self) -> None:
        """Give up and take the half-made segment away."""
        self._copying = None
        self.writer.abandon()
