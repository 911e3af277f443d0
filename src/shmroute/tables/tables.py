"""`Index`: events in, changed rows and announcements out.

Owned by one thread. The rules it keeps:

* *Conflicts.* Of the AppModels of one namespace that claim a model the oldest wins (`claims.precedence`); the losers
  are listed, in the order in which they would take over, and the first of them does so the moment the winner lets go.
  The same rule, over the namespaces' winners, says which one the model's row leads with.
* *Invalid objects.* An invalid AppModel is listed with its reason. The last valid state of that object, if there is
  one, stays in force until the object is valid again or gone; a complete list that holds it invalid does not end that.
  Files that a folder source has set aside are listed as it says.
* *No change.* What leaves a row's bytes as they were is not given out.

The rows are a function of the objects as they are now, of the last valid state of those that are invalid, and of which
Services have been emptied (`endpoints.Endpoints`); the order in which events came does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from shmroute.resources.objects import AppModel, EndpointSlice, InvalidAppModel, ObjectKey
from shmroute.rows import InvalidRow, Kind, RowKey, encode
from shmroute.sources.base import Changed, Deleted, Event, FileProblem, Item, Replaced, Resync
from shmroute.tables.endpoints import Endpoints
from shmroute.tables.handler import Announcement
from shmroute.tables.models import Routes

__all__ = ["Index"]

_INVALID = int(Kind.INVALID)  # plain, as in `shmroute.tables.models`


class Index:
    """AppModels and EndpointSlices by what they say, and the rows made of them.

    Args:
        default_port: name or number of an app's port where its AppModel names none; "" for none.
    """

    def __init__(self, default_port: str = "") -> None:
        self._in_force: dict[ObjectKey, AppModel] = {}
        self._set_aside: dict[ObjectKey, None] = {}
        self._invalid: dict[str, bytes] = {}
        self._invalid_before: dict[str, bytes | None] = {}
        self._routes = Routes()
        self._endpoints = Endpoints(self._in_force, default_port)

    # --- counts --------------------------------------------------------------------------------------------

    @property
    def model_count(self) -> int:
        """MODEL rows."""
        return self._routes.model_count

    @property
    def app_count(self) -> int:
        """APP rows."""
        return self._routes.app_count

    @property
    def conflict_count(self) -> int:
        """CONFLICT rows."""
        return self._routes.conflict_count

    @property
    def invalid_count(self) -> int:
        """INVALID rows, as of the last `take_changes`."""
        return len(self._invalid) + self._endpoints.problem_count

    # --- events in -----------------------------------------------------------------------------------------

    def apply(self, event: Event) -> list[Announcement]:
        """Take one event. Returns what handlers are owed, in an order that only depends on the events."""
        announcements = self._apply(event)
        self._endpoints.settle()
        return announcements

    def _apply(self, event: Event) -> list[Announcement]:
        match event:
            case Replaced(resource="appmodels"):
                return self._replace_appmodels(event.items)
            case Replaced(resource="endpointslices"):
                self._endpoints.replace_all(item for item in event.items if isinstance(item, EndpointSlice))
            case Changed(item=EndpointSlice() as item):
                self._endpoints.put(item)
            case Changed(item=AppModel() | InvalidAppModel() as item):
                return _owed(self._put(item))
            case Deleted(resource="appmodels"):
                return _owed(self._remove(event.key))
            case Deleted(resource="endpointslices"):
                self._endpoints.remove(event.key)
            case Resync(resource="appmodels"):
                return [Announcement("update", appmodel, appmodel) for appmodel in self._in_force.values()]
            case FileProblem():
                self._file_problem(event)
            case _:
                pass  # no handler is told of slices, and how a source stands changes no row
        return []

    def _replace_appmodels(self, items: tuple[Item, ...]) -> list[Announcement]:
        latest = {item.key: item for item in items if not isinstance(item, EndpointSlice)}
        announcements = [self._put(item) for item in latest.values()]
        gone = [key for key in dict.fromkeys(chain(self._in_force, self._set_aside)) if key not in latest]
        announcements += [self._remove(key) for key in gone]
        return [announcement for announcement in announcements if announcement is not None]

    def _put(self, item: AppModel | InvalidAppModel) -> Announcement | None:
        key = item.key
        old = self._in_force.get(key)
        if isinstance(item, InvalidAppModel):
            row = InvalidRow("AppModel", key.namespace, key.name, item.reason, last_good=old is not None)
            self._set_aside[key] = None
            self._set_invalid(_appmodel_key(key), encode(row))
            return None
        self._mend(key)
        if old is not None and _same(old, item):
            return None
        self._exchange(key, old, item)
        return Announcement("add" if old is None else "update", old, item)

    def _remove(self, key: ObjectKey) -> Announcement | None:
        self._mend(key)
        old = self._in_force.get(key)
        if old is None:
            return None
        self._exchange(key, old, None)
        return Announcement("delete", old, None)

    def _exchange(self, key: ObjectKey, old: AppModel | None, new: AppModel | None) -> None:
        if new is None:
            del self._in_force[key]
        else:
            self._in_force[key] = new
        self._routes.replace(old, new)
        self._endpoints.replace(old, new)

    def _mend(self, key: ObjectKey) -> None:
        if key in self._set_aside:
            del self._set_aside[key]
            self._set_invalid(_appmodel_key(key), None)

    def _file_problem(self, event: FileProblem) -> None:
        path, row = _readable(event.path), None
        if event.reason is not None:
            row = encode(InvalidRow("File", "", path, _readable(event.reason), event.last_good))
        self._set_invalid(path, row)

    def _set_invalid(self, key: str, row: bytes | None) -> None:
        before = self._invalid.get(key)
        if before == row:
            return
        self._invalid_before.setdefault(key, before)
        if row is None:
            del self._invalid[key]
        else:
            self._invalid[key] = row

    # --- rows out ------------------------------------------------------------------------------------------

    def take_changes(self) -> dict[RowKey, bytes | None]:
        """Every row that differs from what it was at the last call; None for a row that is gone.

        Costs what has changed since then, not what exists.
        """
        return dict(chain(self._routes.take_changes(), self._endpoints.take_changes(), self._take_invalid()))

    def _take_invalid(self) -> Iterator[tuple[RowKey, bytes | None]]:
        touched, self._invalid_before = self._invalid_before, {}
        for key, before in touched.items():
            row = self._invalid.get(key)
            if row != before:
                yield (_INVALID, key), row

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """The complete table as it is now, whether or not the changes have been taken. Apply nothing meanwhile."""
        yield from self._routes.rows()
        yield from self._endpoints.rows()
        for key, row in self._invalid.items():
            yield (_INVALID, key), row


def _owed(announcement: Announcement | None) -> list[Announcement]:
    return [] if announcement is None else [announcement]


def _readable(text: str) -> str:
    """A file's name need not be text, and a row must be: what UTF-8 cannot hold is written out."""
    return text.encode(errors="backslashreplace").decode()


def _appmodel_key(key: ObjectKey) -> str:
    return f"AppModel {key}"


def _same(old: AppModel, new: AppModel) -> bool:
    """Whether two states of one object differ in nothing that anyone is told of."""
    return (
        old.version == new.version
        and old.app == new.app
        and old.models == new.models
        and old.service == new.service
        and old.port == new.port
        and old.created == new.created
    )
