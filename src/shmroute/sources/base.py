"""The contract between a source and its owner: the events a source sends, in order, and the state of the source.

A source runs in its own thread and puts events into a `Sink`, one at a time (helper threads of the source may put
some). It never waits for what the owner does with them. Contract:

* `Replaced` carries a *complete* list. It is sent only after the last page (or the bookmark that ends a
  streaming list) has arrived. Objects missing from it no longer exist.
* `Changed` and `Deleted` are applied in the order in which they are sent.
* `SourceState` may come at any time and says nothing about objects.
* `Resync` asks the owner to pass every cached object to the handlers again. It is local and costs no request.
* `FileProblem` says that a file of manifests cannot be used, and later that the problem is over.
* `Following` says that the source follows other kinds from now on.
* `AuditResult` reports what a comparison with the server found; a repair, if needed, follows as `Replaced`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item, WatchedKind
from shmroute.sources.threads import ThreadStatus

Resource: TypeAlias = str
"""The `name` of a `WatchedKind`."""
Phase: TypeAlias = Literal["starting", "listing", "watching", "backing-off", "stopped"]


class Replaced(msgspec.Struct, frozen=True):
    """The complete state of one resource as this source sees it."""

    resource: Resource
    items: tuple[Item, ...]
    received_ns: int = 0
    """Monotonic time at which the last byte arrived, in nanoseconds."""


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
    """Asks the owner to pass every cached object of the resource to the handlers again."""

    resource: Resource


class SourceState(msgspec.Struct, frozen=True):
    """State of the source for one resource.

    It carries two times of the monotonic clock, in nanoseconds. `contact_ns`: the last answer of the watch or of the
    server's cache; while it is recent, changes arrive. `confirmed_ns`: the last answer of the storage to a quorum read;
    while it is recent, the server has not gone back in time and sees the cluster's newest state.
    """

    resource: Resource
    phase: Phase
    contact_ns: int
    reason: str = ""
    """Reason why the source is not watching, for people; "" while it watches."""
    restarts: int = 0
    lists: int = 0
    backoff_seconds: float = 0.0
    confirmed_ns: int = 0
    """See above; 0 before the first confirmation, and if probes are off."""
    missing: bool = False
    """Whether the API server does not serve the resource: its definition is deleted, being deleted or not installed."""


class AuditResult(msgspec.Struct, frozen=True):
    """Result of comparing a fresh list of the server with the objects that the source has sent."""

    resource: Resource
    checked: int
    """Number of objects in the fresh list."""
    differences: int
    """Number of objects that stayed missing, surplus or of another version: this must be 0."""
    keys: tuple[ObjectKey, ...] = ()
    """Keys of the first few differing objects."""
    seconds: float = 0.0
    error: str = ""
    """Reason why the audit could not be completed; `differences` then has no meaning."""


class FileProblem(msgspec.Struct, frozen=True):
    """A file of manifests that cannot be used, wholly or in part: an `InvalidRow` of kind "File" under its path.

    Sent when the problem begins, when `reason` changes, and with `reason` None once the problem is over.
    """

    path: str
    reason: str | None
    last_good: bool = False
    """Whether objects that the file held before it broke are still served."""


class Following(msgspec.Struct, frozen=True):
    """A `ManyKinds` source reports on these kinds from here on. A `Replaced` of each new one follows."""

    kinds: tuple[WatchedKind, ...]


Event: TypeAlias = Replaced | Changed | Deleted | Resync | SourceState | AuditResult | FileProblem | Following


class Sink(Protocol):
    """Takes events from a source's thread; never blocks."""

    def put(self, event: Event) -> None: ...


@runtime_checkable
class ServerSource(Protocol):
    """A source that follows a server, by helper threads of its own."""

    @property
    def restarts(self) -> Mapping[str, int]:
        """Number of restarts of lists and watches, by reason."""

    def threads(self) -> tuple[ThreadStatus, ...]: ...

    def audit_now(self) -> None:
        """Compare with the server; an `AuditResult` follows. Any thread."""


class Source(Protocol):
    """Follows one or more kinds of objects. `run` returns soon (well under 1 s) after `stop` is set."""

    kinds: tuple[WatchedKind, ...]

    def run(self, sink: Sink, stop: threading.Event) -> None: ...


@runtime_checkable
class ManyKinds(Protocol):
    """A source of all kinds of one place, which may be given other kinds while it runs."""

    def follow(self, kinds: tuple[WatchedKind, ...]) -> None:
        """Follow these kinds; `Following` says from where on. Any thread; never waits."""
