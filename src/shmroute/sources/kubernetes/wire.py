"""Kubernetes' wire format: bytes in, values out. Pure: no I/O, no clock.

Called by the reflector, the probe and the audit. It decides what is garbage (`Garbled`: the stream is not to be
trusted from here on) and what is one bad object among good ones (`Skipped`: the stream goes on).
Only the few fields that matter are decoded; each kind's own rules are in `shmroute.resources`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from shmroute.errors import ApiError, InvalidObject, ShmrouteError
from shmroute.resources.key import ObjectKey

if TYPE_CHECKING:
    from shmroute.resources.registry import Item, WatchedKind

__all__ = [
    "Bookmark",
    "Garbled",
    "Lines",
    "Listed",
    "Page",
    "Removed",
    "Skipped",
    "WatchEvent",
    "decode_event",
    "decode_identities",
    "decode_object",
    "decode_page",
]

LINE_MAX_BYTES = 1 << 24
"""An API server takes objects of up to 3 MiB; a longer "line" than 16 MiB is no event."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"

SAID_CHARACTERS = 1_000
"""Of a server's own words in an event, which may fill a line."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoder raises for bytes that are no JSON; the last for brackets nested without end."""


class Garbled(ShmrouteError):
    """Bytes that no API server sends: what follows them on the same stream is not to be trusted."""


class Listed(msgspec.Struct, frozen=True, gc=False):
    """An object that is there: of a list, or of an ADDED or MODIFIED event.

    `item` is None where the object is not used (an EndpointSlice without a Service). No cycle is
    possible here, so a list of a million stays out of the garbage collector's books.
    """

    key: ObjectKey
    resource_version: str
    item: Item | None


class Removed(msgspec.Struct, frozen=True):
    """A DELETED event. `resource_version` is that of the deletion."""

    key: ObjectKey
    resource_version: str


class Bookmark(msgspec.Struct, frozen=True):
    """How far the stream has come. `initial_events_end`: everything that was there has now been sent."""

    resource_version: str
    initial_events_end: bool


class Skipped(msgspec.Struct, frozen=True):
    """An object that cannot be used at all. `key` is None where it does not even have a usable name."""

    reason: str
    key: ObjectKey | None = None
    resource_version: str = ""


WatchEvent: TypeAlias = Listed | Removed | Bookmark | Skipped


class Page(msgspec.Struct, frozen=True):
    """One page of a list, its objects still as they came, for `decode_object`.

    `next_page` is the token of the next one, "" on the last.
    """

    resource_version: str
    next_page: str
    objects: list[msgspec.Raw]


