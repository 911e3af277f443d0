"""AppModels and EndpointSlices as values: what of an object matters, and how it is read from JSON.

Made by the sources, read by the index and the handlers. Pure: no I/O, no clock. Never imported by a worker.

Each parser has one fast path, a typed decode that skips the fields nobody needs (managedFields are most of
an object's bytes). Only where that fails is the object looked at again, slowly, to find the reason in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from shmroute.errors import InvalidObject
from shmroute.resources.appmodel_rules import (
    KIND,
    MAX_MODEL_NAMES_BYTES,
    MAX_MODELS,
    MAX_NAME_CHARACTERS,
    PORT_ANNOTATION,
    SERVICE_ANNOTATION,
    is_key_part,
    key_problems,
    manifest_problems,
    models_problems,
    object_problems,
    port_problem,
    service_problem,
)

__all__ = [
    "PORT_ANNOTATION",
    "SERVICE_ANNOTATION",
    "SERVICE_NAME_LABEL",
    "AppModel",
    "Body",
    "EndpointSlice",
    "InvalidAppModel",
    "ModelVersion",
    "ObjectKey",
    "SliceEndpoint",
    "SlicePort",
    "find_problems",
    "parse_appmodel",
    "parse_endpointslice",
    "parse_key",
]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

_REASON_PROBLEMS = 3  # of an invalid object: enough to act on, and a line that can be read
_REPORTED_PROBLEMS = 100  # of a manifest to apply: a list of 10,000 plain strings is one mistake, not 10,000

Body: TypeAlias = bytes | bytearray | memoryview | msgspec.Raw
"""One object as JSON."""

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]


# The values hold nothing but strings, numbers and each other, so no cycle is possible; a million of them
# outside the garbage collector's books keep its full collections short.
class ObjectKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """An object's identity within its resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ModelVersion(msgspec.Struct, frozen=True, gc=False):
    """One item of `spec.models`."""

    name: _Name
    version: _Name


class AppModel(msgspec.Struct, frozen=True, gc=False):
    """A valid AppModel. `created` is RFC 3339 in UTC (`metadata.creationTimestamp`), "" where unknown."""

    key: ObjectKey
    created: str
    resource_version: str
    app: str
    version: str
    models: tuple[ModelVersion, ...]
    service: ObjectKey
    """The app's Service: `metadata.name`, or the annotation `iidp.com/service` (`name` or `namespace/name`)."""
    port: str = ""
    """The annotation `iidp.com/port`: a port's name or number; "" leaves the choice to the rules."""


class InvalidAppModel(msgspec.Struct, frozen=True, gc=False):
    """An AppModel that breaks a rule: listed with its reason, its last valid state stays in force."""

    key: ObjectKey
    resource_version: str
    reason: str


