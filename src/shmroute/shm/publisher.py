"""The one writer of an area: publishes changed rows, a generation at a time.

Called from one thread (the watcher's owner thread). Survives being killed at any instant: see the protocol in
`shmroute.shm`. Never reads the clock and knows nothing of rows but their bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Self

from shmroute.errors import LayoutMismatch, OutOfSharedMemory
from shmroute.shm import memory
from shmroute.shm.control import ControlWriter
from shmroute.shm.layout import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    RESET,
    SEALED,
    WORD_BYTES,
    record_size,
)
from shmroute.shm.rebuild import Outgrown, Rebuild, replay_bytes
from shmroute.shm.segment import Segment
from shmroute.shm.writing import Change, SegmentWriter

__all__ = ["Publisher", "PublisherSizes"]

_log = logging.getLogger(__name__)

LOG_FRACTION: Final = 4
"""A new base is built once the log has grown past 1/4 of the base: a table's memory stays within 1.25 of its
base (2.25 and a bit while rebuilding), and each row is copied at most four times for each time it is replaced."""

MIN_LOG_BYTES: Final = 256 * 1024
"""Below this a log is too small to be worth a rebuild."""

LOG_SPACE: Final = 4
"""Address space of a log, as a multiple of the size at which a rebuild begins: what changes during it must fit."""

REBUILD_SLICE_SECONDS: Final = 0.002
"""How long a publish may be held up by a slice of a rebuild."""


class PublisherSizes(NamedTuple):
    """How large an area is: rows, and bytes of /dev/shm taken by its segments and control block."""

    rows: int
    segment_bytes: int
    log_bytes: int
    rebuilding: bool


class Publisher:
    """Takes the area's lock and publishes rows.

    Args:
        area: the area's name.
        group: name or number of a group that may read the area too (mode 0640); by default only this user (0600).
        now_ns: the monotonic clock, told to readers as the writer's start.

    What a former writer published is adopted and goes on being served; generations go on from there.

    Raises:
        AreaBusy: another process writes this area.
        ConfigError: the area's name or the group cannot be used.
        OutOfSharedMemory: no room for the control block.
    """

    def __init__(self, area: str, *, group: str | int | None = None, now_ns: int = 0) -> None:
        self.area = area
        self._ownership = memory.Ownership(group)
        self.control = ControlWriter.acquire(area, self._ownership)
        self._writer: SegmentWriter | None = None
        self._rebuild: Rebuild | None = None
        self._rebuild_not_below_bytes = 0
        self.generation = self.control.generation
        self._recover()
        self.control.introduce(now_ns)

    # --- taking over ---------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Adopt what is there: finish a publish that a kill cut off, sweep what nothing names."""
        if self.control.segment:
            try:
                self._adopt(Segment(memory.segment_name(self.area, self.control.segment)))
            except (FileNotFoundError, LayoutMismatch) as error:
                _log.warning("area %s: the former writer's rows cannot be adopted: %s", self.area, error)
        current = self._writer.name if self._writer else None
        for name in memory.segment_names(self.area):
            if name != current:
                memory.unlink(name)

    def _adopt(self, segment: Segment) -> None:
        generation, offset = segment.position()
        if segment.header.start > self.generation:  # a reset, killed just before the word was stored
            self.generation = segment.header.start
        while (batch := segment.batch_at(offset, generation + 1)) is not None:
            if batch.flags & SEALED:
                segment = Segment(memory.segment_name(self.area, batch.next_start))
                self.control.store_segment(batch.next_start)
                generation, offset = segment.position()
                continue
            generation += 1
            last = offset, batch
            offset += batch.length
            if generation > self.generation:
                writer = SegmentWriter.adopt(segment, last[0])
                writer.redo(
                    last[0],
                    batch.length,
                    [
                        (record.kind, record.previous_word, record.key, word)
                        for word, record in segment.records_of(*last)
                    ],
                )
                writer.close()
        if generation < self.generation:
            raise LayoutMismatch(segment.name, f"its log ends at {generation}, published was {self.generation}")
        self._writer = SegmentWriter.adopt(segment, offset)
        self.generation = generation
        self.control.store_generation(generation)

    # --- publishing ----------------------------------------------------------------------------------------

    def publish(self, changes: Mapping[tuple[int, str], bytes | None]) -> int:
        """Publish changed rows as one generation; None removes a row.

        Rows that are as they were are left out; if that leaves nothing, nothing is published. A reader sees all of the
        changes or none.

        Returns:
            The generation that holds them.

        Raises:
            OutOfSharedMemory: no room; nothing has changed, try again later.
            ValueError: a key of over 65,535 bytes, or a value of 4 GiB.
        """
        effective = self._effective(changes)
        if not effective:
            return self.generation
        writer = self._writer
        if writer is None:
            return self._publish_anew((kind, key, value) for kind, key, value in effective if value is not None)
        if not writer.has_room(replay_bytes(effective), len(effective)):
            return self._publish_anew(self._merged(effective))
        writer.append(self.generation + 1, effective)
        self._advance(self.generation + 1)
        self.maintain()
        return self.generation

    def replace(self, rows: Mapping[tuple[int, str], bytes]) -> int:
        """Publish `rows` as the whole table: what it lacks is removed. One generation at the most.

        Raises:
            OutOfSharedMemory, ValueError: as `publish`.
        """
        if self._writer is None:
            return self._publish_anew((kind, key.encode(), value) for (kind, key), value in rows.items())
        changes: dict[tuple[int, str], bytes | None] = dict(rows)
        for record in self._writer.reading.rows(self._writer.end // WORD_BYTES):
            changes.setdefault((record.kind, record.key.decode()), None)
        return self.publish(changes)

    def get(self, kind: int, key: str) -> bytes | None:
        """The row as it is published now, or None."""
        if self._writer is None:
            return None
        return self._writer.reading.find(kind, key.encode(), self._writer.end // WORD_BYTES)

    def rows(self, kind: int) -> Iterator[tuple[str, bytes]]:
        """`(key, value)` of the rows of one kind as they are published now."""
        if self._writer is not None:
            for record in self._writer.reading.rows(self._writer.end // WORD_BYTES, kind):
                if record.value is not None:
                    yield record.key.decode(), record.value

    def _effective(self, changes: Mapping[tuple[int, str], bytes | None]) -> list[Change]:
        effective: list[Change] = []
        find = self._writer.reading.find if self._writer else None
        end_word = self._writer.end // WORD_BYTES if self._writer else 0
        for (kind, key), value in changes.items():
            encoded = key.encode()
            if len(encoded) > MAX_KEY_BYTES:
                raise ValueError(f"the key {key[:40]!r}... has {len(encoded)} bytes, the limit is {MAX_KEY_BYTES}")
            if value is not None and len(value) > MAX_VALUE_BYTES:
                raise ValueError(f"the value of {key!r} has {len(value)} bytes, the limit is {MAX_VALUE_BYTES}")
            if (find(kind, encoded, end_word) if find else None) != value:
                effective.append((kind, encoded, value))
        return effective

    def _merged(self, changes: list[Change]) -> Iterable[Change]:
        """The whole table with `changes` applied."""
        assert self._writer is not None  # noqa: S101
        changed = {(kind, key): value for kind, key, value in changes}
        for record in self._writer.reading.rows(self._writer.end // WORD_BYTES):
            if (record.kind, record.key) not in changed:
                yield record.kind, record.key, record.value
        for (kind, key), value in changed.items():
            if value is not None:
                yield kind, key, value

    def _publish_anew(self, rows: Iterable[Change]) -> int:
        """Publish a whole table in a segment of its own; readers drop their memos."""
        self._drop_rebuild()
        generation = self.generation + 1
        table = [(kind, key, value) for kind, key, value in rows if value is not None]
        record_bytes = sum(record_size(len(key), len(value)) for _, key, value in table)
        writer = SegmentWriter(
            self.area,
            generation,
            self._ownership,
            rows=len(table),
            record_bytes=record_bytes,
            log_bytes=_log_limit(record_bytes) * LOG_SPACE,
        )
        try:
            for kind, key, value in table:
                writer.add(kind, key, value)
            writer.finish_base()
        except BaseException:
            writer.abandon()
            raise
        former, self._writer = self._writer, writer
        if former is not None:
            _seal(former, generation, writer.start, SEALED | RESET)
        self.control.store_segment(writer.start)
        self._advance(generation)
        if former is not None:
            memory.unlink(former.name)
            former.close()
        return generation

    def _advance(self, generation: int) -> None:
        self.control.store_generation(generation)
        self.generation = generation

    # --- a new base ----------------------------------------------------------------------------------------

    @property
    def rebuilding(self) -> bool:
        """Whether a new base is being built; `maintain` carries it on."""
        return self._rebuild is not None

    def maintain(self, seconds: float = REBUILD_SLICE_SECONDS) -> bool:
        """Begin or carry on building a new base, for about `seconds`. Called by `publish`, and by the owner when idle.

        Returns:
            Whether there is more to do.
        """
        writer = self._writer
        if writer is None:
            return False
        try:
            if self._rebuild is None:
                if not self._wants_rebuild(writer):
                    return False
                record_bytes = writer.header.log_at - writer.header.records_at
                self._rebuild = Rebuild(
                    self.area,
                    self._ownership,
                    writer,
                    self.generation,
                    _log_limit(record_bytes) * LOG_SPACE,
                )
            if self._rebuild.step(self.generation, seconds):
                self._switch(self._rebuild, writer)
        except OutOfSharedMemory as error:
            _log.warning("area %s: no room for a new base, the old one goes on: %s", self.area, error)
            self._rebuild_not_below_bytes = writer.log_used + MIN_LOG_BYTES
            self._drop_rebuild()
        except Outgrown:
            self._drop_rebuild()
        return self._rebuild is not None

    def _wants_rebuild(self, writer: SegmentWriter) -> bool:
        used = writer.log_used
        limit = _log_limit(writer.header.log_at - writer.header.records_at)
        crowded = writer.slots_used * 4 > writer.header.slots * 3
        return (used > limit or crowded) and used > self._rebuild_not_below_bytes

    def _switch(self, rebuild: Rebuild, former: SegmentWriter) -> None:
        """Let readers hop from `former` to the rebuilt segment, which holds the same rows."""
        generation = self.generation + 1
        _seal(rebuild.writer, generation, 0, 0)
        _seal(former, generation, rebuild.writer.start, SEALED)
        self._rebuild = None
        self._rebuild_not_below_bytes = 0
        self._writer = rebuild.writer
        self.control.store_segment(rebuild.writer.start)
        self._advance(generation)
        memory.unlink(former.name)
        former.close()

    def _drop_rebuild(self) -> None:
        if self._rebuild is not None:
            self._rebuild.abandon()
            self._rebuild = None

    # --- leaving -------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> PublisherSizes:
        """How large the area is now."""
        if self._writer is None:
            return PublisherSizes(0, 0, 0, rebuilding=False)
        being_built = self._rebuild.writer.reserved if self._rebuild else 0
        return PublisherSizes(
            self._writer.live_rows,
            self._writer.reserved + being_built,
            self._writer.log_used,
            self.rebuilding,
        )

    def close(self, *, remove: bool = False) -> None:
        """Give the area back. The rows stay for readers and the next writer unless `remove` is set.

        Readers of a removed area go on with what they mapped, and with the next area of that name once there is one.
        """
        self._drop_rebuild()
        if remove:
            self.control.retire()
            for name in memory.segment_names(self.area):
                memory.unlink(name)
            memory.unlink(memory.control_name(self.area))
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _log_limit(base_bytes: int) -> int:
    return max(MIN_LOG_BYTES, base_bytes // LOG_FRACTION)


def _seal(writer: SegmentWriter, generation: int, next_start: int, flags: int) -> None:
    writer.append(generation, (), flags=flags, next_start=next_start)
