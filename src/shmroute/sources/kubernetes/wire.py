"""Kubernetes' wire format: bytes in, values out. Pure: no I/O, no clock.

Called by the reflector, the probe, the comparison and the audit. It tells garbage (`Garbled`: the rest of the stream
cannot be trusted) from one bad object among good ones (`Skipped`: the stream continues).
It decodes only the few fields it needs; each kind's own rules are in `shmroute.resources`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from shmroute.errors import ApiError, InvalidObject, ShmrouteError
from shmroute.resources.key import ObjectKey
from shmroute.sources.kubernetes.sync_state import identity_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmroute.resources.registry import Item, WatchedKind

LINE_MAX_BYTES = 1 << 24
"""Longest line of a watch, in bytes: an API server takes objects of up to 3 MiB, so 16 MiB are not an event."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"

MAX_REPORTED_CHARACTERS = 1_000
"""Longest server text kept of an ERROR event, in characters; the event may fill a line."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of the decoder for bytes that are not JSON; `RecursionError` for brackets nested too deeply."""

_METADATA_LIST = ("meta.k8s.io/v1", "PartialObjectMetadataList")
"""`apiVersion` and `kind` of a list that holds only its objects' metadata."""


class Garbled(ShmrouteError):
    """Bytes that no API server sends: the rest of the same stream cannot be trusted."""


class Listed(msgspec.Struct, frozen=True, gc=False):
    """An existing object: from a list, or from an ADDED or MODIFIED event.

    `item` is None if the object is not used (an EndpointSlice without a Service). No reference cycle is
    possible, so the garbage collector need not track a list of a million (`gc=False`).
    """

    key: ObjectKey
    resource_version: str
    item: Item | None
    identity: int
    """See `identity_of`."""


class Removed(msgspec.Struct, frozen=True):
    """A DELETED event. `resource_version` is that of the deletion."""

    key: ObjectKey
    resource_version: str


class Bookmark(msgspec.Struct, frozen=True):
    """The resourceVersion a stream has reached. `initial_events_end`: the streaming list is complete."""

    resource_version: str
    initial_events_end: bool


class Skipped(msgspec.Struct, frozen=True):
    """An object that cannot be used. `key` is None if even its name is unusable."""

    reason: str
    key: ObjectKey | None = None
    resource_version: str = ""
    identity: int = 0


WatchEvent: TypeAlias = Listed | Removed | Bookmark | Skipped


class Page(msgspec.Struct, frozen=True):
    """One page of a list, its objects not yet decoded, for `decode_object`.

    `next_page` is the token of the next page, "" on the last one.
    """

    resource_version: str
    next_page: str
    objects: list[msgspec.Raw]


class Lines:
    """Splits a stream of bytes, which arrive in arbitrary pieces, into lines."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without line ends. Raises `Garbled` for a line that is too long."""
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
        """End the stream. Raises `Garbled` if it ended within a line."""
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
    uid: str = ""


class _Identity(msgspec.Struct, gc=False):
    metadata: _Metadata
    apiVersion: str = ""  # noqa: N815
    kind: str = ""


class _BookmarkMetadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815
    annotations: dict[str, str] | None = None


class _BookmarkObject(msgspec.Struct):
    metadata: _BookmarkMetadata
    apiVersion: str = ""  # noqa: N815
    kind: str = ""


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


class _ListMetadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815
    next_page: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None
    apiVersion: str = ""  # noqa: N815
    kind: str = ""


class _Identities(msgspec.Struct):
    metadata: _ListMetadata
    items: list[_Identity] | None
    apiVersion: str = ""  # noqa: N815
    kind: str = ""


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_identity = msgspec.json.Decoder(_Identity).decode
_decode_bookmark = msgspec.json.Decoder(_BookmarkObject).decode
_decode_status = msgspec.json.Decoder(_Status).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_identities = msgspec.json.Decoder(_Identities).decode

_Decoded = TypeVar("_Decoded")


def decode_event(kind: WatchedKind, line: bytes, what: str) -> WatchEvent:
    """Decode a line of a watch. Raises `ApiError` for an ERROR event (`what` names the request), else `Garbled`."""
    try:
        if not line.isascii():
            line.decode()  # the decoder does not check the fields it skips
        envelope = _read(_decode_envelope, line)
        match envelope.type:
            case "ADDED" | "MODIFIED":
                return decode_object(kind, envelope.object)
            case "DELETED":
                return _removed(kind, envelope.object)
            case "BOOKMARK":
                bookmark = _decode_bookmark(envelope.object)
                _check_kind(kind, bookmark.apiVersion, bookmark.kind, what)
                _check_version(bookmark.metadata.resourceVersion, what)
                return _bookmark(bookmark.metadata)
            case "ERROR":
                status = _decode_status(envelope.object)
                if not status.code and not status.reason:
                    raise Garbled(f"{what}: an ERROR event without code and reason")
                raise _failure(status, what)
            case other:
                raise Garbled(f"{what}: an event of the unknown type {other[:40]!r}")
    except _UNREADABLE as error:
        raise Garbled(f"{what}: a line of {len(line)} bytes that is not an event: {error}") from error


def decode_page(kind: WatchedKind, body: bytes, what: str) -> Page:
    """Decode a page of a list of `kind`. Raises `Garbled` for anything else: another list would delete all objects."""
    try:
        page = _read(_decode_list, body)
    except _UNREADABLE as error:
        raise Garbled(f"{what}: {len(body)} bytes that are not a list: {error}") from error
    _check_list(kind, page.apiVersion, page.kind, what)
    _check_version(page.metadata.resourceVersion, what)
    return Page(page.metadata.resourceVersion, page.metadata.next_page, page.items or [])


