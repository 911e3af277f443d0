"""`Handler`: what the watcher calls when an AppModel comes, changes or goes.

    class Mirror:
        def on_add(self, appmodel: AppModel) -> None: ...
        def on_update(self, old: AppModel, new: AppModel) -> None: ...
        def on_delete(self, appmodel: AppModel) -> None: ...

Who calls, and when:

* The watcher calls it, in the watcher's process, in a thread that belongs to this handler: never two calls at once,
  never in the thread that follows the cluster. A handler may block. What changes meanwhile waits; an object that
  changes several times before its turn is announced once, with the state last announced as `old` and the newest as
  `new`.
* Only valid states are announced. While an object is invalid its last valid state is served, and nothing is called;
  deleting it then announces that last valid state.
* An object changes when its app, versions, models, Service, port or creation time change. Labels, managedFields and
  the resourceVersion do not count.
* An AppModel is announced whether or not another one wins its models: which one serves a model is decided for routes.
* At every resync (300 s by default), `on_update(x, x)` is called for every valid AppModel, with the same object twice.
  So `on_update` must be cheap, or harmless, for what it has seen before.

If a handler raises, the exception is logged and counted; other handlers and objects are not affected. A failed `on_add`
or `on_update` is repaired by the next resync's `on_update(x, x)`. A failed `on_delete` does not come again, since the
object is no longer there to be handed out: a handler that must not miss one catches the error and retries.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from shmroute.resources.appmodel import AppModel

__all__ = ["Announcement", "Handler"]


class Handler(Protocol):
    """Called by the watcher for every valid AppModel; the module says when and where."""

    def on_add(self, appmodel: AppModel) -> None:
        """A valid AppModel that was not there before."""

    def on_update(self, old: AppModel, new: AppModel) -> None:
        """An AppModel changed, or, where `old` is `new`, is handed out again by a resync."""

    def on_delete(self, appmodel: AppModel) -> None:
        """An AppModel is gone, or no longer selected; `appmodel` is its last valid state."""


class Announcement(msgspec.Struct, frozen=True, gc=False):
    """One call to make to each handler. `old` is None for "add", `new` for "delete"."""

    kind: Literal["add", "update", "delete"]
    old: AppModel | None
    new: AppModel | None
