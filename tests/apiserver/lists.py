"""Lists and their pages, from the storage or from the watch cache."""

from __future__ import annotations

import base64
import binascii
import json
import time
from bisect import bisect_left
from collections.abc import Mapping
from itertools import islice

from . import status
from .encoding import Object, dumps, dumps_sorted, loads
from .kinds import Kind
from .selectors import Selector
from .status import bad_request
from .store import Item, State, Store, Table

TOKEN_VERSION = "meta.k8s.io/v1"
_INCONSISTENT = -1

#: The version of lists of metadata alone.
PARTIAL_VERSION = "meta.k8s.io/v1"


def encode_token(revision: int, start: str) -> str:
    """Return a continue token, which holds the start of the next page and the revision of the list."""
    text = json.dumps({"v": TOKEN_VERSION, "rv": revision, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_token(token: str) -> tuple[int, str]:
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError) as error:
        raise _bad_token(f"illegal base64 data at input byte {len(token)}") from error
    try:
        value = json.loads(raw)
    except ValueError as error:
        first = raw[:1].decode("latin-1")
        text = f"invalid character '{first}' looking for beginning of value"
        raise _bad_token(text) from error
    if not isinstance(value, dict) or value.get("v") != TOKEN_VERSION:
        version = value.get("v", "") if isinstance(value, dict) else ""
        raise _bad_token(f'server does not recognize this encoded version "{version}"')
    if not value.get("rv"):
        raise _bad_token(f"incorrect encoded start resourceVersion (version {TOKEN_VERSION})")
    if not value.get("start"):
        raise _bad_token(f"encoded start key empty (version {TOKEN_VERSION})")
    return int(value["rv"]), str(value["start"])


def _bad_token(text: str) -> status.ApiError:
    return bad_request(f"invalid continue token: continue key is not valid: {text}")


def parse_number(query: Mapping[str, str], name: str) -> int | None:
    """Return a parameter such as resourceVersion or limit; None where it is not given."""
    text = query.get(name, "")
    if not text:
        return None
    if not text.isdecimal():
        raise bad_request(f'{name}: Invalid value: "{text}": must be a number')
    return int(text)


class Lister:
    """Answers list requests. Holds only the settings of the watch cache."""

    def __init__(self, store: Store, freshness_timeout: float, progress: bool) -> None:
        self.store = store
        #: How long a list waits for a revision that has not come yet, in seconds (real: 3).
        self.freshness_timeout = freshness_timeout
        #: Whether the cache can ask the storage how far it is (etcd 3.4.31 and later).
        self.progress = progress
        #: What a read of the storage fails with while it is away; "" while it is there.
        self.storage_away = ""

    def list(self, table: Table, selector: Selector, query: Mapping[str, str], *, metadata_only: bool = False) -> bytes:
        """Return the body of the answer to a list request, newline included; with `metadata_only` a
        PartialObjectMetadataList."""
        body = self._list(table, selector, query)
        return partial_metadata(body) if metadata_only else body

    def _list(self, table: Table, selector: Selector, query: Mapping[str, str]) -> bytes:
        limit = parse_number(query, "limit") or 0
        revision = parse_number(query, "resourceVersion")
        match = query.get("resourceVersionMatch", "")
        token = query.get("continue", "")
        _check_options(query, revision, match)
        if self.storage_away and revision is None:
            raise status.ApiError(500, self.storage_away, "InternalError")
        with self.store.lock:
            if token:
                if revision:
                    text = "specifying resource version is not allowed when using continue"
                    raise bad_request(text)
                return self._rest(table, selector, limit, token)
            if revision == 0 and match != "Exact":
                state = table.state_at(table.cache_revision)
                return _page(table.kind, state, selector, 0, "", table.cache_revision)
            if revision and (match == "Exact" or (limit and not match)):
                self._check_reached(revision)
                if revision <= self.store.compacted:
                    text = "The resourceVersion for the provided list is too old."
                    raise status.ApiError(410, text, "Expired")
                return _page(table.kind, table.state_at(revision), selector, limit, "", revision)
            if revision:
                self.wait_until_fresh(table, revision)
                shown = table.cache_revision
            else:
                shown = self.store.revision
                if self.progress:
                    table.cache_revision = shown
            return _page(table.kind, table.state_at(shown), selector, limit, "", shown)

    def _rest(self, table: Table, selector: Selector, limit: int, token: str) -> bytes:
        revision, start = decode_token(token)
        start = start.removeprefix("/")
        if revision == _INCONSISTENT:
            revision = self.store.revision
        elif revision <= self.store.compacted:
            raise status.expired_continue(encode_token(_INCONSISTENT, start))
        self._check_reached(revision)
        return _page(table.kind, table.state_at(revision), selector, limit, start, revision)

    def _check_reached(self, revision: int) -> None:
        if revision > self.store.revision:
            raise status.too_large(revision, self.store.revision)

    def wait_until_fresh(self, table: Table, revision: int) -> None:
        """Wait until the cache has reached a revision; ApiError 504 if it does not in time."""
        deadline = time.monotonic() + self.freshness_timeout
        with self.store.lock:
            while True:
                if self.progress:
                    table.cache_revision = self.store.revision
                if table.cache_revision >= revision:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise status.too_large(revision, table.cache_revision)
                table.changed.wait(min(left, 0.05))


def partial_metadata(body: bytes) -> bytes:
    """Return a list as metadata alone: each item says its kind, `PartialObjectMetadata`, and holds nothing else."""
    whole = loads(body)
    items = [
        {"kind": "PartialObjectMetadata", "apiVersion": PARTIAL_VERSION, "metadata": each["metadata"]}
        for each in whole["items"] or ()
    ]
    metadata = {key: value for key, value in whole["metadata"].items() if value}
    head = {"kind": "PartialObjectMetadataList", "apiVersion": PARTIAL_VERSION, "metadata": metadata, "items": items}
    return dumps(head) + b"\n"


def _check_options(query: Mapping[str, str], revision: int | None, match: str) -> None:
    if "sendInitialEvents" in query:
        text = "Forbidden: sendInitialEvents is forbidden for list"
        raise status.invalid_options("ListOptions", "sendInitialEvents", "FieldValueForbidden", text)
    if match and revision is None:
        text = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        name = "resourceVersionMatch"
        raise status.invalid_options("ListOptions", name, "FieldValueForbidden", text)


def _page(kind: Kind, state: State, selector: Selector, limit: int, start: str, revision: int) -> bytes:
    low, high = state.bounds(selector.namespace)
    if start:
        # Where the list is of one namespace, the token's key leaves the namespace out.
        prefix = f"{selector.namespace}/" if selector.namespace is not None else ""
        low = bisect_left(state.keys, prefix + start, low, high)
    if selector.name is not None and selector.namespace is not None and not start:
        key = f"{selector.namespace}/{selector.name}" if selector.namespace else selector.name
        low = bisect_left(state.keys, key, low, high)
        high = min(high, low + 1)
    chosen: list[Item] = []
    at = low
    for item in islice(state.items, low, high):
        at += 1
        if selector.matches(item.namespace, item.name, item.labels):
            chosen.append(item)
            if limit and len(chosen) == limit:
                break
    token = ""
    remaining: int | None = None
    if limit and at < high:
        key = state.keys[at - 1]
        if selector.namespace is not None:
            key = key.removeprefix(f"{selector.namespace}/")
        token = encode_token(revision, f"/{key}\0")
        remaining = high - at if selector.everything else None
    return _body(kind, chosen, revision, token, remaining)


def _body(kind: Kind, items: list[Item], revision: int, token: str, remaining: int | None) -> bytes:
    metadata: Object = {"resourceVersion": str(revision)}
    if token or kind.custom:
        metadata["continue"] = token
    if remaining is not None:
        metadata["remainingItemCount"] = remaining
    elements = b",".join([item.element for item in items])
    if kind.custom:
        return b'{"apiVersion":"%s","items":[%s],"kind":"%s","metadata":%s}\n' % (
            kind.api_version.encode(),
            elements,
            kind.list_kind.encode(),
            dumps_sorted(metadata),
        )
    return b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":[%s]}\n' % (
        kind.list_kind.encode(),
        kind.api_version.encode(),
        dumps(metadata),
        elements,
    )
