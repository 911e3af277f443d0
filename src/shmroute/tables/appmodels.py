"""The AppModels by key: which are valid, which are listed as invalid, and what handlers are called with.

Used by `shmroute.tables.tables` only. `models` and `endpoints` make rows of the AppModels that are kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, Item
from shmroute.rows import InvalidRow, RowKey, encode
from shmroute.tables.endpoints import Endpoints
from shmroute.tables.handler import Announcement
from shmroute.tables.models import Routes
from shmroute.tables.table import RowChanges

__all__ = ["AppModels"]


class AppModels:
    """A `Table` of AppModels.

    Args:
        valid: filled with the AppModels that are served, by key.
        invalid: gets a row for each AppModel that breaks a rule.
        endpoints: told of each AppModel that comes, changes or goes.
    """

    def __init__(self, valid: dict[ObjectKey, AppModel], invalid: RowChanges, endpoints: Endpoints) -> None:
        self.routes = Routes()
        self._valid = valid
        self._set_aside: dict[ObjectKey, None] = {}
        self._invalid = invalid
        self._endpoints = endpoints

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """`items` is every AppModel there is."""
        latest = {item.key: item for item in items}
        announcements = [self._put(item) for item in latest.values()]
        gone = [key for key in dict.fromkeys(chain(self._valid, self._set_aside)) if key not in latest]
        announcements += [self._remove(key) for key in gone]
        self._endpoints.settle()
        return [announcement for announcement in announcements if announcement is not None]

    def put(self, item: Item) -> list[Announcement]:
        """An AppModel was added or changed."""
        announcement = self._put(item)
        self._endpoints.settle()
        return [] if announcement is None else [announcement]

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """An AppModel is gone."""
        announcement = self._remove(key)
        self._endpoints.settle()
        return [] if announcement is None else [announcement]

    def resync(self) -> list[Announcement]:
        """Every valid AppModel as an update from itself to itself."""
        return [Announcement("update", appmodel, appmodel) for appmodel in self._valid.values()]

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """See `Table`."""
        return self.routes.take_changes()

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """See `Table`."""
        return self.routes.rows()

    def _put(self, item: Item) -> Announcement | None:
        key = item.key
        old = self._valid.get(key)
        if isinstance(item, InvalidAppModel):
            row = InvalidRow(APPMODELS.kind, key.namespace, key.name, item.reason, last_good=old is not None)
            self._set_aside[key] = None
            self._invalid.set(_row_key(key), encode(row))
            return None
        assert isinstance(item, AppModel)  # noqa: S101 - the kind's parser returns nothing else
        self._mend(key)
        if not item.created and old is not None and not old.created and old.first_seen:
            # Another source object, the same AppModel: its age stays, also over a restart of the watcher.
            item = msgspec.structs.replace(item, first_seen=old.first_seen)
        if old is not None and _same(old, item):
            return None
        self._exchange(key, old, item)
        return Announcement("add" if old is None else "update", old, item)

    def _remove(self, key: ObjectKey) -> Announcement | None:
        self._mend(key)
        old = self._valid.get(key)
        if old is None:
            return None
        self._exchange(key, old, None)
        return Announcement("delete", old, None)

    def _exchange(self, key: ObjectKey, old: AppModel | None, new: AppModel | None) -> None:
        if new is None:
            del self._valid[key]
        else:
            self._valid[key] = new
        self.routes.replace(old, new)
        self._endpoints.replace(old, new)

    def _mend(self, key: ObjectKey) -> None:
        if key in self._set_aside:
            del self._set_aside[key]
            self._invalid.set(_row_key(key), None)


def _row_key(key: ObjectKey) -> str:
    return f"{APPMODELS.kind} {key}"


def _same(old: AppModel, new: AppModel) -> bool:
    """Whether two states of one AppModel differ in nothing but the resourceVersion: no handler is called then."""
    return msgspec.structs.replace(old, resource_version=new.resource_version) == new
