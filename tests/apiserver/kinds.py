"""The kinds the server knows: names, scope, and how their objects are laid out on the wire.

Built-in kinds are defined here; a custom kind comes from its CustomResourceDefinition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .encoding import MapOf, Object, Order, arrange, dumps, dumps_sorted
from .status import qualified

#: Lists whose elements are owned one by one: by the keys named, or by value where none is named.
Associative = Mapping[tuple[str, ...], tuple[str, ...]]

METADATA_LISTS: Associative = {
    ("f:metadata", "f:finalizers"): (),
    ("f:metadata", "f:ownerReferences"): ("uid",),
}


@dataclass(frozen=True)
class Kind:
    """One kind of object. `empty` holds the fields that even an empty object of it shows."""

    group: str
    version: str
    plural: str
    kind: str
    list_kind: str
    namespaced: bool = True
    custom: bool = False
    order: Order = None
    empty: Object = field(default_factory=dict)
    associative: Associative = field(default_factory=lambda: METADATA_LISTS)
    schema: Object | None = None
    generations: bool = True
    #: Whether objects can be selected by fields of their own, too: the server refuses other fields in other words then.
    own_fields: bool = False
    #: A custom kind's served versions -> schema; its objects are stored in `version`.
    versions: Mapping[str, Object | None] | None = None

    @cached_property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        return qualified(self.group, self.plural)

    @property
    def served(self) -> list[str]:
        """The served versions, the preferred one first: here the names' order is that of their stability."""
        return [self.version] if self.versions is None else sorted(self.versions)

    def in_version(self, version: str) -> Kind:
        """Return the kind as another served version has it."""
        if version == self.version or self.versions is None:
            return self
        return replace(self, version=version, schema=self.versions[version])

    def encode(self, obj: Object) -> bytes:
        """Return an object as an element of a list: built-in kinds leave out apiVersion and kind."""
        return dumps_sorted(obj) if self.custom else dumps(arrange(obj, self.order))

    def whole(self, element: bytes) -> bytes:
        """Return the object by itself, made from its form in a list."""
        if self.custom:
            return element
        head = f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'
        return head.encode() + element[1:]

    def bookmark(self, revision: int, annotations: Object | None = None) -> bytes:
        metadata: Object = {"resourceVersion": str(revision)}
        if annotations:
            metadata["annotations"] = annotations
        if self.custom:
            obj = {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}
            return dumps_sorted(obj)
        return self.whole(dumps({"metadata": metadata, **self.empty}))


_MANAGED_FIELDS = dict.fromkeys(("manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"))

_METADATA: Order = {
    "name": None,
    "generateName": None,
    "namespace": None,
    "uid": None,
    "resourceVersion": None,
    "generation": None,
    "creationTimestamp": None,
    "deletionTimestamp": None,
    "deletionGracePeriodSeconds": None,
    "labels": None,
    "annotations": None,
    "ownerReferences": dict.fromkeys(("apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion")),
    "finalizers": None,
    "managedFields": _MANAGED_FIELDS,
}

_OBJECT_REFERENCE = dict.fromkeys(("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"))

ENDPOINT_SLICES = Kind(
    group="discovery.k8s.io",
    version="v1",
    plural="endpointslices",
    kind="EndpointSlice",
    list_kind="EndpointSliceList",
    order={
        "metadata": _METADATA,
        "addressType": None,
        "endpoints": {
            "addresses": None,
            "conditions": dict.fromkeys(("ready", "serving", "terminating")),
            "hostname": None,
            "targetRef": _OBJECT_REFERENCE,
            "deprecatedTopology": None,
            "nodeName": None,
            "zone": None,
            "hints": {"forZones": {"name": None}, "forNodes": {"name": None}},
        },
        "ports": dict.fromkeys(("name", "protocol", "port", "appProtocol")),
    },
    empty={"addressType": "", "endpoints": None, "ports": None},
)

