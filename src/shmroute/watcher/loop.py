"""The owner thread: applies events in order, publishes what they change, and writes the area's heartbeat.

Started by the command line and by tests. Everything that may block (sources, Redis, handlers, HTTP) runs in threads of
its own and sends to the owner through one queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Final, TypeAlias

from shmroute.errors import AreaBusy, AreaUnavailable, ConfigError, ShmrouteError
from shmroute.metadata.loader import MetadataReads
from shmroute.resources.registry import APPMODELS, WatchedKind
from shmroute.resources.table import TableKind
from shmroute.rows import Kind, RowKey, SettingsRow, encode
from shmroute.shm.events import EventWriter
from shmroute.shm.posix import Ownership
from shmroute.shm.writing.control import stand_by
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_writer import Planned
from shmroute.sources.base import (
    AuditResult,
    Changed,
    Deleted,
    Event,
    FileProblem,
    Following,
    ManyKinds,
    Replaced,
    Resync,
    ServerSource,
    Source,
    SourceState,
)
from shmroute.sources.threads import SupervisedThreads, ThreadStatus
from shmroute.tables import Announcement, Crowded, EndpointRules, Handler, Index, Room, TableHandler
from shmroute.version import __version__
from shmroute.watcher.adoption import adopted_appmodels
from shmroute.watcher.checkpoint import Checkpoint
from shmroute.watcher.declared_tables import DeclaredTables, TableEvent
from shmroute.watcher.dispatch import Dispatcher
from shmroute.watcher.events import EventNotes
from shmroute.watcher.metadata_feed import MetadataFeed
from shmroute.watcher.operator_log import OperatorLog
from shmroute.watcher.pending_rows import DEFINITIONS, PendingRows
from shmroute.watcher.room import words_of
from shmroute.watcher.source_states import SourceStates, contacts_in
from shmroute.watcher.standby import check_source
from shmroute.watcher.status import ENDED, HEARTBEAT_SECONDS, Status, encode_status
from shmroute.watcher.tables_follower import TablesDeclared, TablesFollower

_log = logging.getLogger(__name__)

STANDBY_RETRY_SECONDS: Final = 0.5
"""Seconds between two attempts of a standby watcher to take the lock: it must take over within 2 s."""

EVENTS_A_TURN: Final = 20_000
"""Largest number of events applied before they are published: bounds the wait of the first event of a burst."""

TURN_SECONDS: Final = 0.5
"""Time after which events are published even if more wait, so that expensive events do not delay the heartbeat."""

_JOIN_SECONDS: Final = 0.8
"""Longest wait for all threads at the end, so that `watch` ends within a second."""

_WAKE: Final = None
_AUDIT: Final = "audit"


class WatcherLoop:
    """Follows `sources` and publishes into `area` until it is stopped.

    Args:
        area: the area's name.
        sources: the sources of objects; each runs in a thread of its own.
        settings: source, namespaces and selector, to show to readers.
        rules: rules for making endpoints from slices.
        room: the share of the area that one namespace may take.
        metadata: the metadata loader's feed; None: no metadata.
        checkpoint: the copy of the rows on disk; None: no copy.
        tables: the declared tables of a cluster, each with a source of its own. A folder's one source has the folder's
            tables among its kinds.
        open_table: makes the source of a declared table.
        tables_file: reports changed declarations while the watcher runs; None: the tables never change.
        table_handlers: users' own handlers for objects of declared tables: pairs of a table's name and a handler.
        handlers: users' own handlers, each called in a thread of its own.
        group: a group that may read the area too.
        refuse_other: fail instead of standing by if the area's watcher follows another source.
        clock: returns monotonic nanoseconds; tests inject one.
    """

    def __init__(
        self,
        area: str,
        sources: Sequence[Source],
        *,
        settings: SettingsRow,
        rules: EndpointRules | None = None,
        room: Room | None = None,
        metadata: MetadataFeed | None = None,
        checkpoint: Checkpoint | None = None,
        tables: Sequence[TableKind] = (),
        open_table: Callable[[TableKind], Source] | None = None,
        tables_file: TablesFollower | None = None,
        handlers: Sequence[Handler] = (),
        table_handlers: Sequence[tuple[str, TableHandler]] = (),
        group: str | int | None = None,
        refuse_other: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.area = area
        self._sources = tuple(sources)
        self._settings = settings
        self._metadata = metadata
        self._checkpoint = checkpoint
        self._group = group
        self._refuse_other = refuse_other
        self._clock = clock
        self._tables_file = tables_file
        self._dispatchers = [Dispatcher(handler) for handler in handlers]
        self._dispatchers += [Dispatcher(handler, table) for table, handler in table_handlers]
        followed = [kind for source in sources for kind in source.kinds]
        self._built_in = tuple(kind for kind in followed if not isinstance(kind, TableKind))
        declared = (*(kind for kind in followed if isinstance(kind, TableKind)), *tables)
        kinds = (*self._built_in, *declared)
        self._index = Index(rules, kinds, room, {table for table, _ in table_handlers})
        self._operator_log = OperatorLog(clock)
        self._events: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._stopping = False
        self._stop = threading.Event()
        """Set when the owner has left its loop, to stop the other threads."""
        self._threads = SupervisedThreads()
        self._lasting_threads = SupervisedThreads()
        """Threads that also run while this watcher stands by, until the process ends."""
        self._states = SourceStates()
        self._publication = PendingRows(area, settings, kinds, self._all_rows, clock)
        many = next((source for source in sources if isinstance(source, ManyKinds)), None)
        self._tables = DeclaredTables(
            declared,
            open_source=open_table,
            follow=(lambda tables: many.follow((*self._built_in, *tables))) if many is not None else None,
            put=self._events.put,
            threads=self._threads,
            index=self._index,
            pending=self._publication,
            states=self._states,
            metadata=metadata,
            checkpoint=checkpoint,
        )
        self._told_in_step = False
        """Whether the last heartbeat said that all sources were in step."""
        self._publisher: Publisher | None = None
        self._notes: EventNotes | None = None
        """Writer of the event log; set while this watcher holds the area."""
        self._started = time.time()
        self.turned_ns = clock()
        """Monotonic time of the loop's last turn, writing or standing by, in nanoseconds."""
        self._event_count = 0
        self._received_ns = 0
        """Monotonic time at which the oldest event of this turn was received, in nanoseconds; 0 if unknown."""
        self._problem = ""
        """Reason why this watcher does not hold the area; "" while it does."""
        self.synced = threading.Event()
        """Set once this watcher has published a complete list of its own."""
        self.failed = False
        """Whether `run` ended because of a defect rather than by `stop`."""
        self.status: Status = self._status("standing by")
        """The status, replaced every second. Any thread may read it."""

    # --- start and stop ------------------------------------------------------------------------------------

    def put(self, event: Event | MetadataReads | TablesDeclared) -> None:
        """Queue an event of a source, the metadata loader or the tables file. Called by any thread; never waits."""
        self._events.put(event)

    def stop(self) -> None:
        """Make `run` return within a second. Called by any thread or by a signal handler.

        Takes no lock: in a signal handler, setting an event could wait forever for the interrupted thread. `put` of a
        `SimpleQueue` is reentrant.
        """
        self._stopping = True
        self._events.put(_WAKE)

    def supervise(self, name: str, target: Callable[[], None]) -> None:
        """Run `target` in a thread until `release`, restarting it whenever it ends. Called by any thread."""
        self._lasting_threads.start(name, target, restartable=True)

    def release(self, name: str) -> None:
        """Stop supervising the thread of this name, which may then end. Called by any thread."""
        self._lasting_threads.release(name)

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources of objects, those of declared tables included."""
        return (*self._sources, *self._tables.sources)

    def object_of(self, table: str, row_key: str) -> str | None:
        """Return which object the row of a declared table is made from, as far as this watcher knows. Any thread."""
        found = self._index.object_of(table, row_key)
        return str(found) if found is not None else None

    def audit(self) -> None:
        """Make every source that supports audits run one now. Called by any thread or by a signal handler."""
        self._events.put(_AUDIT)

    def run(self) -> None:
        """Take the area, standing by while another watcher holds it, then follow the sources until `stop`.

        Raises:
            ConfigError: the area's name or the group cannot be used.
        """
        publisher = self._acquire()
        if publisher is None:
            return
        self._publisher = publisher
        self._notes = notes = self._event_notes(publisher)
        notes.say("started", f"version {__version__}, {self._settings.source}")
        try:
            self._states.set_former_contacts(contacts_in(publisher.control.status()))
            self._publish_checkpoint(publisher)
            self._adopt(publisher)
            self._start_threads(self._declare_at_start(publisher))
            self._loop(publisher, notes)
        finally:
            self._stop.set()
            self._join()
            with suppress(ShmrouteError):
                publisher.control.store_status(encode_status(self._status(ENDED)))
            notes.say("ended")
            notes.write(publisher.generation)
            publisher.close()

    def _event_notes(self, publisher: Publisher) -> EventNotes:
        writer = EventWriter(self.area, Ownership(self._group), lambda: publisher.control.area_id)
        return EventNotes(writer, publisher.get, self._tables.logged, self._clock)

    def _note(self, planned: Sequence[Planned]) -> None:
        """Pass the rows that are about to be published to the event log."""
        if self._notes is not None:
            self._notes.note(planned)

    def _acquire(self) -> Publisher | None:
        while not self._stopping:
            try:
                return Publisher(
                    self.area, group=self._group, now_ns=self._clock(), pause=self._show_life, note=self._note
                )
            except AreaBusy as error:
                self._stand_by(error)
            except AreaUnavailable as error:
                if self._problem != str(error):
                    _log.error("%s", error)
                self._problem = str(error)
            self._lasting_threads.check()
            self.turned_ns = self._clock()
            self.status = self._status("standing by")
            with suppress(queue.Empty):
                self._events.get(timeout=STANDBY_RETRY_SECONDS)
        return None

    def _stand_by(self, busy: AreaBusy) -> None:
        """Register as a standby of the area's writer. Logs this once, as an error if the writer's source differs."""
        problem: AreaBusy | ConfigError = busy
        try:
            check_source(self.area, self._settings)
        except ConfigError as error:
            if self._refuse_other:
                raise
            problem = error
        if self._problem != str(problem):
            if problem is busy:
                _log.info("%s: standing by", problem)
            else:
                _log.error("%s. Standing by: when that watcher ends, this one replaces its routes by its own", problem)
        self._problem = str(problem)
        stand_by(self.area, self._clock())

    def _publish_checkpoint(self, publisher: Publisher) -> None:
        """Serve the checkpoint's rows, if none are served, until the first list; marked as not synced."""
        saved = self._checkpoint.load() if self._checkpoint and not publisher.generation else None
        if saved is None:
            return
        now_ns = self._clock()
        age_ns = int(max(0.0, time.time() - saved.contact) * 1e9)
        try:
            publisher.replace(saved.rows)
        except (AreaUnavailable, ValueError) as error:
            _log.error("the checkpoint's rows cannot be served: %s", error)
            return
        publisher.control.beat(now_ns, now_ns - age_ns, synced=False)
        ages = {name: max(0.0, time.time() - contact) for name, contact in saved.contacts.items()}
        self._states.set_former_contacts({name: now_ns - int(age * 1e9) for name, age in ages.items()})
        _log.warning(
            "serving %d rows of the checkpoint, %.0f s old, until the first list", len(saved.rows), age_ns / 1e9
        )

    def _adopt(self, publisher: Publisher) -> None:
        """Start with a former watcher's AppModels, so that AppModels that are invalid now keep their last valid state.

        The first complete list replaces them; nothing is published before that.
        """
        adopted = tuple(appmodel for _, value in publisher.rows(Kind.APP) for appmodel in adopted_appmodels(value))
        if adopted:
            self._announce(self._index.apply(Replaced(APPMODELS.name, adopted)))
            self._index_changes()

    def _declare_at_start(self, publisher: Publisher) -> tuple[TableKind, ...]:
        """Return the tables declared at the start. Where the file cannot be used, the last good declarations count."""
        kinds = self._tables.kinds
        if self._tables_file is not None:
            own = publisher.get(Kind.SETTINGS, "") == encode(self._settings)  # else another source's watcher wrote them
            declared = self._tables_file.at_start(publisher.get(*DEFINITIONS) if own else None, kinds)
            self._apply(declared)
            kinds = declared.kinds
        return kinds

    def _start_threads(self, tables: tuple[TableKind, ...]) -> None:
        self._problem = ""
        self._operator_log.started(self.area, self._settings)
        for dispatcher in self._dispatchers:
            self._threads.start(dispatcher.name, dispatcher.run, restartable=True)
        for source in self._sources:
            name = f"source {'+'.join(kind.name for kind in source.kinds)}"
            self._threads.start(name, partial(source.run, self, self._stop), restartable=False)
        self._tables.start()
        if self._tables_file is not None:
            follow = partial(self._tables_file.run, tables, self.put, self._stop)
            self._threads.start("tables file", follow, restartable=True)
        if self._metadata is not None:
            self._threads.start("metadata", partial(self._metadata.run, self.put, self._stop), restartable=True)
        if self._checkpoint is not None:
            self._threads.start("checkpoint", partial(self._checkpoint.run, self._stop), restartable=True)

    def _join(self) -> None:
        self._tables.stop()
        for dispatcher in self._dispatchers:
            dispatcher.stop()
        self._threads.join(_JOIN_SECONDS)

    # --- the loop ------------------------------------------------------------------------------------------

    def _loop(self, publisher: Publisher, notes: EventNotes) -> None:
        beat_at_ns = 0
        started_ns = self._clock()
        while not self._stopping:
            now_ns = self._clock()
            if now_ns >= beat_at_ns:
                self._check_threads()
                self._beat(publisher, now_ns)
                notes.write(publisher.generation)
                beat_at_ns = now_ns + int(HEARTBEAT_SECONDS * 1e9)
            wait = 0.0 if publisher.rebuilding else max(0.0, (beat_at_ns - now_ns) / 1e9)
            if self._take_events(wait):
                self._index_changes()
            elif publisher.rebuilding:
                publisher.maintain()
            if self._publication.due:
                complete, generation = self._publication.complete, publisher.generation
                self._publication.publish(publisher)
                if self._publication.complete != complete:
                    notes.say("published", f"the first complete list: {self._index.model_count} models")
                    beat_at_ns = 0
                    seconds = (self._clock() - started_ns) / 1e9
                    rows = publisher.sizes.rows
                    models, apps = self._index.model_count, self._index.app_count
                    self._operator_log.first_snapshot(models, apps, rows, seconds, tables=bool(self._tables.kinds))
                notes.write(publisher.generation, published=publisher.generation != generation)
            if not self._told_in_step and self._contact_ns():
                # Beat at once: a worker that waited for the first snapshot may ask for its age immediately.
                beat_at_ns = 0

    def _take_events(self, wait_seconds: float) -> bool:
        """Apply the events that have arrived, waiting for the first one. Returns whether there were any."""
        try:
            event = self._events.get(timeout=wait_seconds) if wait_seconds else self._events.get_nowait()
        except queue.Empty:
            return False
        until = time.monotonic() + TURN_SECONDS
        for _ in range(EVENTS_A_TURN):
            self._apply(event)
            if time.monotonic() > until:
                return True
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return True
        self._apply(event)
        return True

    def _apply(self, event: _Message) -> None:
        match event:
            case None:
                return
            case TableEvent():
                if self._tables.accepts(event):
                    self._apply(event.event)
                return
            case TablesDeclared():
                self._announce(self._tables.declare(event))
                if self._tables_file is not None:
                    last_good = bool(event.kinds)
                    self._index.apply(FileProblem(self._tables_file.path, event.problem or None, last_good))
                self._index_changes()
                return
            case Following():
                self._announce(self._tables.switch([kind for kind in event.kinds if isinstance(kind, TableKind)]))
                self._index_changes()
                return
            case str():
                for source in self.sources:
                    if isinstance(source, ServerSource):
                        source.audit_now()
                return
            case SourceState():
                self._states.report(event)
                if self._notes is not None:
                    self._notes.source(event)
                return
            case AuditResult():
                self._states.count_audit(event)
                return
            case MetadataReads():
                if self._metadata is not None:
                    settled = self._metadata.settle(event.reads, self._row)
                    self._operator_log.note(settled)
                    self._publication.add(settled)
                return
            case Replaced():
                self._publication.synced(event.resource)
                self._event_count += 1
            case Changed() | Deleted():
                self._event_count += 1
                self._received_ns = self._received_ns or event.received_ns
            case Resync(resource=APPMODELS.name):
                if self._metadata is not None:
                    self._metadata.retry_failed()
        self._announce(self._index.apply(event))

    def _announce(self, announcements: list[Announcement]) -> None:
        if announcements:
            for dispatcher in self._dispatchers:
                dispatcher.put(announcements)

    def _index_changes(self) -> None:
        changes = self._index.take_changes()
        if changes:  # an event that changes no row does not count for the propagation time
            self._publication.received(self._received_ns)
        self._received_ns = 0
        self._operator_log.note(changes)
        if self._metadata is not None:
            self._publication.add(self._metadata.follow(changes, self._row, self._index.take_metadata()))
        self._publication.add(changes)

    def _row(self, key: RowKey) -> bytes | None:
        """Return the newest value of a row, published or waiting to be."""
        return self._publication.row(self._publisher, key) if self._publisher else None

    def _all_rows(self, publisher: Publisher, unpublished: Mapping[RowKey, bytes | None]) -> dict[RowKey, bytes | None]:
        """Return all rows again. The index holds all but the METADATA rows; metadata that cannot be read from the area
        any more is requested again."""
        rows: dict[RowKey, bytes | None] = dict(self._index.rows())
        if self._metadata is not None:
            kinds = {int(Kind.METADATA), *self._tables.metadata_kinds}
            rows.update(publisher.rows_of(kinds))
            rows.update((key, row) for key, row in unpublished.items() if key[0] in kinds)
            rows.update(self._metadata.want_lost(rows, self._index.metadata()))
        return rows

    # --- status --------------------------------------------------------------------------------------------

    def _check_threads(self) -> None:
        self._lasting_threads.check()
        self._threads.check()
        if self._threads.lost:
            _log.error("%s; the watcher ends so that it can be started again", self._threads.lost)
            self.failed = True
            self.stop()

    def _show_life(self) -> None:
        """Write a heartbeat during long work, which calls this every few milliseconds."""
        now_ns = self._clock()
        if self._publisher is not None and now_ns - self.turned_ns >= HEARTBEAT_SECONDS * 1e9:
            self._publisher.control.pulse(now_ns)
            self.turned_ns = now_ns

    def _check_files(self, publisher: Publisher) -> None:
        """Make the area anew if somebody has removed its files."""
        try:
            done = publisher.check_files()
        except AreaUnavailable as error:
            if self._publication.problem != str(error):
                _log.error("%s", error)
            self._publication.problem = str(error)
        except AreaBusy as error:
            _log.error("%s; this watcher ends so that it can be started again, and stand by", error)
            self.failed = True
            self.stop()
        else:
            if done:
                _log.error("%s", done)
                if self._notes is not None:
                    self._notes.say("made the area anew", done)
                self._publication.problem = ""

    def _beat(self, publisher: Publisher, now_ns: int) -> None:
        self._check_files(publisher)
        if self._stopping:
            return
        contact = self._contact_ns()
        publisher.control.beat(now_ns, contact, synced=self._publication.complete)
        self._told_in_step = contact != 0
        self.turned_ns = now_ns
        self.status = self._status("writing")
        if self._publication.complete:
            self.synced.set()
        publisher.control.store_status(encode_status(self.status))

    def _contact_ns(self) -> int:
        """Return when all sources were last in step with the published rows; 0 if never, or if publishing fails now."""
        if not self._publication.complete or self._publication.problem:
            return 0
        return self._states.contact_ns(self._kinds())

    def _thread_status(self) -> tuple[ThreadStatus, ...]:
        of_sources = (source.threads() for source in self._sources if isinstance(source, ServerSource))
        return (*self._threads.status(), *chain.from_iterable(of_sources), *self._lasting_threads.status())

    def _crowded(self) -> list[Crowded]:
        return self._index.crowded + (self._metadata.crowded if self._metadata else [])

    def _kinds(self) -> list[WatchedKind]:
        return [*self._built_in, *self._tables.kinds]

    def _status(self, role: str) -> Status:
        publisher = self._publisher
        publication = self._publication
        sizes = publisher.sizes if publisher else None
        crowded = self._crowded()
        return Status(
            version=__version__,
            area=self.area,
            role=role,
            started=self._started,
            now=time.time(),
            now_ns=self._clock(),
            synced=publication.complete,
            generation=publisher.generation if publisher else 0,
            rows=sizes.rows if sizes else 0,
            models=self._index.model_count,
            apps=self._index.app_count,
            segment_bytes=sizes.segment_bytes if sizes else 0,
            log_bytes=sizes.log_bytes if sizes else 0,
            rebuilding=bool(sizes and sizes.rebuilding),
            events=self._event_count,
            publishes=publication.publishes,
            publish_failures=publication.failures,
            publish_seconds=publication.seconds,
            propagation_seconds=publication.propagation_seconds,
            propagations=publication.propagations,
            propagation_seconds_sum=publication.propagation_seconds_sum,
            conflicts=self._index.conflict_count,
            invalid=self._index.invalid_count,
            handler_failures=sum(dispatcher.failures for dispatcher in self._dispatchers),
            sources=self._states.of(self._kinds()),
            audited=tuple(
                kind.name for source in self.sources if isinstance(source, ServerSource) for kind in source.kinds
            ),
            audits=self._states.audits,
            settings=self._settings,
            tables=tuple(kind.name for kind in self._kinds() if not kind.awaited),
            table_rows=self._index.table_row_count,
            metadata=self._metadata.status() if self._metadata else None,
            threads=self._thread_status(),
            problem=self._problem or publication.problem or self._tables.problem,
            tables_problem=self._tables.problem,
            no_room=(*words_of(crowded), *self._index.full_tables),
            no_room_objects=sum(each.objects for each in crowded),
        )


_Message: TypeAlias = Event | TableEvent | MetadataReads | TablesDeclared | str | None
