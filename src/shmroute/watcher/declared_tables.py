"""The declared tables while the watcher runs: each has a source, and may be added, removed or declared anew.

Used by the owner thread. A change of the tables file comes as `TablesDeclared`; here it reaches all that know a table:
the index, the waiting rows, the metadata loader, the checkpoint, the event log. What a table's objects become is the
index's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from shmroute.resources.table import TableKind
from shmroute.rows import encode, table_kinds
from shmroute.sources.base import Event, Source
from shmroute.sources.threads import SupervisedThreads
from shmroute.tables import Announcement, Index
from shmroute.watcher.checkpoint import Checkpoint
from shmroute.watcher.metadata_feed import MetadataFeed
from shmroute.watcher.pending_rows import PendingRows
from shmroute.watcher.source_states import SourceStates
from shmroute.watcher.tables_follower import TablesDeclared

_log = logging.getLogger(__name__)


class TableEvent(msgspec.Struct, frozen=True):
    """An event from the source of a single table."""

    kind: TableKind
    event: Event


class DeclaredTables:
    """The tables declared now, and the sources of those that have one of their own.

    Args:
        kinds: the tables at the beginning.
        open_source: makes the source of a table; None: all tables have one common source.
        follow: makes the common source follow other tables; it replies with `Following`. None: there is none.
        put: queues an event for the owner thread.
        threads: runs the tables' sources.
        index: holds the tables' objects and rows.
        pending: the rows that wait to be published.
        states: what each source last reported.
        metadata: the metadata loader's feed; None: no metadata.
        checkpoint: the copy of the rows on disk; None: no copy.
    """

    def __init__(
        self,
        kinds: Iterable[TableKind],
        *,
        open_source: Callable[[TableKind], Source] | None,
        follow: Callable[[tuple[TableKind, ...]], None] | None,
        put: Callable[[TableEvent], None],
        threads: SupervisedThreads,
        index: Index,
        pending: PendingRows,
        states: SourceStates,
        metadata: MetadataFeed | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._open_source = open_source
        self._follow = follow
        self._put = put
        self._threads = threads
        self._index = index
        self._pending = pending
        self._states = states
        self._metadata = metadata
        self._checkpoint = checkpoint
        self._sources: dict[str, tuple[Source, threading.Event]] = {}
        """Table's name -> its source, and the event that stops the source."""
        self.problem = ""
        """Reason why the tables file cannot be used; "" while it can."""
        self.logged: dict[int, str] = {}
        """Kind of a table's rows -> the table's name, for tables whose rows the event log shows.

        Former tables stay here, as their rows may still be removed.
        """
        self._add_logged()
        self._note_definitions()

    @property
    def kinds(self) -> tuple[TableKind, ...]:
        """The tables declared now."""
        return tuple(self._kinds.values())

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of tables that have one of their own. Any thread may ask."""
        return tuple(source for source, _ in list(self._sources.values()))

    @property
    def metadata_kinds(self) -> set[int]:
        """Kinds of the METADATA rows of all declared tables."""
        return {table_kinds(kind.feeds)[2] for kind in self._kinds.values()}

    def accepts(self, event: TableEvent) -> bool:
        """Whether the event comes from the table as it is declared now, not from a source that is being stopped."""
        return self._kinds.get(event.kind.name) is event.kind

    def start(self) -> None:
        """Start the sources of the tables that have one of their own."""
        for kind in self._kinds.values():
            self._start(kind)

    def stop(self) -> None:
        """Make all tables' sources end soon. Does not wait."""
        for _, stop in self._sources.values():
            stop.set()

    def declare(self, declared: TablesDeclared) -> list[Announcement]:
        """Apply a changed tables file, or log why it cannot be used. Returns the announcements of objects that go."""
        if declared.problem and declared.problem != self.problem:
            served = ", ".join(sorted(kind.name for kind in declared.kinds)) or "none"
            _log.error("%s; these tables are served meanwhile: %s", declared.problem, served)
        self.problem = declared.problem
        if set(declared.kinds) == set(self._kinds.values()):
            return []
        if self._follow is None:
            return self.switch(declared.kinds)
        self._follow(declared.kinds)
        return []

    def switch(self, kinds: Sequence[TableKind]) -> list[Announcement]:
        """Replace the declared tables by these. A kind that is the same object as before is not touched.

        Returns the announcements of objects whose tables are gone, or made anew.
        """
        before, self._kinds = self._kinds, {kind.name: kind for kind in kinds}
        self._add_logged()
        self._note_definitions()
        announcements = self._index.declare(kinds)
        for name, former in before.items():
            if self._kinds.get(name) is not former:
                self._drop(former, replaced=name in self._kinds)
        if self._checkpoint is not None:
            self._checkpoint.left_out = secret_kinds(kinds)
        for name, kind in self._kinds.items():
            if before.get(name) is not kind:
                self._pending.declare(kind, before.get(name))
                self._start(kind)
        return announcements

    def _note_definitions(self) -> None:
        """Publish the definitions, for a later watcher of the area that cannot use the tables file."""
        definitions = {kind.name: kind.definition for kind in self._kinds.values()}
        self._pending.set_definitions(encode(definitions) if definitions else None)

    def _start(self, kind: TableKind) -> None:
        if self._open_source is None or kind.name in self._sources:
            return
        source, stop = self._open_source(kind), threading.Event()
        self._sources[kind.name] = source, stop
        target = partial(source.run, _TableSink(self._put, kind), stop)
        self._threads.start(f"source {kind.name}", target, restartable=False)

    def _drop(self, kind: TableKind, *, replaced: bool) -> None:
        if kind.name in self._sources:
            self._sources.pop(kind.name)[1].set()
            self._threads.release(f"source {kind.name}")
        self._states.drop(kind.name, keep_contact=replaced)
        if self._metadata is not None:
            self._metadata.drop(kind.row_kinds)
        if not replaced:
            self._pending.remove(kind)
        _log.info("table %s is %s", kind.name, "declared anew" if replaced else "declared no more")

    def _add_logged(self) -> None:
        kinds = self._kinds.values()
        self.logged.update((kind.feeds, kind.name) for kind in kinds if kind.definition.secrets != "allowed")


class _TableSink:
    """Sink for the source of a single table: marks each event with the table."""

    def __init__(self, put: Callable[[TableEvent], None], kind: TableKind) -> None:
        self._put = put
        self._kind = kind

    def put(self, event: Event) -> None:
        self._put(TableEvent(self._kind, event))


def secret_kinds(kinds: Iterable[TableKind]) -> frozenset[int]:
    """Return the kinds of rows of tables that may hold Secrets, which must never be written to disk."""
    return frozenset(number for kind in kinds if kind.definition.secrets == "allowed" for number in kind.row_kinds)
