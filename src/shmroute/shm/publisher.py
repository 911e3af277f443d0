"""The one writer of an area: publishes changed rows, a generation at a time.

Called from one thread (the watcher's owner thread). Survives being killed at any instant: see the protocol in
`shmroute.shm`. Never reads the clock and knows nothing of rows but their bytes.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Self, TypeGuard

from shmroute.errors import AreaUnreadable, NoAccess, OutOfSharedMemory
from shmroute.shm import memory
from shmroute.shm.control import ControlWriter
from shmroute.shm.layout import (
    CONTROL_BYTES,
    MAX_KEY_BYTES,
    MAX_KIND,
    MAX_VALUE_BYTES,
    RESET,
    SEALED,
    WORD_BYTES,
    Batch,
    cells_for,
    record_size,
    suits_cell,
)
from shmroute.shm.rebuild import Rebuild
from shmroute.shm.segment import Segment
from shmroute.shm.writing import Change, NoRoom, SegmentWriter

__all__ = ["Publisher", "PublisherSizes"]

_log = logging.getLogger(__name__)

LOG_FRACTION: Final = 4
"""A new base is built once the log has grown past 1/4 of the base: a table's memory stays within 1.25 of its
base (2.25 and a bit while rebuilding), and each row is copied at most four times for each time it is replaced."""

MIN_LOG_BYTES: Final = 256 * 1024
"""Below this a log is too small to be worth a rebuild."""

LOG_SPACE: Final = 4
"""Address space of a log, as a multiple of the size at which a rebuild begins: what changes during it must fit."""

SAMPLE_ROWS: Final = 65_536
"""So many rows of a larger table tell how large its rows are; the error is far below a hundredth."""

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
        self._at_work = False
        self._closed = False
        self.generation = 0
        """The newest published generation."""
        self.awaited_ns = self.control.awaited_ns
        """When another watcher last tried to take the area before this one did, on the monotonic clock."""
        try:
            self._recover()
            self.control.introduce(now_ns)
        except BaseException:
            self.close()
            raise

    # --- taking over ---------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Adopt what is there: finish a publish that a kill cut off, sweep what nothing names."""
        try:
            self.generation = self.control.generation
        except AreaUnreadable as error:  # the rows may be whole all the same
            _log.warning("area %s: %s", self.area, error)
        if self.control.segment:
            try:
                self._adopt(Segment(memory.segment_name(self.area, self.control.segment)))
            except (FileNotFoundError, AreaUnreadable, NoAccess) as error:
                _log.warning("area %s: the former writer's rows cannot be adopted: %s", self.area, error)
        for problem in memory.sweep(self.area, keep=self._writer.name if self._writer else None):
            _log.warning("area %s: a leftover stays: %s", self.area, problem)

    def _adopt(self, segment: Segment) -> None:
        published = self.generation
        generation, offset = segment.position()
        newest: Batch | None = None
        while (batch := segment.batch_at(offset, generation + 1)) is not None:
            if batch.flags & SEALED:
                segment = Segment(memory.segment_name(self.area, batch.next_start))
                generation, offset = segment.position()
                newest = None
                continue
            generation += 1
            if generation > published:  # valid, but the word was not stored: nor may its slots have been
                writer = SegmentWriter.adopt(segment, offset, batch, self._ownership)
                writer.redo(offset, batch)
                writer.close()
            newest = batch
            offset += batch.length
        if generation < published:
            raise AreaUnreadable(segment.name, f"its log ends at {generation}, published was {published}")
        self._writer = SegmentWriter.adopt(segment, offset, newest, self._ownership)
        self.generation = generation
        self.control.store_segment(segment.header.start)
        self.control.store_generation(generation)

    def _begin(self) -> None:
        """Mark the start of a change. If the last one was cut off by an exception, do first what a new writer would.

        Raises:
            AreaBusy: this process has been forked by the writer, or has closed it.
        """
        self.control.check_held()
        if self._at_work:
            self._drop_rebuild()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._recover()
        self._at_work = True

    # --- publishing ----------------------------------------------------------------------------------------

    def publish(self, changes: Mapping[tuple[int, str], bytes | None]) -> int:
        """Publish changed rows as one generation; None removes a row.

        Rows that are as they were are left out; if that leaves nothing, nothing is published. A reader sees all of the
        changes or none.

        Returns:
            The generation that holds them.

        Raises:
            OutOfSharedMemory: no room; nothing has changed, try again later.
            ValueError: a kind that is not within 0 to 255, a key of over 65,535 bytes of UTF-8, a value of over 1 GiB;
                nothing has changed.
            AreaUnreadable: the segment has been damaged: `replace` makes a new one.
            AreaBusy: this process was forked from the one that made this publisher.
        """
        self._begin()
        try:
            self._publish(_encoded(changes))
        except (OutOfSharedMemory, ValueError):
            self._at_work = False
            raise
        self._at_work = False
        self.maintain()
        return self.generation

    def replace(self, rows: Mapping[tuple[int, str], bytes]) -> int:
        """Publish `rows` as the whole table: what it lacks is removed. One generation at the most.

        Raises:
            OutOfSharedMemory, ValueError, AreaBusy: as `publish`.
        """
        self._begin()
        try:
            table = _encoded(rows)
            try:
                self._replace(table)
            except AreaUnreadable as error:
                _log.warning("area %s: %s; all rows are published anew", self.area, error)
                self._publish_anew(table)
        except (OutOfSharedMemory, ValueError):
            self._at_work = False
            raise
        self._at_work = False
        self.maintain()
        return self.generation

    def _publish(self, changes: Sequence[Change]) -> None:
        writer = self._writer
        effective = [change for change in changes if self._find(change[0], change[1]) != change[2]]
        if not effective:
            return
        if writer is None:
            self._publish_anew(effective)
        elif writer.has_room(effective):
            writer.append(self.generation + 1, effective)
            self._advance(self.generation + 1)
        else:
            self._publish_anew(self._merged(effective))

    def _replace(self, table: list[Change]) -> None:
        if self._writer is None:
            self._publish_anew(table)
            return
        wanted = {(kind, key) for kind, key, _ in table}
        removed: list[Change] = [
            (record.kind, record.key, None)
            for record in self._writer.reading.rows(self._writer.end // WORD_BYTES)
            if (record.kind, record.key) not in wanted
        ]
        self._publish(table + removed)

    def _find(self, kind: int, key: bytes) -> bytes | None:
        writer = self._writer
        return writer.reading.find(kind, key, writer.end // WORD_BYTES) if writer else None

    def get(self, kind: int, key: str) -> bytes | None:
        """The row as it is published now, or None. A damaged row counts as none."""
        try:
            return self._find(kind, key.encode())
        except AreaUnreadable as error:
            _log.warning("area %s: row %r of kind %d: %s", self.area, key, kind, error)
            return None

    def rows(self, kind: int) -> Iterator[tuple[str, bytes]]:
        """`(key, value)` of the rows of one kind as they are published now. Damaged rows are left out."""
        if self._writer is not None:
            for record in self._writer.reading.rows(self._writer.end // WORD_BYTES, kind, leave_out_damaged=True):
                if record.value is not None:
                    yield record.key.decode(), record.value

    def _merged(self, changes: list[Change]) -> Iterator[Change]:
        """The whole table with `changes` applied."""
        if self._writer is not None:
            changed = {(kind, key) for kind, key, _ in changes}
            for record in self._writer.reading.rows(self._writer.end // WORD_BYTES):
                if (record.kind, record.key) not in changed:
                    yield record.kind, record.key, record.value
        yield from changes

    def _publish_anew(self, rows: Iterable[Change]) -> None:
        """Publish a whole table in a segment of its own; readers drop their memos."""
        self._drop_rebuild()
        generation = self.generation + 1
        table = [row for row in rows if _is_there(row)]
        cells, record_bytes = _sizes(table)
        writer = SegmentWriter(
            self.area,
            generation,
            self._ownership,
            rows=len(table),
            cells=cells,
            record_bytes=record_bytes,
            log_bytes=_log_limit(math.prod(cells) + record_bytes) * LOG_SPACE,
        )
        try:
            writer.reserve(writer.end + record_bytes)
            for _ in writer.fill(table):
                pass
            writer.finish_base()
        except BaseException:
            writer.abandon()
            raise
        self._go_on_in(writer, generation, SEALED | RESET)
        self._rebuild_not_below_bytes = 0

    def _go_on_in(self, writer: SegmentWriter, generation: int, flags: int) -> None:
        """Publish `generation`, which another segment holds, and let the present one go."""
        former = self._writer
        if former is None:
            self.control.store_segment(writer.start)
        else:
            _append_empty(former, generation, flags, writer.start)
        self._writer = writer
        self._advance(generation)
        if former is not None:
            # After the generation: who attaches meanwhile is led on by the seal, and is never ahead of the others.
            self.control.store_segment(writer.start)
            memory.unlink(former.name)
            former.close()

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
        self._begin()
        try:
            self._step(writer, seconds)
        except OutOfSharedMemory as error:
            _log.warning("area %s: no room for a new base, the old one goes on: %s", self.area, error)
            self._rebuild_not_below_bytes = writer.log_used + MIN_LOG_BYTES
            self._drop_rebuild()
        except AreaUnreadable as error:
            _log.warning("area %s: no new base can be made of the old one: %s", self.area, error)
            self._rebuild_not_below_bytes = writer.log_used + MIN_LOG_BYTES
            self._drop_rebuild()
        except NoRoom:
            self._drop_rebuild()
        self._at_work = False
        return self._rebuild is not None

    def _step(self, writer: SegmentWriter, seconds: float) -> None:
        if self._rebuild is None:
            if not self._wants_rebuild(writer):
                return
            log_bytes = _log_limit(writer.header.log_at - writer.header.records_at) * LOG_SPACE
            self._rebuild = Rebuild(self.area, self._ownership, writer, self.generation, log_bytes)
        rebuild = self._rebuild
        rebuilt = rebuild.step(self.generation, seconds)
        if rebuilt is None:
            return
        # The rebuilt segment holds the same rows: readers hop over with warm memos.
        generation = self.generation + 1
        if not rebuilt.has_room([]):
            raise NoRoom
        _append_empty(rebuilt, generation)
        self._rebuild = None
        self._rebuild_not_below_bytes = 0
        self._go_on_in(rebuilt, generation, SEALED)

    def _wants_rebuild(self, writer: SegmentWriter) -> bool:
        used = writer.log_used
        limit = _log_limit(writer.header.log_at - writer.header.records_at)
        crowded = writer.slots_used * 4 > writer.header.slots * 3
        return (used > limit or crowded) and used > self._rebuild_not_below_bytes

    def _drop_rebuild(self) -> None:
        if self._rebuild is not None:
            rebuild, self._rebuild = self._rebuild, None
            rebuild.abandon()

    # --- leaving -------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> PublisherSizes:
        """How large the area is now."""
        if self._writer is None:
            return PublisherSizes(0, CONTROL_BYTES, 0, rebuilding=False)
        being_built = self._rebuild.reserved if self._rebuild else 0
        return PublisherSizes(
            self._writer.live_rows,
            CONTROL_BYTES + self._writer.reserved + being_built,
            self._writer.log_used,
            self.rebuilding,
        )

    def close(self, *, remove: bool = False) -> None:
        """Give the area back. The rows stay for readers and the next writer unless `remove` is set.

        Readers of a removed area go on with what they mapped, and with the next area of that name once there is one.
        """
        held = self.control.held
        if held:
            self._drop_rebuild()
        if held and remove:
            self.control.retire()
            memory.sweep(self.area)
            memory.unlink(memory.control_name(self.area))
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if not self._closed:
            self._closed = True
            self.control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_there(change: Change) -> TypeGuard[tuple[int, bytes, bytes]]:
    return change[2] is not None


def _sizes(table: Sequence[tuple[int, bytes, bytes]]) -> tuple[tuple[int, int], int]:
    """The cells that suit a table, how many and of what size, and about the bytes of its records that lie in none."""
    sample = table if len(table) <= SAMPLE_ROWS else random.Random(0).sample(table, SAMPLE_ROWS)  # noqa: S311
    scale = len(table) / max(1, len(sample))
    in_cells: Counter[int] = Counter()
    beside = 0
    for kind, key, value in sample:
        size = record_size(key, value)
        if suits_cell(kind, len(value)):
            in_cells[size] += 1
        else:
            beside += size
    cells, cell_bytes = cells_for(in_cells)
    beside += sum(size * rows for size, rows in in_cells.items() if size > cell_bytes)
    return (int(cells * scale), cell_bytes), int(beside * scale)


def _log_limit(base_bytes: int) -> int:
    return max(MIN_LOG_BYTES, base_bytes // LOG_FRACTION)


def _append_empty(writer: SegmentWriter, generation: int, flags: int = 0, next_start: int = 0) -> None:
    writer.append(generation, (), flags=flags, next_start=next_start)


def _encoded(changes: Mapping[tuple[int, str], bytes | None]) -> list[Change]:
    """The changes as they lie in a segment.

    Raises:
        ValueError: one does not fit.
    """
    encoded: list[Change] = []
    for (kind, name), value in changes.items():
        key = name.encode()
        if not 0 <= kind <= MAX_KIND:
            raise ValueError(f"the kind {kind} of {name[:40]!r} is not within 0 to {MAX_KIND}")
        if len(key) > MAX_KEY_BYTES:
            raise ValueError(f"the key {name[:40]!r}... has {len(key)} bytes, the limit is {MAX_KEY_BYTES}")
        if value is not None and len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"the value of {name[:40]!r} has {len(value)} bytes, the limit is {MAX_VALUE_BYTES}")
        encoded.append((kind, key, value))
    return encoded
