"""AppModels as values: which fields matter, and how they are read from JSON. Pure: no I/O, no clock.

Made by the sources, read by the tables and by handlers. Never imported by a worker.

`parse_appmodel` has one fast path: a typed decode that skips the fields nobody reads (managedFields are most of an
object's bytes). Only where that fails is the object decoded again, slowly, to find the reason in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, TypeAlias

import msgspec

from shmroute.resources.appmodel_rules import (
    KIND,
    MAX_MODEL_NAMES_BYTES,
    MAX_MODELS,
    MAX_NAME_CHARACTERS,
    PORT_ANNOTATION,
    SERVICE_ANNOTATION,
    manifest_problems,
    models_problems,
    object_problems,
    port_problem,
    service_problem,
)
from shmroute.resources.key import DEFAULT_NAMESPACE, Body, ObjectKey, decode, in_words, make_key, parse_key

__all__ = [
    "PORT_ANNOTATION",
    "SERVICE_ANNOTATION",
    "AppModel",
    "InvalidAppModel",
    "ModelVersion",
    "find_problems",
    "parse_appmodel",
]

_REPORTED_PROBLEMS = 100
"""Most problems named of a manifest to apply: a list of 10,000 plain strings is one mistake, not 10,000."""

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]


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
    first_seen: str = ""
    """When a watcher first saw an AppModel that has no `created` (in a folder), RFC 3339 in UTC; else ""."""
    deleting: str = ""
    """`metadata.deletionTimestamp`, RFC 3339 in UTC; "" unless it is being deleted. It is served until it is gone."""


class InvalidAppModel(msgspec.Struct, frozen=True, gc=False):
    """An AppModel that breaks a rule: listed with its reason; its last valid state is still served."""

    key: ObjectKey
    resource_version: str
    reason: str


# The part of the wire format that is read.
class _Annotations(msgspec.Struct, gc=False):
    service: str | None = msgspec.field(default=None, name=SERVICE_ANNOTATION)
    port: str | None = msgspec.field(default=None, name=PORT_ANNOTATION)


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str
    namespace: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    resource_version: str | None = None
    annotations: _Annotations | None = None


class _Spec(msgspec.Struct, gc=False):
    app: _Name
    version: _Name
    models: Annotated[tuple[ModelVersion, ...], msgspec.Meta(min_length=1, max_length=MAX_MODELS)]


class _WireAppModel(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec


_decoder = msgspec.json.Decoder(_WireAppModel)
# Decimal keeps a number as it was written, for the message, and has no range to fall out of.
_any_decoder = msgspec.json.Decoder(Any, float_hook=Decimal)


def parse_appmodel(body: Body, *, default_namespace: str = DEFAULT_NAMESPACE) -> AppModel | InvalidAppModel:
    """One AppModel from its JSON.

    `default_namespace` is taken where `metadata.namespace` is missing, as in a folder's manifests.
    Raises `InvalidObject` where there is no name to list it under, and `msgspec.DecodeError` where the bytes
    are no JSON at all: that is a damaged stream, not a bad object.
    """
    try:
        wire = decode(_decoder.decode, body)
    except msgspec.ValidationError as error:
        return _invalid_appmodel(body, default_namespace, str(error))
    metadata, spec = wire.metadata, wire.spec
    key = make_key(KIND, metadata.name, metadata.namespace or default_namespace)
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
        deleting=metadata.deletion_timestamp or "",
    )


def find_problems(manifest: Body | Mapping[str, Any]) -> list[str]:
    """Everything that speaks against applying an AppModel's manifest, in words; [] if nothing does.

    Stricter than `parse_appmodel`, as the API server is: undeclared fields count, and names that Kubernetes
    does not allow. Never raises; at most 100 problems are told.
    """
    decoded: object = manifest
    if not isinstance(manifest, Mapping):
        try:
            decoded = decode(_any_decoder.decode, manifest)
        except msgspec.DecodeError as error:
            return [f"the manifest is no JSON: {error}"]
    return list(islice(manifest_problems(decoded), _REPORTED_PROBLEMS))


def _invalid_appmodel(body: Body, default_namespace: str, otherwise: str) -> InvalidAppModel:
    """The slow, second look. `otherwise` is the reason where the rules find none."""
    key = parse_key(body, default_namespace=default_namespace)
    manifest: Any = decode(_any_decoder.decode, body)
    resource_version = manifest["metadata"].get("resourceVersion")
    return InvalidAppModel(
        key=key,
        resource_version=resource_version if isinstance(resource_version, str) else "",
        reason=in_words(object_problems(manifest)) or otherwise,
    )
