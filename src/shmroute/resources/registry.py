"""The one list of watched kinds: where each lives in the API, how it is read, what it feeds.

Sources, tables and the watcher take what they need to know of a kind from here, so that a further kind is one
`WatchedKind`. Kinds that a user declares are made at run time in the same form. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from shmroute.resources import appmodel, appmodel_rules, endpointslice
from shmroute.resources.key import DEFAULT_NAMESPACE, Body, ObjectKey
from shmroute.rows import FIRST_TABLE_NUMBER, Kind

__all__ = ["APPMODELS", "BUILT_IN", "ENDPOINTSLICES", "Item", "Parser", "WatchedKind"]


class Item(Protocol):
    """One object as a value, valid or not: a frozen `msgspec.Struct` with at least these two fields."""

    @property
    def key(self) -> ObjectKey: ...

    @property
    def resource_version(self) -> str: ...


class Parser(Protocol):
    """Reads one object from its JSON.

    `default_namespace` is taken where `metadata.namespace` is missing. Returns None for an object that is not used;
    a source that had handed out the object before reports it as deleted.

    Raises:
        InvalidObject: the object has no usable name, or breaks the schema of its kind.
        msgspec.DecodeError: the bytes are not JSON. That is a damaged stream, not a bad object.
    """

    def __call__(self, body: Body, *, default_namespace: str) -> Item | None: ...


class WatchedKind(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One kind of objects to watch. Compared by identity."""

    name: str
    """What events, status and metrics call it; unique within one watcher."""
    group: str
    """API group; "" for the core group, which has the path /api instead of /apis."""
    version: str
    plural: str
    kind: str
    """The `kind` of its objects, as in a manifest."""
    parse: Parser
    namespaced: bool = True
    namespace: str = ""
    """The only namespace whose objects count, `*` for all; "" leaves that to the watcher."""
    selector: str = ""
    """Label selector used in a cluster unless the user gives another one; "" selects all."""
    labelled: bool = False
    """Whether the user's `--selector` is for this kind, in a cluster and in a folder."""
    feeds: int
    """Kind of the rows that are made from its objects (`shmroute.rows.Kind`, or the number of a table). The table
    that makes them is found by this number."""
    required: bool = True
    """Whether the first snapshot waits for its complete list without a time limit."""
    awaited: bool = True
    """Whether the first snapshot waits for its complete list at all, and routes count as old while it is out of step.
    A declared table has an age of its own."""
    unused_because: Callable[[Mapping[str, Any]], str] = lambda manifest: "not used"  # noqa: ARG005
    """Why `parse` returned None for a manifest, in words."""

    @property
    def full_name(self) -> str:
        """The resource as RBAC rules and the API server's own messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects, as in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def api_path(self) -> tuple[str, ...]:
        """The segments of the path in front of the namespace and the plural."""
        return ("apis", self.group, self.version) if self.group else ("api", self.version)

    def is_kind(self, kind: str, api_version: str) -> bool:
        """Whether a manifest of this `kind` and `apiVersion` is one of its objects."""
        return api_version == self.api_version and (kind == self.kind if self.kind else _plural(kind) == self.plural)

    @property
    def row_kinds(self) -> tuple[int, ...]:
        """Kinds of the rows that only its objects make: a declared table has those of its indexes, too."""
        return (self.feeds,) if self.feeds < FIRST_TABLE_NUMBER else (self.feeds, self.feeds + 1)

    @property
    def default_namespace(self) -> str:
        """Namespace of an object that names none: "" for a cluster-scoped kind."""
        return DEFAULT_NAMESPACE if self.namespaced else ""


def _plural(kind: str) -> str:
    """The plural of a kind, as kubectl guesses it (`UnsafeGuessKindToResource`)."""
    name = kind.lower()
    if name.endswith("s"):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


APPMODELS = WatchedKind(
    name="appmodels",
    group="iidp.com",
    version="v1",
    plural="appmodels",
    kind=appmodel_rules.KIND,
    parse=appmodel.parse_appmodel,
    selector="iidp=iidp",
    labelled=True,
    feeds=int(Kind.MODEL),
)

ENDPOINTSLICES = WatchedKind(
    name="endpointslices",
    group="discovery.k8s.io",
    version="v1",
    plural="endpointslices",
    kind=endpointslice.KIND,
    parse=endpointslice.parse_endpointslice,
    # Slices of any Service: whether a Service carries the AppModels' label is up to its owner.
    selector=endpointslice.SERVICE_NAME_LABEL,
    feeds=int(Kind.ENDPOINTS),
    # Routes are useful alone, for instance where the right to list EndpointSlices is missing.
    required=False,
    unused_because=endpointslice.unused_because,
)

BUILT_IN = (APPMODELS, ENDPOINTSLICES)
"""The kinds that every watcher can follow without a declaration."""
