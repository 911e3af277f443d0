"""A new base, built a slice at a time between publishes.

Called by the publisher only. Incremental, in the writer's own thread, instead of a helper process: nothing to start,
feed, supervise or clean up, no second copy of the rows, and a publish waits for one slice at the most, which is
bounded in time. A helper would halve the wall time on an idle core, which nobody waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Final

from shmroute.errors import AreaUnreadable
from shmroute.shm.layout import WORD_BYTES, cells_for
from shmroute.shm.memory import Ownership
from shmroute.shm.segment import Segment
from shmroute.shm.writing import NoRoom, SegmentWriter

_SIZES_BETWEEN_CLOCK_READS: Final = 512
_BYTES_BETWEEN_CLOCK_READS: Final = 256 * 1024

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
        self._begin = partial(
            SegmentWriter,
            area,
            generation,
            ownership,
            rows=source.live_rows,
            record_bytes=0,
            log_bytes=source.end - source.header.records_at + log_bytes,
        )
        self.writer: SegmentWriter | None = None
        """Of the new segment, once it is there."""
        self._copying: Iterator[None] | None = self._copy(source.end // WORD_BYTES)

    def _copy(self, end_word: int) -> Iterator[None]:
        sizes: Counter[int] = Counter()
        for count, size in enumerate(self._segment.sizes(), 1):
            sizes[size] += 1
            if count % _SIZES_BETWEEN_CLOCK_READS == 0:
                yield
        del sizes[0]
        writer = self.writer = self._begin(cells=cells_for(sizes))
        for end in range(writer.header.records_at, writer.header.packed_at, _BYTES_BETWEEN_CLOCK_READS):
            writer.reserve(end)
            yield
        writer.reserve(writer.header.packed_at)
        rows = self._segment.rows(end_word)
        yield from writer.fill((record.kind, record.key, record.value) for record in rows if record.value is not None)
        writer.finish_base()

    def step(self, published: int, seconds: float) -> SegmentWriter | None:
        """Work for about that long.

        Returns:
            The new segment once it stands at generation `published`.

        Raises:
            OutOfSharedMemory: no room to go on; call `abandon`.
            NoRoom: the table has changed too much meanwhile; call `abandon` and begin again, with the new sizes.
            AreaUnreadable: the old segment is damaged; call `abandon`.
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
            assert self.writer is not None  # noqa: S101 - all rows have been copied into it
            self._replay_one(self.writer)
            replayed += 1
        return self.writer if self._generation == published else None

    def _replay_one(self, writer: SegmentWriter) -> None:
        generation = self._generation + 1
        batch = self._segment.batch_at(self._replayed_to, generation)
        if batch is None:  # our own writer has written it
            raise AreaUnreadable(self._segment.name, f"the batch of generation {generation} is damaged")
        changes = [
            (record.kind, record.key, record.value) for _, record in self._segment.records_of(self._replayed_to, batch)
        ]
        if not writer.has_room(changes):
            raise NoRoom
        writer.append(generation, changes)
        self._replayed_to += batch.length
        self._generation = generation

    @property
    def reserved(self) -> int:
        """Bytes of /dev/shm the new segment takes."""
        return self.writer.reserved if self.writer else 0

    def abandon(self) -> None:
        """Give up and take the half-made segment away."""
        self._copying = None
        if self.writer is not None:
            self.writer.abandon()