class Lines:
    """Cuts a stream of bytes into lines, wherever the bytes were cut on their way."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line ends. Raises `Garbled` on an endless line."""
        first, *rest = data.split(b"\n")
        if not rest:
            self._hold(first)
            return []
        self._parts.append(first)
        lines = [b"".join(self._parts), *rest[:-1]]
        self._parts, self._held = [], 0
        self._hold(rest[-1])
        return lines

    def end(self) -> None:
        """The stream is over. Raises `Garbled` where it ended within a line."""
        if self._held:
            raise Garbled(f"the stream ended within a line, after {self._held} bytes of it")

    def _hold(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._held += len(part)
        if self._held > LINE_MAX_BYTES:
            raise Garbled(f"a line of more than {LINE_MAX_BYTES} bytes")


class _Envelope(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Metadata(msgspec.Struct, gc=False):
    name: str
    resourceVersion: str = ""  # noqa: N815 - the wire's own name
    namespace: str = ""


class _Identity(msgspec.Struct, gc=False):
    metadata: _Metadata


class _BookmarkMetadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815
    annotations: dict[str, str] | None = None


class _BookmarkObject(msgspec.Struct):
    metadata: _BookmarkMetadata


class _Status(msgspec.Struct):
    code: int
    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


class _ListMetadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815
    next_page: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None


class _Identities(msgspec.Struct):
    metadata: _ListMetadata
    items: list[_Identity] | None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_identity = msgspec.json.Decoder(_Identity).decode
_decode_bookmark = msgspec.json.Decoder(_BookmarkObject).decode
_decode_status = msgspec.json.Decoder(_Status).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_identities = msgspec.json.Decoder(_Identities).decode


def decode_event(kind: WatchedKind, line: bytes, what: str) -> WatchEvent:
    """One line of a watch. Raises `ApiError` for an ERROR event (`what` names the request), else `Garbled`."""
    try:
        if not line.isascii():
            line.decode()  # what is skipped over below is not looked at by the decoder
        envelope = _decode_envelope(line)
        match envelope.type:
            case "ADDED" | "MODIFIED":
                return decode_object(kind, envelope.object)
            case "DELETED":
                return _removed(kind, envelope.object)
            case "BOOKMARK":
                return _bookmark(_decode_bookmark(envelope.object).metadata)
            case "ERROR":
                raise _failure(_decode_status(envelope.object), what)
            case other:
                raise Garbled(f"{what}: an event of the unknown type {other[:40]!r}")
    except _UNREADABLE as error:
        raise Garbled(f"{what}: a line of {len(line)} bytes that is no event: {error}") from error


def decode_page(body: bytes, what: str) -> Page:
    """One page of a list. Raises `Garbled` for anything else."""
    try:
        page = _decode_list(body)
    except _UNREADABLE as error:
        raise Garbled(f"{what}: {len(body)} bytes that are no list: {error}") from error
    return Page(page.metadata.resourceVersion, page.metadata.next_page, page.items or [])


def decode_object(kind: WatchedKind, raw: msgspec.Raw) -> Listed | Skipped:
    """One object. Raises `Garbled` where its bytes are no JSON: the stream is damaged, not the object."""
    try:
        item = kind.parse(raw, default_namespace=kind.default_namespace)
        if item is not None:
            return Listed(item.key, item.resource_version, item)
        metadata = _decode_identity(raw).metadata
    except (InvalidObject, msgspec.ValidationError) as error:
        return _skipped(kind, raw, str(error))
    except _UNREADABLE as error:
        raise Garbled(f"an object of {kind.full_name}: {error}") from error
    return Listed(_key(kind, metadata), metadata.resourceVersion, None)


def decode_identities(kind: WatchedKind, body: bytes, what: str) -> tuple[str, str, dict[ObjectKey, str]]:
    """Of one page of a list: its resourceVersion, the next page's token, each object's key and resourceVersion."""
    try:
        page = _decode_identities(body)
    except _UNREADABLE as error:
        raise Garbled(f"{what}: {len(body)} bytes that are no list: {error}") from error
    found = (each.metadata for each in page.items or ())
    versions = {_key(kind, each): each.resourceVersion for each in found}
    return page.metadata.resourceVersion, page.metadata.next_page, versions


def _key(kind: WatchedKind, metadata: _Metadata) -> ObjectKey:
    return ObjectKey(metadata.namespace or kind.default_namespace, metadata.name)


def _skipped(kind: WatchedKind, raw: msgspec.Raw, reason: str) -> Skipped:
    try:
        metadata = _decode_identity(raw).metadata
    except msgspec.ValidationError:
        return Skipped(reason)
    return Skipped(reason, _key(kind, metadata), metadata.resourceVersion)


def _removed(kind: WatchedKind, raw: msgspec.Raw) -> Removed | Skipped:
    try:
        metadata = _decode_identity(raw).metadata
    except msgspec.ValidationError as error:
        return Skipped(f"a deletion of an object without a usable name: {error}")
    return Removed(_key(kind, metadata), metadata.resourceVersion)


def _bookmark(metadata: _BookmarkMetadata) -> Bookmark:
    return Bookmark(metadata.resourceVersion, (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true")


def _failure(status: _Status, what: str) -> ApiError:
    seconds = (status.details or {}).get("retryAfterSeconds")
    retry_after = float(seconds) if isinstance(seconds, int) else None
    return ApiError(
        what,
        status.code,
        status.reason[:SAID_CHARACTERS],
        status.message[:SAID_CHARACTERS],
        retry_after_seconds=retry_after,
        details=status.details,
    )
