"""What users can have called when an AppModel comes, changes or goes.

    class Mirror:
        def on_add(self, appmodel: AppModel) -> None: ...
        def on_update(self, old: AppModel, new: AppModel) -> None: ...
        def on_delete(self, appmodel: AppModel) -> None: ...

Who calls, and when:

* The watcher, in its own process, in one thread kept for handlers: never two calls at once, never in the thread that
  follows the cluster. A handler may block; what changes meanwhile waits, and an object that changes several times
  before its turn is announced once, with the state last announced as `old` and the newest as `new`.
* Only valid states are announced. While an object is invalid its last valid state stays in force, and nothing is
  called; deleting it then announces that last valid state.
* An object whose app, versions, models, Service, port and age stayed as they were has not changed, whatever else of it
  (labels, managedFields, resourceVersion) has.
* An AppModel is announced whether or not another one wins its models: which one serves a model is the routes' matter.
* At every resync (300 s by default), `on_update(x, x)` is called for every AppModel in force. So `on_update` must be
  cheap, or harmless, for what it has seen before.

What happens if a handler raises: the exception is logged and counted, other handlers and objects go on. A failed
`on_add` or `on_update` is made good by the next resync's `on_update(x, x)`. A failed `on_delete` does not come again,
as the object is no longer there to be handed out; who must not miss one catches the error and retries.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from shmroute.resources.appmodel import AppModel

__all__ = ["Announcement", "Handler"]


class Handler(Protocol):
    """Called by the watcher for every AppModel in force; the module says when and where."""

    def on_add(self, appmodel: AppModel) -> None:
        """A valid AppModel that was not there before."""

    def on_update(self, old: AppModel, new: AppModel) -> None:
        """An AppModel changed, or, where `old` is `new`, is handed out again by a resync."""

    def on_delete(self, appmodel: AppModel) -> None:
        """An AppModel is gone, or no longer selected; `appmodel` is its last valid state."""


class Announcement(msgspec.Struct, frozen=True, gc=False):
    """One call that handlers are owed. `old` is None for "add", `new` for "delete"."""

    kind: Literal["add", "update", "delete"]
    old: AppModel | None
    new: AppModel | None