class SlicePort(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One item of an EndpointSlice's `ports`; `name` is "" for the unnamed port."""

    name: str
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One address of an EndpointSlice with its conditions (an absent `ready` means ready, per the API)."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    zone: str = ""
    node: str = ""
    pod: str = ""
    hints: tuple[str, ...] = ()
    """The zones of `hints.forZones`."""


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice of a Service; `service` comes from the label `kubernetes.io/service-name`."""

    key: ObjectKey
    resource_version: str
    service: ObjectKey
    address_type: str
    """"IPv4" or "IPv6"."""
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]


# What is read of the wire's form.
class _Annotations(msgspec.Struct, gc=False):
    service: str | None = msgspec.field(default=None, name=SERVICE_ANNOTATION)
    port: str | None = msgspec.field(default=None, name=PORT_ANNOTATION)


class _Labels(msgspec.Struct, gc=False):
    service: str | None = msgspec.field(default=None, name=SERVICE_NAME_LABEL)


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str
    namespace: str | None = None
    creation_timestamp: str | None = None
    resource_version: str | None = None
    annotations: _Annotations | None = None


class _Spec(msgspec.Struct, gc=False):
    app: _Name
    version: _Name
    models: Annotated[tuple[ModelVersion, ...], msgspec.Meta(min_length=1, max_length=MAX_MODELS)]


class _WireAppModel(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec


class _SliceMetadata(msgspec.Struct, gc=False, rename="camel"):
    name: str
    namespace: str | None = None
    resource_version: str | None = None
    labels: _Labels | None = None


class _Conditions(msgspec.Struct, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct, gc=False):
    kind: str | None = None
    name: str | None = None


class _Zone(msgspec.Struct, gc=False):
    name: str


class _Hints(msgspec.Struct, gc=False, rename="camel"):
    for_zones: tuple[_Zone, ...] | None = None


class _WireEndpoint(msgspec.Struct, gc=False, rename="camel"):
    addresses: tuple[str, ...] | None = None
    conditions: _Conditions | None = None
    zone: str | None = None
    node_name: str | None = None
    target_ref: _Target | None = None
    hints: _Hints | None = None


class _WirePort(msgspec.Struct, gc=False):
    name: str | None = None
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] | None = None


class _WireSlice(msgspec.Struct, gc=False, rename="camel"):
    metadata: _SliceMetadata
    address_type: str = ""
    ports: tuple[_WirePort, ...] | None = None
    endpoints: tuple[_WireEndpoint, ...] | None = None


class _KeyMetadata(msgspec.Struct, gc=False):
    name: str
    namespace: str | None = None


class _WireKey(msgspec.Struct, gc=False):
    metadata: _KeyMetadata


_appmodel_decoder = msgspec.json.Decoder(_WireAppModel)
_slice_decoder = msgspec.json.Decoder(_WireSlice)
_key_decoder = msgspec.json.Decoder(_WireKey)
# Decimal keeps a number as it was written, for the message, and has no range to fall out of.
_any_decoder = msgspec.json.Decoder(Any, float_hook=Decimal)

_Decoded = TypeVar("_Decoded")


def parse_appmodel(body: Body, *, default_namespace: str = "default") -> AppModel | InvalidAppModel:
    """One AppModel from its JSON.

    `default_namespace` is taken where `metadata.namespace` is missing, as in a folder's manifests.
    Raises `InvalidObject` where there is no name to list it under, and `msgspec.DecodeError` where the bytes
    are no JSON at all: that is a damaged stream, not a bad object.
    """
    try:
        wire = _decode(_appmodel_decoder.decode, body)
    except msgspec.ValidationError as error:
        return _invalid_appmodel(body, default_namespace, str(error))
    metadata, spec = wire.metadata, wire.spec
    key = _key(KIND, metadata.name, metadata.namespace or default_namespace)
    models = spec.models
    names = {model.name for model in models}
    joined = "".join(names)
    annotations = metadata.annotations
    service, port = key, ""
    if annotations is not None:
        if annotations.service:
            if service_problem(annotations.service):
                return _invalid_appmodel(body, default_namespace, "")
            namespace, _, name = annotations.service.rpartition("/")
            service = ObjectKey(namespace or key.namespace, name)
        if annotations.port:
            if port_problem(annotations.port):
                return _invalid_appmodel(body, default_namespace, "")
            port = annotations.port
    if (
        len(names) != len(models)
        or "\0" in joined
        or "\0" in spec.app
        # The encoded size is looked at only where it can matter: UTF-8 takes 4 bytes a character at most.
        or (len(joined) * 4 > MAX_MODEL_NAMES_BYTES and any(models_problems(list(names))))
    ):
        return _invalid_appmodel(body, default_namespace, "")
    return AppModel(
        key,
        metadata.creation_timestamp or "",
        metadata.resource_version or "",
        spec.app,
        spec.version,
        models,
        service,
        port,
    )


def parse_endpointslice(body: Body, *, default_namespace: str = "default") -> EndpointSlice | None:
    """One EndpointSlice from its JSON; None if it is of no Service, or names hosts instead of addresses.

    None says "not one of ours (any more)": a source that had it before deletes it by `parse_key`.
    Raises `InvalidObject` for one that does not keep the API's schema, which an API server never sends, and
    `msgspec.DecodeError` where the bytes are no JSON at all.
    """
    try:
        wire = _decode(_slice_decoder.decode, body)
    except msgspec.ValidationError as error:
        key = parse_key(body, default_namespace=default_namespace)
        raise InvalidObject(f"EndpointSlice {key}", str(error)) from error
    metadata = wire.metadata
    key = _key("EndpointSlice", metadata.name, metadata.namespace or default_namespace)
    service = metadata.labels.service if metadata.labels is not None else None
    if not service or wire.address_type not in ("IPv4", "IPv6"):
        return None
    if not is_key_part(service):
        raise InvalidObject(f"EndpointSlice {key}", f"label {SERVICE_NAME_LABEL} is no Service's name")
    return EndpointSlice(
        key=key,
        resource_version=metadata.resource_version or "",
        service=ObjectKey(key.namespace, service),
        address_type=wire.address_type,
        # A port without a number stands for "whatever the consumer likes": there is nothing to dial.
        ports=tuple(SlicePort(port.name or "", port.port) for port in wire.ports or () if port.port),
        endpoints=tuple(
            # Only the first address has a meaning, says the API; kube-proxy looks at no other.
            _endpoint(endpoint.addresses[0], endpoint)
            for endpoint in wire.endpoints or ()
            if endpoint.addresses
        ),
    )


def parse_key(body: Body, *, default_namespace: str = "default") -> ObjectKey:
    """The identity of any namespaced object. Raises as `parse_appmodel` does."""
    try:
        metadata = _decode(_key_decoder.decode, body).metadata
    except msgspec.ValidationError as error:
        _decode(_any_decoder.decode, body)
        raise InvalidObject("object without a usable name", str(error)) from error
    return _key("object", metadata.name, metadata.namespace or default_namespace)


def find_problems(manifest: Body | Mapping[str, Any]) -> list[str]:
    """Everything that speaks against applying an AppModel's manifest, in words; [] if nothing does.

    Stricter than `parse_appmodel`, as the API server is: undeclared fields count, and names that Kubernetes
    does not allow. Never raises; at most 100 problems are told.
    """
    decoded: object = manifest
    if not isinstance(manifest, Mapping):
        try:
            decoded = _decode(_any_decoder.decode, manifest)
        except msgspec.DecodeError as error:
            return [f"the manifest is no JSON: {error}"]
    return list(islice(manifest_problems(decoded), _REPORTED_PROBLEMS))


def _decode(decode: Callable[[Body], _Decoded], body: Body) -> _Decoded:
    try:
        return decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def _key(kind: str, name: str, namespace: str) -> ObjectKey:
    if not is_key_part(name) or not is_key_part(namespace):
        problems = key_problems({"name": name, "namespace": namespace})
        raise InvalidObject(f"{kind} without a usable name", _words(problems))
    return ObjectKey(namespace, name)


def _invalid_appmodel(body: Body, default_namespace: str, otherwise: str) -> InvalidAppModel:
    """The slow, second look. `otherwise` is the reason where the rules find none."""
    key = parse_key(body, default_namespace=default_namespace)
    manifest: Any = _decode(_any_decoder.decode, body)
    resource_version = manifest["metadata"].get("resourceVersion")
    return InvalidAppModel(
        key=key,
        resource_version=resource_version if isinstance(resource_version, str) else "",
        reason=_words(object_problems(manifest)) or otherwise,
    )


def _words(problems: Iterator[str]) -> str:
    """The first few problems as one line."""
    told = list(islice(problems, _REASON_PROBLEMS))
    more = "; and more" if next(problems, None) is not None else ""
    return "; ".join(told) + more


def _endpoint(address: str, wire: _WireEndpoint) -> SliceEndpoint:
    conditions = wire.conditions or _NO_CONDITIONS
    ready = conditions.ready is not False
    target, hints = wire.target_ref, wire.hints
    return SliceEndpoint(
        address=address,
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=bool(conditions.terminating),
        zone=wire.zone or "",
        node=wire.node_name or "",
        pod=(target.name or "") if target is not None and target.kind == "Pod" else "",
        hints=tuple(zone.name for zone in hints.for_zones or ()) if hints is not None else (),
    )


_NO_CONDITIONS = _Conditions()
