"""What a source says to its owner: events, in order, and the state of the source itself.

A source runs in a thread of its own and hands events to a `Sink`, one at a time (though helpers of the
source may do it from threads of theirs); it never waits for what the owner does with them. Contract:

* `Replaced` carries a *complete* list. It is sent only when the last page (or the bookmark that ends a
  streaming list) has come; what it does not hold has vanished.
* `Changed` and `Deleted` are applied in the order in which they are sent.
* `SourceState` may come at any time and says nothing about objects.
* `Resync` asks the owner to hand every cached object to the handlers again. It is local and costs no request.
* `FileProblem` says that a file of manifests was set aside, and later that it is no longer so.
* `AuditResult` tells what a comparison with the server found; a repair, where one is due, follows as `Replaced`.
"""

from __future__ import annotations

import threading
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item, WatchedKind

__all__ = [
    "AuditResult",
    "Audited",
    "Changed",
    "Deleted",
    "Event",
    "FileProblem",
    "Phase",
    "Replaced",
    "Resource",
    "Resync",
    "Sink",
    "Source",
    "SourceState",
]

Resource: TypeAlias = str
"""The `name` of a `WatchedKind`."""
Phase: TypeAlias = Literal["starting", "listing", "watching", "backing-off", "stopped"]


class Replaced(msgspec.Struct, frozen=True):
    """The complete state of one resource as this source sees it."""

    resource: Resource
    items: tuple[Item, ...]
    received_ns: int = 0
    """Monotonic clock when the last byte arrived."""


class Changed(msgspec.Struct, frozen=True):
    """An object was added or modified."""

    resource: Resource
    item: Item
    received_ns: int = 0


class Deleted(msgspec.Struct, frozen=True):
    """An object is gone, or no longer matches the selector."""

    resource: Resource
    key: ObjectKey
    received_ns: int = 0


class Resync(msgspec.Struct, frozen=True):
    """Hand every cached object of the resource to the handlers again."""

    resource: Resource


class SourceState(msgspec.Struct, frozen=True):
    """How the source stands.

    Two ages come of it, both on the monotonic clock. `contact_ns` is when the watch or the server's cache last
    answered: while it is young, changes arrive. `confirmed_ns` is when the storage last answered a quorum read: while
    it is young, the server has not gone back in time and sees the cluster's newest state.
    """

    resource: Resource
    phase: Phase
    contact_ns: int
    reason: str = ""
    """Why it is not watching, in plain words; "" while it is."""
    restarts: int = 0
    lists: int = 0
    backoff_seconds: float = 0.0
    confirmed_ns: int = 0
    """0 before the first confirmation, and where probes are off."""


class AuditResult(msgspec.Struct, frozen=True):
    """What a fresh list of the server showed beside what the source had handed out."""

    resource: Resource
    checked: int
    """Objects in the fresh list."""
    differences: int
    """Objects that were missing, too many or of another version, and stayed so: this must read 0."""
    keys: tuple[ObjectKey, ...] = ()
    """The first few of them."""
    seconds: float = 0.0
    error: str = ""
    """Why the audit could not be completed; `differences` then says nothing."""


class FileProblem(msgspec.Struct, frozen=True):
    """A file of manifests, or a part of it, that was set aside: an `InvalidRow` of kind "File" under its path.

    Sent when it begins, when its words change, and with `reason` None once it is over.
    """

    path: str
    reason: str | None
    last_good: bool = False
    """Whether objects that the file held before it broke are still served."""


Event: TypeAlias = Replaced | Changed | Deleted | Resync | SourceState | AuditResult | FileProblem


class Sink(Protocol):
    """Takes events from a source's thread; never blocks."""

    def put(self, event: Event) -> None: ...


@runtime_checkable
class Audited(Protocol):
    """A source that can be asked to compare itself with its server; an `AuditResult` follows."""

    def audit_now(self) -> None: ...


class Source(Protocol):
    """One or more kinds of objects of one place. `run` returns soon (well under 1 s) after `stop` is set."""

    kinds: tuple[WatchedKind, ...]

    def run(self, sink: Sink, stop: threading.Event) -> None: ...
