"""A new base, built a slice at a time between publishes.

Called by the publisher only. Incremental, in the writer's own thread, instead of a helper process: nothing to start,
feed, supervise or clean up, no second copy of the rows, and a publish waits for one slice at the most, which is
bounded in time. A helper would halve the wall time on an idle core, which nobody waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Final

from shmroute.errors import AreaUnreadable
from shmroute.shm.layout import WORD_BYTES, unlinked_record
from shmroute.shm.segment import Segment
from shmroute.shm.writing.segment_writer import CHUNK_ROWS, NoRoom, SegmentWriter

__all__ = ["Rebuild"]

_BATCHES_A_STEP: Final = 2
"""Replayed at least, whatever they take: each publish adds one and takes one step, and the end must come nearer."""


class Rebuild:
    """Copies the rows of `source` as they are now, at `generation`, into `target`, then the batches since.

    Args:
        source: the current segment.
        target: the segment to fill, with the same hash key, whose file holds nothing that is still valid.
        generation: the newest one.
    """

    def __init__(self, source: SegmentWriter, target: SegmentWriter, generation: int) -> None:
        self.target = target
        self._source: Segment = source.reading
        self._replayed_to = source.end
        self._generation = generation
        self._copying: Iterator[None] | None = self._copy()

    def _copy(self) -> Iterator[None]:
        source, target = self._source, self.target
        end_word = self._replayed_to // WORD_BYTES
        yield from target.clear()
        placed: list[int] = []
        records: list[bytes] = []
        for entry in source.entries():
            hashed, record = source.raw_row(entry, end_word)
            if record:
                placed.append(hashed << 32 | len(record) // WORD_BYTES)
                records.append(unlinked_record(record))
                if len(records) == CHUNK_ROWS:
                    target.add_records(b"".join(records), placed)
                    placed, records = [], []
                    yield
        target.add_records(b"".join(records), placed)
        target.finish_base()

    def step(self, published: int, seconds: float) -> SegmentWriter | None:
        """Work for about that long.

        Returns:
            The new segment once it has reached generation `published`.

        Raises:
            OutOfSharedMemory: no room to go on.
            NoRoom: the table has changed too much meanwhile; begin again, with the new sizes.
            AreaUnreadable: the old segment is damaged.
        """
        deadline = perf_counter() + seconds
        while self._copying is not None:
            try:
                next(self._copying)
            except StopIteration:
                self._copying = None
            if perf_counter() >= deadline:
                return None
        replayed = 0
        while self._generation < published and (replayed < _BATCHES_A_STEP or perf_counter() < deadline):
            self._replay_one()
            replayed += 1
        return self.target if self._generation == published else None

    def _replay_one(self) -> None:
        generation = self._generation + 1
        batch = self._source.batch_at(self._replayed_to, generation)
        if batch is None:  # our own writer has written it
            raise AreaUnreadable(self._source.name, f"the batch of generation {generation} is damaged")
        planned = self.target.plan(
            (
                (record.kind, record.key, record.value)
                for _, record in self._source.records_of(self._replayed_to, batch)
            ),
            lambda: None,
        )
        if not self.target.has_room(planned):
            raise NoRoom
        self.target.append(generation, planned)
        self._replayed_to += batch.length
        self._generation = generation
