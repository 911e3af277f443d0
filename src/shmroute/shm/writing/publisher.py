"""`Publisher`: the only writer of an area. It publishes changed rows, one generation at a time.

Called from one thread (the watcher's owner thread). The process may be killed at any instant: see the protocol in
`shmroute.shm`. Reads the clock only to slice its work, and never knows what the bytes of a row mean.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from time import perf_counter
from typing import Final, NamedTuple, Self, TypeVar

from shmroute.errors import AreaUnavailable, AreaUnreadable, NoAccess, OutOfSharedMemory
from shmroute.shm import posix
from shmroute.shm.layout import (
    CONTROL_BYTES,
    RECORD_BYTES,
    RESET,
    SEALED,
    WORD_BYTES,
    Batch,
)
from shmroute.shm.names import fixed_names, register_name, segment_name
from shmroute.shm.register import create_register
from shmroute.shm.segment import NO_END, Segment
from shmroute.shm.writing.control import ControlWriter, new_identity
from shmroute.shm.writing.packing import Rows, Value, encode_rows, measure_rows
from shmroute.shm.writing.rebuild import Rebuild
from shmroute.shm.writing.segment_memory import FRESH_BYTES, WritableSegment
from shmroute.shm.writing.segment_writer import Change, NoRoom, Planned, SegmentWriter

_log = logging.getLogger(__name__)

LOG_FRACTION: Final = 4
"""A new base is started once the log has outgrown 1/4 of the base, so that each row is copied at most four times for
each time it is replaced."""

LOG_SPACE_FRACTION: Final = 2
"""The log never outgrows 1/2 of the base (room for changes while the new base is built); larger changes publish all
rows anew. So a segment takes at most 1.5 times its base, and the two segments of an area at most 3 times."""

MIN_LOG_BYTES: Final = 256 * 1024
"""Size up to which a log is too small to be worth a new base."""

MIN_LOG_SPACES: Final = 4
"""Multiple of `MIN_LOG_BYTES` to which every log may grow."""

GRACE_SECONDS: Final = 1.0
"""Time that a retired segment rests before it is overwritten, if the log has room: readers that are one base behind can
follow the log and keep their caches. Correctness does not need it, since readers check *oldest*."""

REBUILD_SLICE_SECONDS: Final = 0.002
"""Longest time for which a slice of a rebuild delays a publish."""

_ROWS_BETWEEN_PAUSES: Final = 4096
"""Rows processed between two calls of `pause`: about 10 ms."""

T = TypeVar("T")


class PublisherSizes(NamedTuple):
    """Size of an area: its rows, and the bytes of shared memory that its segments and control block take."""

    rows: int
    segment_bytes: int
    log_bytes: int
    rebuilding: bool


def _no_pause() -> None:
    """Default of `pause`: do nothing."""


def _not_noted(planned: Sequence[Planned]) -> None:
    """Default of `note`: do nothing."""


class Publisher:
    """Takes the area's lock and publishes rows.

    Args:
        area: the area's name.
        group: name or number of a group that may read the area too (mode 0640); by default only this user (0600).
        now_ns: the monotonic time, shown to readers as the writer's start.
        pause: called every few milliseconds during work that cannot be sliced (all rows, a large batch), for instance
            to write a heartbeat. It must not use the publisher.
        note: called with the changed rows of a publication, while `get` still returns the former ones. The publication
            may fail after that. Not called for the first rows of an area.

    The rows of a former writer are adopted and stay served; generations continue from there.

    Raises:
        AreaBusy: another process writes this area.
        ConfigError: the area's name or the group cannot be used.
        AreaUnavailable: there is no room for the control block, or a file of its name is refused.
    """

    def __init__(
        self,
        area: str,
        *,
        group: str | int | None = None,
        now_ns: int = 0,
        pause: Callable[[], None] = _no_pause,
        note: Callable[[Sequence[Planned]], None] = _not_noted,
    ) -> None:
        self.area = area
        self._pause = pause
        self._note = note
        self._ownership = posix.Ownership(group)
        self.control = ControlWriter.acquire(area, self._ownership)
        self._writer: SegmentWriter | None = None
        self._rebuild: Rebuild | None = None
        self._rebuild_not_below_bytes = 0
        self._retired_at = 0.0
        self._at_work = False
        self._closed = False
        self._lost: Rows | None = None
        """The rows of an area whose files were removed, until it is made anew."""
        self.generation = 0
        """The newest published generation."""
        self.awaited_ns = self.control.awaited_ns
        """Monotonic time of a standby watcher's last attempt before this one took the area, in nanoseconds; 0: none."""
        try:
            self._recover()
            self.control.introduce(now_ns)
            self._create_register()
        except BaseException:
            self.close()
            raise

    # --- taking over ---------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Adopt a former writer's rows: finish an interrupted publish, keep the retired segment, remove other files.

        An unfinished new base is started again later: the content of the retired segment is not needed.
        """
        try:
            self.generation = max(self.generation, self.control.generation)
        except AreaUnreadable as error:  # the rows may still be intact
            _log.warning("area %s: %s", self.area, error)
        if self.control.segment:
            try:
                self._adopt(Segment(segment_name(self.area, self.control.segment)))
            except (FileNotFoundError, AreaUnavailable) as error:
                _log.warning("area %s: the former writer's rows cannot be adopted: %s", self.area, error)
        if self._writer is None:
            self.control.store_segments(0, 0)
        self._retired_at = perf_counter()
        keep = tuple(segment_name(self.area, identity) for identity in self.control.segments if identity)
        for problem in posix.sweep(self.area, keep):
            _log.warning("area %s: a leftover stays: %s", self.area, problem)

    def _adopt(self, segment: Segment) -> None:
        published = self.generation
        generation, offset = segment.position()
        newest: Batch | None = None
        while (batch := segment.batch_at(offset, generation + 1)) is not None:
            if batch.flags & SEALED:
                segment = Segment(segment_name(self.area, batch.next_segment))
                generation, offset = segment.position()
                newest = None
                continue
            generation += 1
            if generation > published:  # valid, but the word was not stored, and its slots may be missing too
                writer = SegmentWriter.adopt(segment, offset, batch, _log_space(segment), self._ownership)
                writer.redo(offset, batch)
                writer.close()
            newest = batch
            offset += batch.length
        if generation < published:
            raise AreaUnreadable(
                segment.name, f"its log ends at generation {generation}, but generation {published} was published"
            )
        self._writer = SegmentWriter.adopt(segment, offset, newest, _log_space(segment), self._ownership)
        self.generation = generation
        first, second = self.control.segments
        if self._writer.identity not in (first, second):  # a writer always stores both: the pair is damaged
            self.control.store_segments(self._writer.identity, 0)
        self.control.store_segment(self._writer.identity)
        self.control.store_generation(generation)

    def _create_register(self) -> None:
        """Make the workers' register. Without it, the workers' states are unknown, but they work."""
        try:
            create_register(self.area, self._ownership, self.control.area_id)
        except AreaUnavailable as error:
            _log.warning("area %s: no workers' register: %s", self.area, error)

    def _begin(self) -> None:
        """Mark the start of a change. If an exception interrupted the last one, first recover like a new writer.

        Raises:
            AreaBusy: this process was forked by the writer, or the publisher is closed.
            AreaUnavailable: the area's files were removed, and the area cannot be made anew yet.
        """
        if self._lost is not None:
            self._make_anew(self._lost)
        self.control.check_held()
        if self._at_work:
            self._rebuild = None
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._recover()
        self._at_work = True

    def check_files(self) -> str:
        """Make the area anew if its files have been removed. Call it at each heartbeat.

        The files of a running watcher may be removed by systemd's RemoveIPC, a cleaner or an operator. Processes that
        map the old area then go to the new one, whose generations continue.

        Returns:
            A text for the log if the area was made anew; else "".

        Raises:
            AreaBusy: another watcher has taken the area meanwhile.
            AreaUnavailable: the area cannot be made anew; try again later.
        """
        if self._lost is None:
            self.control.check_held()
            writer = self._writer
            if self.control.intact and (writer is None or writer.memory.present):
                if not posix.exists(register_name(self.area)):
                    self._create_register()
                return ""
            self._lost = self._rows(writer, leave_out_damaged=True) if writer is not None else {}
            self._rebuild = None
            self.control.retire()  # processes that map the old block look for the new one
            if writer is not None:
                writer.close()
                self._writer = None
            self.control.close()
        self._make_anew(self._lost)
        return f"files of area {self.area!r} had been removed: it was made anew, generation {self.generation}"

    def _make_anew(self, rows: Rows) -> None:
        former = self.control
        self.control = ControlWriter.acquire(self.area, self._ownership)
        posix.sweep(self.area)
        self.control.store_segment(0)
        self.control.store_segments(0, 0)
        self.control.introduce(former.writer_started_ns)
        self.control.beat(former.heartbeat_ns, former.contact_ns, synced=former.synced)
        self._create_register()
        self._at_work = False
        if self.generation:
            self._publish_anew(rows)
        self._lost = None

    def _rows(self, writer: SegmentWriter, *, leave_out_damaged: bool = False) -> dict[tuple[int, str], bytes]:
        """Return all rows."""
        return {
            (record.kind, record.key.decode(errors="replace")): record.value
            for record in self._paced(writer.reading.rows(NO_END, leave_out_damaged=leave_out_damaged))
            if record.value is not None
        }

    def _paced(self, items: Iterable[T]) -> Iterator[T]:
        return chain.from_iterable(self._chunks(items))

    def _chunks(self, items: Iterable[T]) -> Iterator[list[T]]:
        """Yield the items in lists, with a call of `pause` between two."""
        remaining = iter(items)
        chunk = list(islice(remaining, _ROWS_BETWEEN_PAUSES))
        while chunk:
            yield chunk
            if chunk := list(islice(remaining, _ROWS_BETWEEN_PAUSES)):
                self._pause()

    # --- publishing ----------------------------------------------------------------------------------------

    def publish(self, changes: Mapping[tuple[int, str], bytes | None]) -> int:
        """Publish changed rows as one generation; the value None removes a row.

        Unchanged rows are left out; if no row has changed, nothing is published. A reader sees all changes or none.

        Returns:
            The generation that holds the changes.

        Raises:
            OutOfSharedMemory: there is no room; nothing has changed, try again later.
            ValueError: a kind is not within 0 to 65,535, a key has more than 65,535 bytes of UTF-8, or a value has
                64 MiB or more; nothing has changed.
            AreaUnreadable: the segment is damaged; `replace` makes a new one.
            NoAccess: a new segment cannot be opened; nothing has changed.
            AreaBusy: this process was forked from the one that made this publisher.
        """
        return self._change(self._publish, changes)

    def replace(self, rows: Mapping[tuple[int, str], bytes]) -> int:
        """Publish `rows` in place of all former rows, in at most one generation.

        Raises:
            OutOfSharedMemory, ValueError, NoAccess, AreaBusy: as `publish`.
        """
        return self._change(self._replace, rows)

    def _change(self, work: Callable[[T], None], rows: T) -> int:
        """Do the work of one change. After these errors nothing has changed; after any other, `_begin` recovers."""
        self._begin()
        try:
            work(rows)
        except (OutOfSharedMemory, NoAccess, ValueError):
            self._at_work = False
            raise
        self._at_work = False
        self.maintain()
        return self.generation

    def _publish(self, changes: Mapping[tuple[int, str], bytes | None]) -> None:
        if self._writer is not None:
            self._append(self._writer, self._encoded(changes))
        elif rows := {key: value for key, value in changes.items() if value is not None}:
            self._publish_anew(rows)

    def _append(self, writer: SegmentWriter, changes: Sequence[Change]) -> None:
        planned = writer.plan(changes, self._pause)
        if not planned:
            return
        self._note(planned)
        if writer.has_room(planned):
            writer.append(self.generation + 1, planned, self._pause)
            self._advance(self.generation + 1)
        else:
            self._publish_anew(self._merged(writer, planned))

    def _replace(self, rows: Rows) -> None:
        try:
            self._append_differences(rows)
        except AreaUnreadable as error:
            _log.warning("area %s: %s; all rows are published anew", self.area, error)
            self._publish_anew(rows)

    def _append_differences(self, rows: Rows) -> None:
        if self._writer is None:
            self._publish_anew(rows)
            return
        new = {(kind, key): value for kind, key, value in self._encoded(rows)}
        removed: list[Change] = []
        for record in self._paced(self._writer.reading.rows(NO_END)):
            row = record.kind, record.key
            if row not in new:
                removed.append((*row, None))
            elif new[row] == record.value:
                del new[row]  # here, since to look it up once more takes as long as to list it
        self._append(self._writer, [(*row, value) for row, value in new.items()] + removed)

    def get(self, kind: int, key: str) -> bytes | None:
        """Return the row's published value; None if there is none, or if the row is damaged."""
        if self._writer is None:
            return None
        try:
            return self._writer.reading.find(kind, key.encode(), NO_END)
        except AreaUnreadable as error:
            _log.warning("area %s: row %r of kind %d: %s", self.area, key, kind, error)
            return None

    def rows(self, kind: int) -> Iterator[tuple[str, bytes]]:
        """Yield `(key, value)` of the published rows of one kind. Damaged rows are left out."""
        for (_, key), value in self.rows_of((kind,)):
            yield key, value

    def rows_of(self, kinds: Collection[int]) -> Iterator[tuple[tuple[int, str], bytes]]:
        """Yield `((kind, key), value)` of the published rows of these kinds. Damaged rows are left out.

        Reads the whole segment, however few rows there are: ask for all kinds at once.
        """
        if self._writer is not None and kinds:
            for record in self._writer.reading.rows(NO_END, leave_out_damaged=True):
                if record.value is not None and record.kind in kinds:
                    yield (record.kind, record.key.decode()), record.value

    def _merged(self, writer: SegmentWriter, planned: Sequence[Planned]) -> Rows:
        """Return all rows with the planned changes applied."""
        rows = self._rows(writer)
        for kind, key, value, *_ in planned:
            if value is None:
                rows.pop((kind, key.decode()), None)
            else:
                rows[kind, key.decode()] = value
        return rows

    def _publish_anew(self, rows: Rows) -> None:
        """Publish all rows as a new base. Readers drop their whole cache."""
        self._rebuild = None
        generation = self.generation + 1
        key_bytes = value_bytes = 0
        for chunk in self._chunks(rows.items()):
            of_keys, of_values = measure_rows(chunk)
            key_bytes += of_keys
            value_bytes += of_values
        base_bytes = key_bytes + value_bytes + len(rows) * (RECORD_BYTES + WORD_BYTES)
        target = self._target(generation, len(rows), base_bytes, log_space(base_bytes))
        try:
            target.reserve_base(value_bytes + len(rows) * RECORD_BYTES)
            for work in (target.clear(), target.fill(rows.items())):
                for _ in work:
                    self._pause()
            target.finish_base()
        except BaseException:
            self._abandon(target)
            raise
        self._continue_in(target, generation, SEALED | RESET)
        self._rebuild_not_below_bytes = 0

    def _continue_in(self, target: SegmentWriter, generation: int, flags: int) -> None:
        """Publish `generation`, which the segment `target` holds, and retire the current segment."""
        former = self._writer
        if former is None:
            self.control.store_segment(target.identity)
        else:
            former.append(generation, (), flags=flags, next_segment=target.identity)
        self._writer = target
        self._advance(generation)
        if former is not None:
            # After the generation: a reader that attaches meanwhile follows the seal, and is never ahead of the others.
            self.control.store_segment(target.identity)
            former.close()
            self._retired_at = perf_counter()

    def _advance(self, generation: int) -> None:
        self.control.store_generation(generation)
        self.generation = generation

    # --- segments ------------------------------------------------------------------------------------------

    def _target(
        self, start: int, rows: int, base_bytes: int, log_bytes: int, hash_key: int | None = None
    ) -> SegmentWriter:
        """Return the segment for the next base: the retired one, or a new one if there is none.

        Raises:
            OutOfSharedMemory, NoAccess: the segment cannot be made.
        """
        current = self._writer.identity if self._writer else 0
        retired = next((identity for identity in self.control.segments if identity not in (0, current)), 0)
        memory = self._retired_memory(retired) if retired and self._writer is not None else None
        if memory is None:
            retired = new_identity()
            memory = WritableSegment.create(segment_name(self.area, retired), FRESH_BYTES, self._ownership)
            self.control.store_segments(current, retired)
        elif self._writer is not None:
            # Readers must know that the segment is void before its first byte is overwritten.
            self.control.store_oldest(self._writer.start)
        try:
            return SegmentWriter(
                memory, retired, start, rows=rows, base_bytes=base_bytes, log_bytes=log_bytes, hash_key=hash_key
            )
        except BaseException:
            memory.close()
            raise

    def _retired_memory(self, identity: int) -> WritableSegment | None:
        name = segment_name(self.area, identity)
        try:
            return WritableSegment(name, self._ownership)
        except FileNotFoundError:
            return None
        except AreaUnavailable as error:
            _log.warning("area %s: a retired segment cannot be used again: %s", self.area, error)
            for problem in posix.sweep(self.area, keep=(self._writer.name,) if self._writer else ()):
                _log.warning("area %s: a leftover stays: %s", self.area, problem)
            return None

    def _abandon(self, target: SegmentWriter) -> None:
        """Drop a base that was not published. Removes its file if it is new."""
        fresh = target.fresh
        target.close()
        if fresh:
            posix.unlink(target.name)
            self.control.store_segments(self._writer.identity if self._writer else 0, 0)

    # --- a new base ----------------------------------------------------------------------------------------

    @property
    def rebuilding(self) -> bool:
        """Whether a new base is being built. `maintain` continues the work."""
        return self._rebuild is not None

    def maintain(self, seconds: float = REBUILD_SLICE_SECONDS) -> bool:
        """Start or continue building a new base, for about `seconds`. Called by `publish`, and by the owner when idle.

        Returns:
            Whether the base is not finished yet.
        """
        writer = self._writer
        if writer is None:
            return False
        self._begin()
        try:
            self._step(writer, seconds)
        except AreaUnavailable as error:
            _log.warning("area %s: a new base cannot be built, the old one stays: %s", self.area, error)
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
            base_bytes = writer.end - writer.header.records_at
            target = self._target(
                self.generation, writer.live_rows, base_bytes, log_space(base_bytes), writer.header.hash_key
            )
            self._rebuild = Rebuild(writer, target, self.generation)
        rebuild = self._rebuild
        rebuilt = rebuild.step(self.generation, seconds)
        if rebuilt is None:
            return
        # The rebuilt segment holds the same rows: readers continue there and keep their caches.
        generation = self.generation + 1
        if not rebuilt.has_room(()):
            raise NoRoom
        rebuilt.append(generation, ())
        self._rebuild = None
        self._rebuild_not_below_bytes = 0
        self._continue_in(rebuilt, generation, SEALED)

    def _wants_rebuild(self, writer: SegmentWriter) -> bool:
        used = writer.log_used
        limit = log_limit(writer.header.log_at - writer.header.records_at)
        crowded = writer.slots_used * 4 > writer.header.slots * 3
        if not (used > limit or crowded) or used <= self._rebuild_not_below_bytes or self.generation == writer.start:
            return False
        rested = perf_counter() - self._retired_at >= GRACE_SECONDS
        return rested or used > limit + limit // 4 or writer.slots_used * 5 > writer.header.slots * 4

    def _drop_rebuild(self) -> None:
        if self._rebuild is not None:
            rebuild, self._rebuild = self._rebuild, None
            self._abandon(rebuild.target)

    # --- leaving -------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> PublisherSizes:
        """Current size of the area: both segments, and the control block."""
        taken = CONTROL_BYTES + sum(
            posix.taken_bytes(segment_name(self.area, identity)) for identity in self.control.segments if identity
        )
        writer = self._writer
        if writer is None:
            return PublisherSizes(0, taken, 0, rebuilding=False)
        return PublisherSizes(writer.live_rows, taken, writer.log_used, self.rebuilding)

    def close(self, *, remove: bool = False) -> None:
        """Release the area. The rows stay for readers and the next writer unless `remove` is set.

        Readers of a removed area keep reading their mapped memory until there is a new area of the same name.
        """
        held = self.control.held
        if held:
            self._drop_rebuild()
        if held and remove:
            self.control.retire()
            posix.sweep(self.area)
            for name in fixed_names(self.area):
                posix.unlink(name)
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

    def _encoded(self, changes: Mapping[tuple[int, str], Value]) -> list[tuple[int, bytes, Value]]:
        return list(chain.from_iterable(map(encode_rows, self._chunks(changes.items()))))


def log_limit(base_bytes: int) -> int:
    """Return the bytes of log at which a new base is started."""
    return max(MIN_LOG_BYTES, base_bytes // LOG_FRACTION)


def log_space(base_bytes: int) -> int:
    """Return the largest size of a log, in bytes."""
    return max(MIN_LOG_BYTES * MIN_LOG_SPACES, base_bytes // LOG_SPACE_FRACTION)


def _log_space(segment: Segment) -> int:
    return log_space(segment.header.log_at - segment.header.records_at)
