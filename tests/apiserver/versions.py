"""Objects of a kind in another served version than the stored one, as the conversion strategy None makes them.

It changes `apiVersion`, and drops the fields that the version's schema does not declare: a field that only one of the
versions declares is lost at a write in the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import schema
from .encoding import dumps_sorted, loads

if TYPE_CHECKING:
    from .kinds import Kind
    from .reply import Reply


def converted(obj: Any, before: Kind, after: Kind) -> Any:
    """Return an object, or a list of them, from one version into another; any other value is returned unchanged."""
    if not isinstance(obj, dict) or obj.get("apiVersion", before.api_version) != before.api_version:
        return obj
    if isinstance(items := obj.get("items"), list):
        obj = {**obj, "items": [converted(each, before, after) for each in items]}
    elif after.schema is not None:
        obj = schema.prune(after.schema, obj)[0]
    return {**obj, "apiVersion": after.api_version} if "apiVersion" in obj else obj


class InVersion:
    """A reply whose objects are shown in the version of the request."""

    def __init__(self, reply: Reply, kind: Kind, stored: Kind) -> None:
        self._reply = reply
        self._kind = kind
        self._stored = stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)

    def send(self, code: int, body: bytes, *rest: Any, **options: Any) -> None:
        self._reply.send(code, self._shown(body), *rest, **options)

    def send_lines(self, lines: list[bytes]) -> None:
        self._reply.send_lines([self._shown(line) for line in lines])

    def _shown(self, body: bytes) -> bytes:
        obj = loads(body)
        if isinstance(obj.get("object"), dict):
            obj["object"] = converted(obj["object"], self._stored, self._kind)
            return b'{"type":"%s","object":%s}\n' % (obj["type"].encode(), dumps_sorted(obj["object"]))
        return dumps_sorted(converted(obj, self._stored, self._kind)) + b"\n"
