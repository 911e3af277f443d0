"""The only list of watched kinds: the API path, the parser and the table of each.

Sources, tables and the watcher take all facts about a kind from here, so that a further kind needs only one
`WatchedKind`. Kinds that a user declares get the same form at run time. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from shmroute.resources import appmodel, appmodel_rules, endpointslice
from shmroute.resources.key import DEFAULT_NAMESPACE, Body, ObjectKey
from shmroute.rows import FIRST_TABLE_NUMBER, Kind, table_kinds

API_SERVER_GROUPS = frozenset(
    {
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "internal.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
        "storagemigration.k8s.io",
    }
)
"""Groups with a dot that kube-apiserver serves itself (`kubectl api-versions` of 1.36)."""


class Item(Protocol):
    """One object as a value, valid or not: a frozen `msgspec.Struct` with at least these two fields."""

    @property
    def key(self) -> ObjectKey: ...

    @property
    def resource_version(self) -> str: ...


class Parser(Protocol):
    """Parses one object from its JSON.

    `default_namespace` is used if `metadata.namespace` is missing. Returns None for an object that is not used;
    a source that has sent the object before then reports it as deleted.

    Raises:
        InvalidObject: the object has no usable name, or breaks the schema of its kind.
        msgspec.DecodeError: the bytes are not JSON. That is a damaged stream, not a bad object.
    """

    def __call__(self, body: Body, *, default_namespace: str) -> Item | None: ...


class WatchedKind(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One kind of objects to watch. Compared by identity."""

    name: str
    """Its name in events, status and metrics; unique within one watcher."""
    group: str
    """API group; "" for the core group, whose path is /api instead of /apis."""
    version: str
    plural: str
    kind: str
    """The `kind` of its objects, as in a manifest."""
    parse: Parser
    namespaced: bool = True
    namespaces: tuple[str, ...] = ()
    """The namespaces whose objects count, ("*",) for all; none given leaves that to the watcher."""
    selector: str = ""
    """Label selector used in a cluster unless the user gives another one; "" selects all."""
    field_selector: str = ""
    """Field selector; "" selects all."""
    labelled: bool = False
    """Whether the user's `--selector` applies to this kind, in a cluster and in a folder."""
    feeds: int
    """Kind of the rows that are made from its objects (`shmroute.rows.Kind`, or the number of a table). This number
    also identifies the table that makes them."""
    required: bool = True
    """Whether the first snapshot waits for its complete list without a time limit."""
    awaited: bool = True
    """Whether the first snapshot waits for its complete list at all, and routes count as old while it is out of step.
    A declared table has its own age."""
    unused_because: Callable[[Mapping[str, Any]], str] = lambda manifest: "not used"  # noqa: ARG005
    """Returns why `parse` returned None for a manifest, in words."""

    @property
    def full_name(self) -> str:
        """The resource's name in RBAC rules and in the API server's messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects, as in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def may_have_definition(self) -> bool:
        """Whether a CustomResourceDefinition may define it, whose deletion takes all objects away.

        The group of a definition must have a dot.
        """
        return "." in self.group and self.group not in API_SERVER_GROUPS

    @property
    def api_path(self) -> tuple[str, ...]:
        """The segments of the API path before the namespace and the plural."""
        return ("apis", self.group, self.version) if self.group else ("api", self.version)

    def is_kind(self, kind: str, api_version: str) -> bool:
        """Return whether a manifest with this `kind` and `apiVersion` is an object of this kind.

        A declared table of custom resources takes any version of their group, as an API server shows an object in each
        served version. Without a server no conversion webhook can run; `apiVersion` is all that changes then, which is
        what the conversion strategy None does.
        """
        if self.feeds >= FIRST_TABLE_NUMBER and "." in self.group:
            group, _, version = api_version.rpartition("/")
            served = group == self.group and bool(version)
        else:
            served = api_version == self.api_version
        return served and self.is_named(kind)

    def is_named(self, kind: str) -> bool:
        """Return whether `kind` is what manifests call its objects; the guess is as good as the plural is regular."""
        return kind == self.kind if self.kind else _plural(kind) == self.plural

    @property
    def row_kinds(self) -> tuple[int, ...]:
        """Kinds of the rows that only its objects make: a declared table has several."""
        return (self.feeds,) if self.feeds < FIRST_TABLE_NUMBER else table_kinds(self.feeds)

    @property
    def default_namespace(self) -> str:
        """Namespace of an object that names none; "" for a cluster-scoped kind."""
        return DEFAULT_NAMESPACE if self.namespaced else ""


def _plural(kind: str) -> str:
    """Return the plural of a kind, as guessed by kubectl (`UnsafeGuessKindToResource`)."""
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
    # Slices of any Service: a Service need not carry the AppModels' label.
    selector=endpointslice.SERVICE_NAME_LABEL,
    feeds=int(Kind.ENDPOINTS),
    # Routes are useful without endpoints, for instance if the right to list EndpointSlices is missing.
    required=False,
    unused_because=endpointslice.unused_because,
)

BUILT_IN = (APPMODELS, ENDPOINTSLICES)
"""The kinds that every watcher can follow without a declaration."""