def decode_object(kind: WatchedKind, raw: msgspec.Raw) -> Listed | Skipped:
    """Decode one object. Raises `Garbled` if it is not JSON, or an object of another kind."""
    try:
        found = _decode_identity(raw)
        _check_kind(kind, found.apiVersion, found.kind, kind.full_name)
        key = _key(kind, found.metadata)
        item = kind.parse(raw, default_namespace=kind.default_namespace)
    except (InvalidObject, msgspec.ValidationError) as error:
        return _skipped(kind, raw, str(error))
    except _UNREADABLE as error:
        raise Garbled(f"an object of {kind.full_name}: {error}") from error
    version = found.metadata.resourceVersion
    return Listed(key, version, item, identity_of(found.metadata.uid, version))


def decode_identities(kind: WatchedKind, body: bytes, what: str) -> tuple[str, str, dict[ObjectKey, int]]:
    """Decode one page of a list: its resourceVersion, the next page's token, each object's key and identity.

    The list may hold whole objects or only their metadata. Raises `Garbled` for anything else.
    """
    try:
        page = _read(_decode_identities, body)
    except _UNREADABLE as error:
        raise Garbled(f"{what}: {len(body)} bytes that are not a list: {error}") from error
    if (page.apiVersion, page.kind) != _METADATA_LIST:
        _check_list(kind, page.apiVersion, page.kind, what)
    _check_version(page.metadata.resourceVersion, what)
    found = (each.metadata for each in page.items or ())
    identities = {_key(kind, each): identity_of(each.uid, each.resourceVersion) for each in found}
    return page.metadata.resourceVersion, page.metadata.next_page, identities


def _read(decode: Callable[[bytes], _Decoded], body: bytes) -> _Decoded:
    """Decode; if a lone surrogate makes the decoder fail, replace it and decode again.

    A single escape such as "\\ud800" in a string is valid by JSON's grammar. msgspec refuses it anywhere, so one
    object would stop the whole list. Go's decoder, which all of Kubernetes uses, reads it as U+FFFD.
    """
    try:
        return decode(body)
    except msgspec.DecodeError:
        mended = _ESCAPE.sub(_mend, body) if _SURROGATE.search(body) else body
        if mended == body:
            raise
        return decode(mended)


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""Matches every escape of a JSON text; its group is a surrogate without its partner."""


def _mend(escape: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if escape[1] else escape[0]


def _check_kind(kind: WatchedKind, api_version: str, name: str, what: str) -> None:
    """Raise `Garbled` for an object of another kind. Items in a list of a built-in kind carry neither field."""
    if (api_version or kind.api_version, name or kind.kind) != (kind.api_version, kind.kind):
        said = f"{name[:80]!r} of {api_version[:80]!r}"
        raise Garbled(f"{what}: an object is {said}, not {kind.kind} of {kind.api_version}")


def _check_list(kind: WatchedKind, api_version: str, name: str, what: str) -> None:
    if (api_version, name) != (kind.api_version, f"{kind.kind}List"):
        said = f"{name[:80]!r} of {api_version[:80]!r}"
        raise Garbled(f"{what}: the answer is {said}, not {kind.kind}List of {kind.api_version}")


def _check_version(resource_version: str, what: str) -> None:
    """Raise `Garbled` for a list or bookmark without resourceVersion: a watch would resume from anywhere."""
    if not resource_version:
        raise Garbled(f"{what}: the answer has no resourceVersion")


def _key(kind: WatchedKind, metadata: _Metadata) -> ObjectKey:
    """Return the object's key. Raises `Garbled` if an object of a namespaced kind has no namespace."""
    if kind.namespaced and not metadata.namespace:
        raise Garbled(
            f"object {metadata.name[:80]!r} of {kind.full_name} is in no namespace: its definition has the scope"
            " Cluster, and must have the scope Namespaced"
        )
    return ObjectKey(metadata.namespace, metadata.name)


def _skipped(kind: WatchedKind, raw: msgspec.Raw, reason: str) -> Skipped:
    try:
        metadata = _decode_identity(raw).metadata
    except msgspec.ValidationError:
        return Skipped(reason)
    version = metadata.resourceVersion
    return Skipped(reason, _key(kind, metadata), version, identity_of(metadata.uid, version))


def _removed(kind: WatchedKind, raw: msgspec.Raw) -> Removed | Skipped:
    try:
        found = _decode_identity(raw)
    except msgspec.ValidationError as error:
        return Skipped(f"a deletion of an object without a usable name: {error}")
    _check_kind(kind, found.apiVersion, found.kind, kind.full_name)
    return Removed(_key(kind, found.metadata), found.metadata.resourceVersion)


def _bookmark(metadata: _BookmarkMetadata) -> Bookmark:
    return Bookmark(metadata.resourceVersion, (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true")


def _failure(status: _Status, what: str) -> ApiError:
    seconds = (status.details or {}).get("retryAfterSeconds")
    usable = isinstance(seconds, int) and not isinstance(seconds, bool) and 0 <= seconds <= RETRY_AFTER_MAX_SECONDS
    return ApiError(
        what,
        status.code,
        status.reason[:MAX_REPORTED_CHARACTERS],
        status.message[:MAX_REPORTED_CHARACTERS],
        retry_after_seconds=float(seconds) if usable and seconds is not None else None,
        details=status.details,
    )


RETRY_AFTER_MAX_SECONDS = 86_400
"""Largest `retryAfterSeconds` that is used, one day; a larger value of this int32 is taken as an error and ignored."""
