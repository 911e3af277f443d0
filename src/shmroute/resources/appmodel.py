"""AppModels as values, and their parser from JSON. Pure: no I/O, no clock.

Made by the sources, read by the tables and by handlers. Never imported by a worker.

`parse_appmodel` has one fast path: a typed decode that skips unused fields (managedFields are most of an
object's bytes). Only if that fails is the object decoded again, slowly, to find the reason in words.
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

_REPORTED_PROBLEMS = 100
"""Maximum number of problems reported for one manifest: a list of 10,000 plain strings is one mistake, not 10,000."""

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class ModelVersion(msgspec.Struct, frozen=True, gc=False):
    """One item of `spec.models`."""

    name: _Name
    version: _Name


class AppModel(msgspec.Struct, frozen=True, gc=False):
    """A valid AppModel. `created` is RFC 3339 in UTC (`metadata.creationTimestamp`), "" if unknown."""

    key: ObjectKey
    created: str
    resource_version: str
    app: str
    version: str
    models: tuple[ModelVersion, ...]
    service: ObjectKey
    """The app's Service: `metadata.name`, or the annotation `iidp.com/service` (`name` or `namespace/name`)."""
    port: str = ""
    """The annotation `iidp.com/port`: a port's name or number; "" if the rules choose the port."""
    first_seen: str = ""
    """Time at which a watcher first saw an AppModel without `created` (in a folder), RFC 3339 in UTC; else ""."""
    deleting: str = ""
    """`metadata.deletionTimestamp`, RFC 3339 in UTC; "" unless it is being deleted. It is served until it is gone."""


class InvalidAppModel(msgspec.Struct, frozen=True, gc=False):
    """An AppModel that breaks a rule. It is listed with the reason; its last valid state is still served."""

    key: ObjectKey
    resource_version: str
    reason: str


# The fields of the wire format that are used.
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
# Decimal keeps a number as it was written, for the message, and accepts numbers of any size.
_any_decoder = msgspec.json.Decoder(Any, float_hook=Decimal)


def parse_appmodel(body: Body, *, default_namespace: str = DEFAULT_NAMESPACE) -> AppModel | InvalidAppModel:
    """Parse one AppModel from its JSON.

    `default_namespace` is used if `metadata.namespace` is missing, as in a folder's manifests.
    Raises `InvalidObject` if it has no name under which it can be listed, and `msgspec.DecodeError` if the bytes
    are not JSON: that is a damaged stream, not a bad object.
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
        # The encoded size is computed only if it can be too large: UTF-8 takes at most 4 bytes a character.
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
    """Return all problems of an AppModel's manifest, in words; [] if it can be applied.

    Stricter than `parse_appmodel`, like the API server: undeclared fields are problems, and names that Kubernetes
    does not allow. Never raises; reports at most 100 problems.
    """
    decoded: object = manifest
    if not isinstance(manifest, Mapping):
        try:
            decoded = decode(_any_decoder.decode, manifest)
        except msgspec.DecodeError as error:
            return [f"the manifest is not JSON: {error}"]
    return list(islice(manifest_problems(decoded), _REPORTED_PROBLEMS))


def _invalid_appmodel(body: Body, default_namespace: str, otherwise: str) -> InvalidAppModel:
    """Decode a second time, slowly, to find the reason. `otherwise` is the reason if the rules find none."""
    key = parse_key(body, default_namespace=default_namespace)
    manifest: Any = decode(_any_decoder.decode, body)
    resource_version = manifest["metadata"].get("resourceVersion")
    return InvalidAppModel(
        key=key,
        resource_version=resource_version if isinstance(resource_version, str) else "",
        reason=in_words(object_problems(manifest)) or otherwise,
    )
