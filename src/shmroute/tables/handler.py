"""`Handler`: called by the watcher when an AppModel is added, changed or deleted. `TableHandler`: the same for the
objects of one declared table.

    class Mirror:
        def on_add(self, appmodel: AppModel) -> None: ...
        def on_update(self, old: AppModel, new: AppModel) -> None: ...
        def on_delete(self, appmodel: AppModel) -> None: ...

When the calls are made:

* The watcher calls a handler in its own process, in a thread of this handler: never two calls at once,
  never in the thread that follows the cluster. A handler may block. Changes then wait; an object that
  changes several times before its turn is announced once, with the state last announced as `old` and the newest as
  `new`.
* Only valid states are announced. While an object is invalid, its last valid state is served and no call is made;
  when it is deleted, `on_delete` gets that last valid state.
* Changes of app, versions, models, Service, port or creation time count. Changes of labels, managedFields and
  the resourceVersion do not.
* An AppModel is announced even if another one wins its models: conflicts are decided only for routes.
* At every resync (300 s by default), `on_update(x, x)` is called for every valid AppModel, with the same object twice.
  So `on_update` must be cheap, or harmless, for a state it has seen before.

For objects of tables the same holds, with two differences. Every change of key, value, index or metadata version
counts. And an object beyond the table's limits is not announced; a table that is redefined or removed announces
its objects as gone.

If a handler raises, the exception is logged and counted; other handlers and objects are not affected. A failed `on_add`
or `on_update` is repaired by the next resync's `on_update(x, x)`. A failed `on_delete` is not repeated, since the
object no longer exists: a handler that must not miss one catches the error and retries.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from shmroute.resources.appmodel import AppModel
from shmroute.resources.table_parser import TableObject

__all__ = ["Announcement", "Handler", "TableHandler", "TableItem"]

_decode = msgspec.msgpack.Decoder().decode


class Handler(Protocol):
    """Called by the watcher for every valid AppModel; the module's docstring says when and where."""

    def on_add(self, appmodel: AppModel) -> None:
        """A new valid AppModel exists."""

    def on_update(self, old: AppModel, new: AppModel) -> None:
        """An AppModel has changed; or, if `old` is `new`, a resync announces it again."""

    def on_delete(self, appmodel: AppModel) -> None:
        """An AppModel was deleted, or is no longer selected; `appmodel` is its last valid state."""


class TableItem(msgspec.Struct, frozen=True):
    """One object of a declared table, as a handler gets it."""

    table: str
    key: str
    """Key of its row."""
    value: Any
    """Value of its row, of builtin types."""
    namespace: str
    """"" for a cluster-scoped object."""
    name: str
    created: str
    """`metadata.creationTimestamp`, RFC 3339 in UTC; "" where unknown."""

    @classmethod
    def of(cls, table: str, item: TableObject) -> TableItem:
        """Return the item of an object."""
        return cls(table, item.row_key, _decode(item.value), item.key.namespace, item.key.name, item.created)


class TableHandler(Protocol):
    """Called by the watcher for every valid object of one declared table; the module says when and where."""

    def on_add(self, item: TableItem) -> None:
        """A new valid object exists."""

    def on_update(self, old: TableItem, new: TableItem) -> None:
        """An object has changed; or, if `old` is `new`, a resync announces it again."""

    def on_delete(self, item: TableItem) -> None:
        """An object was deleted, or is no longer selected; `item` is its last valid state."""


class Announcement(msgspec.Struct, frozen=True, gc=False):
    """One call to make to each handler. `old` is None for "add", `new` for "delete"."""

    kind: Literal["add", "update", "delete"]
    old: AppModel | TableObject | None
    new: AppModel | TableObject | None
    table: str = ""
    """The declared table that the object belongs to; "" for AppModels."""
