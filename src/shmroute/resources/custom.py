"""Objects of any kind as values, for kinds that have no rules of their own. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import Any

import msgspec

from shmroute.errors import InvalidObject
from shmroute.resources.key import Body, ObjectKey, decode, make_key, parse_key

__all__ = ["CustomObject", "InvalidCustomObject", "parse_custom"]


class CustomObject(msgspec.Struct, frozen=True, gc=False):
    """An object, whole. `created` is RFC 3339 in UTC (`metadata.creationTimestamp`), "" where unknown."""

    key: ObjectKey
    created: str
    resource_version: str
    value: bytes
    """The object in msgpack, without `metadata.managedFields`."""
    first_seen: str = ""
    """When a watcher first saw an object that has no `created` (in a folder), RFC 3339 in UTC; else ""."""


class InvalidCustomObject(msgspec.Struct, frozen=True, gc=False):
    """An object that cannot be read: listed with its reason; its last valid state is still served."""

    key: ObjectKey
    resource_version: str
    reason: str


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str
    namespace: str | None = None
    creation_timestamp: str | None = None
    resource_version: str | None = None


_decoder = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.msgpack.Encoder().encode


def parse_custom(body: Body, *, default_namespace: str) -> CustomObject | InvalidCustomObject:
    """One object of any kind. Raises as `shmroute.resources.registry.Parser` says."""
    try:
        manifest = decode(_decoder.decode, body)
        metadata = msgspec.convert(manifest.get("metadata"), _Metadata)
    except msgspec.ValidationError as error:
        return InvalidCustomObject(parse_key(body, default_namespace=default_namespace), "", str(error))
    key = make_key("object", metadata.name, metadata.namespace or default_namespace)
    manifest["metadata"].pop("managedFields", None)
    try:
        value = _encode(manifest)
    except (OverflowError, ValueError) as error:
        raise InvalidObject(str(key), f"cannot be stored: {error}") from error
    return CustomObject(key, metadata.creation_timestamp or "", metadata.resource_version or "", value)