SERVICES = Kind(
    group="",
    version="v1",
    plural="services",
    kind="Service",
    list_kind="ServiceList",
    own_fields=True,
    order={
        "metadata": _METADATA,
        "spec": {
            "ports": dict.fromkeys(("name", "protocol", "appProtocol", "port", "targetPort", "nodePort")),
            "selector": None,
            "clusterIP": None,
            "clusterIPs": None,
            "type": None,
            "externalIPs": None,
            "sessionAffinity": None,
            "externalName": None,
            "publishNotReadyAddresses": None,
            "ipFamilies": None,
            "ipFamilyPolicy": None,
            "internalTrafficPolicy": None,
            "trafficDistribution": None,
        },
        "status": {"loadBalancer": None, "conditions": None},
    },
    empty={"spec": {}, "status": {"loadBalancer": {}}},
    generations=False,
    associative={**METADATA_LISTS, ("f:spec", "f:ports"): ("port", "protocol")},
)


CONFIG_MAPS = Kind(
    group="",
    version="v1",
    plural="configmaps",
    kind="ConfigMap",
    list_kind="ConfigMapList",
    order={"data": None, "binaryData": None, "immutable": None, "metadata": _METADATA},
    generations=False,
)


def _schema_order() -> Order:
    order: dict[str, Any] = dict.fromkeys(
        (
            *("id", "$schema", "$ref", "description", "type", "format", "title", "default"),
            *("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength"),
            *("minLength", "pattern", "maxItems", "minItems", "uniqueItems", "multipleOf"),
            *("enum", "maxProperties", "minProperties", "required", "items", "allOf", "oneOf"),
            *("anyOf", "not", "properties", "additionalProperties", "nullable"),
            *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"),
            *("x-kubernetes-int-or-string", "x-kubernetes-list-map-keys"),
            *("x-kubernetes-list-type", "x-kubernetes-map-type", "x-kubernetes-validations"),
        )
    )
    for name in ("items", "allOf", "oneOf", "anyOf", "not", "additionalProperties"):
        order[name] = order
    order["properties"] = MapOf(order)
    return order


_CRD_NAMES = dict.fromkeys(("plural", "singular", "shortNames", "kind", "listKind", "categories"))

CUSTOM_RESOURCE_DEFINITIONS = Kind(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    list_kind="CustomResourceDefinitionList",
    namespaced=False,
    order={
        "metadata": _METADATA,
        "spec": {
            "group": None,
            "names": _CRD_NAMES,
            "scope": None,
            "versions": {
                "name": None,
                "served": None,
                "storage": None,
                "deprecated": None,
                "schema": {"openAPIV3Schema": _schema_order()},
                "subresources": None,
                "additionalPrinterColumns": dict.fromkeys(
                    ("name", "type", "format", "description", "priority", "jsonPath")
                ),
                "selectableFields": None,
            },
            "conversion": dict.fromkeys(("strategy", "webhook")),
            "preserveUnknownFields": None,
        },
        "status": {
            "conditions": dict.fromkeys(("type", "status", "lastTransitionTime", "reason", "message")),
            "acceptedNames": _CRD_NAMES,
            "storedVersions": None,
        },
    },
    empty={
        "spec": {
            "group": "",
            "names": {"plural": "", "kind": ""},
            "scope": "",
            "versions": None,
        },
        "status": {
            "conditions": None,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": None,
        },
    },
    associative={**METADATA_LISTS, ("f:status", "f:conditions"): ("type",)},
)

BUILT_IN = (ENDPOINT_SLICES, SERVICES, CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS)


def kind_of_definition(definition: Object) -> Kind:
    """Return the kind that a CustomResourceDefinition declares, in its storage version."""
    spec = definition["spec"]
    names = spec["names"]
    schemas = {each["name"]: each.get("schema", {}).get("openAPIV3Schema") for each in spec["versions"]}
    stored = next(each["name"] for each in spec["versions"] if each.get("storage"))
    return Kind(
        group=spec["group"],
        version=stored,
        plural=names["plural"],
        kind=names["kind"],
        list_kind=names.get("listKind") or names["kind"] + "List",
        namespaced=spec.get("scope") == "Namespaced",
        custom=True,
        schema=schemas[stored],
        versions={each["name"]: schemas[each["name"]] for each in spec["versions"] if each.get("served")},
    )
