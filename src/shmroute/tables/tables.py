"""`Index`: takes events, returns changed rows and announcements.

Owned by one thread. Its rules:

* *Conflicts.* If several AppModels of one namespace claim the same model, the oldest wins (`conflicts.Claim`).
  The losers are listed in the order in which they would take over; the first one does so as soon as the winner
  drops the model. The same rule, applied to the namespaces' winners, chooses the first route of the model's row.
* *Invalid objects.* An invalid object is listed with its reason. Its last valid state, if there is one, is served until
  the object is valid again or deleted, even if a complete list contains the invalid object. Unusable files of a folder
  source are listed with the source's reason.
* *No change.* Rows whose bytes are unchanged are not returned, except APP rows of several AppModels: comparing them
  would cost more than the publisher's own comparison.

The rows depend on the current objects, on the last valid state of the invalid ones, and on the Services that have lost
their last slice (`endpoints.Endpoints`). The order of the events does not matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from shmroute.resources.appmodel import AppModel
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, BUILT_IN, ENDPOINTSLICES, WatchedKind
from shmroute.resources.table import TableKind
from shmroute.rows import InvalidRow, Kind, RowKey, encode
from shmroute.sources.base import Changed, Deleted, Event, FileProblem, Replaced, Resync
from shmroute.tables.appmodels import AppModels
from shmroute.tables.declared import DeclaredTable
from shmroute.tables.endpoints import Endpoints
from shmroute.tables.handler import Announcement
from shmroute.tables.merge_slices import EndpointRules
from shmroute.tables.problems import Problems
from shmroute.tables.shares import Crowded, Room
from shmroute.tables.table import RowChanges, Table, WantedMetadata


class Index:
    """The tables of all watched kinds.

    Args:
        rules: how endpoints are made from slices.
        kinds: the watched kinds; each declared one feeds a table of its own.
        room: what one namespace may take.
        handled: names of the declared tables whose objects are announced.
    """

    def __init__(
        self,
        rules: EndpointRules | None = None,
        kinds: Iterable[WatchedKind] = BUILT_IN,
        room: Room | None = None,
        handled: Collection[str] = (),
    ) -> None:
        self._room = room = room or Room()
        self._problems = Problems()
        valid: dict[ObjectKey, AppModel] = {}
        self._endpoints = Endpoints(valid, self._problems, rules or EndpointRules(), room.endpoints)
        self._appmodels = AppModels(valid, self._problems, self._endpoints, room.routes)
        self._tables: dict[str, Table] = {APPMODELS.name: self._appmodels, ENDPOINTSLICES.name: self._endpoints}
        self._conflicts = RowChanges(int(Kind.CONFLICT))
        self._directory = RowChanges(int(Kind.TABLES))
        self._handled = frozenset(handled)
        self._declared: dict[str, DeclaredTable] = {}
        self.declare(kind for kind in kinds if isinstance(kind, TableKind))

    def declare(self, kinds: Iterable[TableKind]) -> list[Announcement]:
        """Replace the declared tables by these. A table whose kind is the same object as before is not touched.

        Returns the announcements of objects whose tables are gone or were replaced.
        """
        announcements: list[Announcement] = []
        wanted = {kind.name: kind for kind in kinds}
        for name, table in list(self._declared.items()):
            if wanted.get(name) is not table.kind:
                announcements += table.close()
                del self._declared[name], self._tables[name]
        for name, kind in wanted.items():
            if name not in self._declared:
                self._declared[name] = self._tables[name] = DeclaredTable(
                    kind,
                    self._problems,
                    self._conflicts,
                    self._directory,
                    share=self._room.table,
                    announces=name in self._handled,
                )
        return announcements

    # --- metadata of declared tables ----------------------------------------------------------------------

    def take_metadata(self) -> Iterator[tuple[RowKey, WantedMetadata | None]]:
        """Yield the metadata that rows of declared tables want, where it has changed; see `DeclaredTable`."""
        for table in self._declared.values():
            yield from table.take_metadata()

    def metadata(self) -> Iterator[tuple[RowKey, WantedMetadata]]:
        """Yield the metadata that rows of declared tables want."""
        for table in self._declared.values():
            yield from table.metadata()

    # --- counts --------------------------------------------------------------------------------------------

    @property
    def model_count(self) -> int:
        """Number of MODEL rows."""
        return self._appmodels.routes.model_count

    @property
    def app_count(self) -> int:
        """Number of APP rows."""
        return self._appmodels.routes.app_count

    def object_of(self, table: str, row_key: str) -> ObjectKey | None:
        """Return the object that a row of a declared table is made from; None if there is none. Any thread may ask."""
        declared = self._declared.get(table)
        return declared.object_of(row_key) if declared is not None else None

    @property
    def table_row_count(self) -> int:
        """Number of rows of the declared tables."""
        return sum(table.row_count for table in self._declared.values())

    @property
    def conflict_count(self) -> int:
        """Number of CONFLICT rows."""
        return self._appmodels.routes.conflict_count + len(self._conflicts)

    @property
    def full_tables(self) -> tuple[str, ...]:
        """Declared tables with objects beyond their limits: a sentence for each."""
        return tuple(table.full for table in self._declared.values() if table.full)

    @property
    def invalid_count(self) -> int:
        """Number of set-aside objects at the last `take_changes`; the INVALID rows list a limited number of them."""
        return len(self._problems) + self._appmodels.routes.shortened_count

    @property
    def crowded(self) -> list[Crowded]:
        """The namespaces that have objects set aside for lack of room, as of the last `take_changes`."""
        tables = [("routes", self._appmodels.shares), ("endpoints", self._endpoints.shares)]
        tables += [(f"table {name}", table.shares) for name, table in self._declared.items()]
        return [Crowded(namespace, what, n) for what, shares in tables for namespace, n in shares.crowded]

    # --- events in -----------------------------------------------------------------------------------------

    def apply(self, event: Event) -> list[Announcement]:
        """Apply one event. Return the calls to make to handlers, in an order that depends only on the events."""
        match event:
            case Replaced():
                return self._tables[event.resource].replace_all(event.items)
            case Changed():
                return self._tables[event.resource].put(event.item)
            case Deleted():
                return self._tables[event.resource].remove(event.key)
            case Resync():
                return self._tables[event.resource].resync()
            case FileProblem():
                self._file_problem(event)
            case _:
                pass  # the state of a source changes no row
        return []

    def _file_problem(self, event: FileProblem) -> None:
        path, row = _readable(event.path), None
        if event.reason is not None:
            row = encode(InvalidRow("File", "", path, _readable(event.reason), event.last_good))
        self._problems.set("", path, row)

    # --- rows out ------------------------------------------------------------------------------------------

    def take_changes(self) -> dict[RowKey, bytes | None]:
        """Return every row that has changed since the last call; None for a removed row.

        The cost depends on the number of changes, not on the number of rows.
        """
        tables = (table.take_changes() for table in self._tables.values())
        shared = (rows.take_changes() for rows in (self._problems, self._conflicts, self._directory))
        return dict(chain(*tables, *shared))

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Yield all current rows, whether or not their changes have been taken. Apply no event meanwhile."""
        for table in self._tables.values():
            yield from table.rows()
        for rows in (self._problems, self._conflicts, self._directory):
            yield from rows.rows()


def _readable(text: str) -> str:
    """Return `text` in a form that UTF-8 can hold: a file's name may be any bytes, and a row must be text."""
    return text.encode(errors="backslashreplace").decode()
