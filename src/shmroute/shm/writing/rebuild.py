"""Builds a new base, a slice at a time between publishes.

Called by the publisher only. The work is done in slices in the writer's own thread rather than in a helper process:
there is no process to start, feed, supervise or clean up, no second copy of the rows, and a publish waits for at most
one slice, whose time is bounded. A helper on an idle core would take half the time, but nobody waits for the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Final

from shmroute.errors import AreaUnreadable
from shmroute.shm.layout import WORD_BYTES, unlinked_record
from shmroute.shm.segment import Segment
from shmroute.shm.writing.segment_writer import CHUNK_ROWS, NoRoom, SegmentWriter

_BATCHES_A_STEP: Final = 2
"""Minimum batches replayed in a step, whatever their time: each publish adds one batch and makes one step, so that two
per step ensure an end."""


class Rebuild:
    """Copies the rows that `source` has at `generation` into `target`, then replays the batches published since.

    Args:
        source: the current segment.
        target: the segment to fill, with the same hash key. Its former content must be void.
        generation: the newest generation.
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
        """Work for about `seconds`.

        Returns:
            The new segment once it has reached generation `published`; None before.

        Raises:
            OutOfSharedMemory: there is no room to go on.
            NoRoom: the table has changed too much meanwhile; start again with the new sizes.
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
        if batch is None:  # this process has written it, so it can only be damaged
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
