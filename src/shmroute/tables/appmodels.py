"""The AppModels by key: those that are served, those that are set aside with the reason, and the calls to handlers.

Used only by `shmroute.tables.tables`. `models` and `endpoints` make rows of the AppModels kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import msgspec

from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, Item
from shmroute.rows import InvalidRow, RowKey, encode
from shmroute.tables.conflicts import claim_of
from shmroute.tables.endpoints import Endpoints
from shmroute.tables.handler import Announcement
from shmroute.tables.models import Routes
from shmroute.tables.problems import Problems
from shmroute.tables.shares import Share, Shares


class AppModels:
    """A `Table` of AppModels.

    Args:
        valid: filled with the served AppModels, by key.
        problems: gets a row for each AppModel that breaks a rule or has no room.
        endpoints: called for each AppModel that is added, changed or removed.
        share: the limit for one namespace's AppModels; None: no limit.
    """

    def __init__(
        self, valid: dict[ObjectKey, AppModel], problems: Problems, endpoints: Endpoints, share: Share | None = None
    ) -> None:
        self.routes = Routes()
        self.shares = Shares(share)
        self._valid = valid
        self._set_aside: dict[ObjectKey, str] = {}
        """The reason of each invalid AppModel. Its last valid state may be in `valid` or `no_room`."""
        self._no_room: dict[ObjectKey, bytes] = {}
        """Valid AppModels that do not fit into their namespace's share, packed to an eighth of the memory."""
        self._arrived: dict[ObjectKey, AppModel] = {}
        """Valid AppModels of the current event."""
        self._problems = problems
        self._endpoints = endpoints

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """Replace all AppModels by `items`."""
        latest = {item.key: item for item in items}
        for item in latest.values():
            self._put(item)
        known = dict.fromkeys(chain(self._valid, self._set_aside, self._no_room))
        gone = [self._remove(key) for key in known if key not in latest]
        return self._settle(gone)

    def put(self, item: Item) -> list[Announcement]:
        """Add or change an AppModel."""
        self._put(item)
        return self._settle()

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """Remove an AppModel."""
        return self._settle([self._remove(key)])

    def resync(self) -> list[Announcement]:
        """Return, for every valid AppModel, an update from itself to itself."""
        return [Announcement("update", appmodel, appmodel) for appmodel in self._valid.values()]

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """See `Table`."""
        return self.routes.take_changes()

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """See `Table`."""
        return self.routes.rows()

    def _put(self, item: Item) -> None:
        key = item.key
        if isinstance(item, InvalidAppModel):
            self._set_aside[key] = item.reason
            self._show_problem(key)
            return
        assert isinstance(item, AppModel)  # noqa: S101 - the kind's parser returns nothing else
        self._mend(key)
        old = self._known(key)
        if not item.created and old is not None and not old.created and old.first_seen:
            # The source has seen the same AppModel again: it keeps its age, also over a restart of the watcher.
            item = msgspec.structs.replace(item, first_seen=old.first_seen)
        if self.shares.limit is not None:
            self.shares.put(key.namespace, key, claim_of(item).rank, _weight(item))
        self._arrived[key] = item

    def _remove(self, key: ObjectKey) -> Announcement | None:
        self._mend(key)
        self.shares.remove(key.namespace, key)
        self._found_room(key)
        return self._exchange(key, None)

    def _known(self, key: ObjectKey) -> AppModel | None:
        """Return the last valid state of an AppModel, served or not."""
        packed = self._no_room.get(key)
        return _unpack(packed) if packed is not None else self._valid.get(key)

    def _settle(self, more: Iterable[Announcement | None] = ()) -> list[Announcement]:
        """End an event: serve the AppModels that fit, set the others aside."""
        moved = dict(self.shares.settle())
        announcements = []
        for key in dict.fromkeys(chain(self._arrived, moved)):
            item = self._arrived.get(key) or self._known(key)
            assert item is not None  # noqa: S101 - every key in `moved` belongs to a known AppModel
            if moved.get(key, key not in self._no_room):
                self._found_room(key)
                announcements.append(self._exchange(key, item))
            else:
                self._no_room[key] = _pack(item)
                reason = self.shares.reason(key.namespace, "routes")
                row = InvalidRow(APPMODELS.kind, key.namespace, key.name, reason, last_good=False)
                self._problems.set(key.namespace, _room_key(key), encode(row))
                announcements.append(self._exchange(key, None))
            if key in self._set_aside:
                self._show_problem(key)
        self._arrived.clear()
        self._endpoints.settle()
        return [announcement for announcement in chain(announcements, more) if announcement is not None]

    def _exchange(self, key: ObjectKey, new: AppModel | None) -> Announcement | None:
        """Serve `new` from now on; None: serve nothing for `key`."""
        old = self._valid.get(key)
        if old is new or (old is not None and new is not None and _same(old, new)):
            return None
        if new is None:
            del self._valid[key]
        else:
            self._valid[key] = new
        self.routes.replace(old, new)
        self._endpoints.replace(old, new)
        return Announcement("delete" if new is None else "add" if old is None else "update", old, new)

    def _show_problem(self, key: ObjectKey) -> None:
        row = InvalidRow(APPMODELS.kind, key.namespace, key.name, self._set_aside[key], last_good=key in self._valid)
        self._problems.set(key.namespace, _row_key(key), encode(row))

    def _mend(self, key: ObjectKey) -> None:
        if self._set_aside.pop(key, None) is not None:
            self._problems.set(key.namespace, _row_key(key), None)

    def _found_room(self, key: ObjectKey) -> None:
        if self._no_room.pop(key, None) is not None:
            self._problems.set(key.namespace, _room_key(key), None)


def _row_key(key: ObjectKey) -> str:
    return f"{APPMODELS.kind} {key}"


def _room_key(key: ObjectKey) -> str:
    return f"{APPMODELS.kind} {key} without room"


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(AppModel).decode

_MODEL_ROW_BYTES: Final = 72
"""Bytes of a model's rows in addition to its names: the record's head, slots, and the fields' framing."""

_OBJECT_ROWS_BYTES: Final = 512
"""Bytes of an AppModel's own rows: its part of the APP row, its address row without addresses, its reasons."""


def _weight(item: AppModel) -> Share:
    """Return the size of an AppModel for its share: never less than the rows it makes."""
    names = len("".join([model.name for model in item.models]).encode())
    versions = len("".join([model.version for model in item.models]).encode())
    # Each model's row names the app, its version, the namespace and the AppModel; a CONFLICT row names the AppModel
    # again. A name is key and value of the model's row, and in the APP row; a version is in two of them.
    common = len(f"{item.app}{item.version}{item.key.namespace}{item.key.name}{item.key.name}".encode())
    count = len(item.models)
    size = _OBJECT_ROWS_BYTES + 4 * common + count * (_MODEL_ROW_BYTES + common) + 3 * names + 2 * versions
    return Share(1, count, size)


def _same(old: AppModel, new: AppModel) -> bool:
    """Return whether two states of one AppModel differ only in the resourceVersion: no handler is called then."""
    return msgspec.structs.replace(old, resource_version=new.resource_version) == new
