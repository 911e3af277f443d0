"""JSON as the Go server writes it: key order, HTML escapes, the newline at the end.

Custom resources are maps to the server and leave it with sorted keys. Built-in kinds are structs
and leave it in the order of their declaration, fields the server does not know being dropped.
Knows nothing about HTTP or storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

Object: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class MapOf:
    """A map with free keys whose values all have one order."""

    order: Any


#: None: a free-form value, keys sorted. A mapping: a struct's fields, in order. MapOf: see there.
Order: TypeAlias = "Mapping[str, Any] | MapOf | None"


def arrange(value: Any, order: Order) -> Any:
    """Return a copy of value with its keys in the order in which the server writes them."""
    if isinstance(value, list):
        return [arrange(each, order) for each in value]
    if not isinstance(value, dict):
        return value
    if order is None:
        return {key: arrange(value[key], None) for key in sorted(value)}
    if isinstance(order, MapOf):
        return {key: arrange(value[key], order.order) for key in sorted(value)}
    return {key: arrange(value[key], sub) for key, sub in order.items() if key in value}


def dumps(value: Any) -> bytes:
    """Compact JSON, keys in the order given, with Go's HTML escapes."""
    return _escape(msgspec.json.encode(value))


def dumps_sorted(value: Any) -> bytes:
    """Compact JSON, keys sorted, with Go's HTML escapes."""
    return _escape(msgspec.json.encode(value, order="sorted"))


def loads(data: bytes) -> Any:
    return msgspec.json.decode(data)


def _escape(raw: bytes) -> bytes:
    # The three characters occur in JSON only inside strings, so a blind replacement is right.
    if b"&" in raw:
        raw = raw.replace(b"&", b"\\u0026")
    if b"<" in raw:
        raw = raw.replace(b"<", b"\\u003c")
    if b">" in raw:
        raw = raw.replace(b">", b"\\u003e")
    return raw
