"""The key of an object within its resource, and safe decoding of JSON. Pure: no I/O, no clock.

Used by the parsers of each kind and by the sources. Never imported by a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias, TypeVar

import msgspec

from shmroute.errors import InvalidObject
from shmroute.resources.appmodel_rules import is_key_part, key_problems

DEFAULT_NAMESPACE = "default"
"""Namespace of a manifest that names none, as with `kubectl apply`."""

Body: TypeAlias = bytes | bytearray | memoryview | msgspec.Raw
"""One object as JSON."""

_REPORTED_PROBLEMS = 3
"""Maximum number of problems in the reason of one invalid object: enough to act on, in a readable line."""

_Decoded = TypeVar("_Decoded")


# gc=False: a key holds only strings, so it cannot be part of a reference cycle. Without a million keys to track, full
# collections stay short. The same is true for the objects' values in the other modules of this package.
class ObjectKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """An object's identity within its resource. `namespace` is "" for an object of a cluster-scoped kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class _Metadata(msgspec.Struct, gc=False):
    name: str
    namespace: str | None = None


class _Object(msgspec.Struct, gc=False):
    metadata: _Metadata


_decoder = msgspec.json.Decoder(_Object)


def parse_key(body: Body, *, default_namespace: str = DEFAULT_NAMESPACE) -> ObjectKey:
    """Return the key of any object.

    `default_namespace` is used if `metadata.namespace` is missing; it is "" for cluster-scoped kinds.

    Raises:
        InvalidObject: the object has no usable name.
        msgspec.DecodeError: the bytes are not JSON. That is a damaged stream, not a bad object.
    """
    try:
        metadata = decode(_decoder.decode, body).metadata
    except msgspec.ValidationError as error:
        decode(msgspec.json.decode, body)
        raise InvalidObject("object without a usable name", str(error)) from error
    return make_key("object", metadata.name, metadata.namespace or default_namespace)


def make_key(kind: str, name: str, namespace: str) -> ObjectKey:
    """Return the key of an object of `kind`. Raises `InvalidObject` if name or namespace cannot be part of a key."""
    if not is_key_part(name) or (namespace and not is_key_part(namespace)):
        problems = key_problems({"name": name, "namespace": namespace})
        raise InvalidObject(f"{kind} without a usable name", in_words(problems))
    return ObjectKey(namespace, name)


def decode(decoder: Callable[[Body], _Decoded], body: Body) -> _Decoded:
    """Return `decoder(body)`; raise `msgspec.DecodeError` for every sign that the bytes are not JSON."""
    try:
        return decoder(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def in_words(problems: Iterator[str]) -> str:
    """Return the first few problems as one line."""
    named = list(islice(problems, _REPORTED_PROBLEMS))
    more = "; and more" if next(problems, None) is not None else ""
    return "; ".join(named) + more
