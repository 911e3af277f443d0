"""Decode one file's bytes into the objects it holds. Called by the folder source. Pure: no I/O, no clock.

A file is used completely or not at all: if one of its objects cannot be identified, the others might be half of a
change. An object that is not used (a slice without a Service) is reported, and the rest is used. Objects of kinds that
are not watched are skipped: a folder may hold a whole rendered chart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias, cast

import msgspec

from shmroute.errors import InvalidObject
from shmroute.manifests.files import Document, decode, encode
from shmroute.resources.field_selector import FieldTerm, matches_fields, parse_field_selector
from shmroute.resources.key import DEFAULT_NAMESPACE, ObjectKey
from shmroute.resources.registry import APPMODELS, BUILT_IN, Item, WatchedKind
from shmroute.sources.folder.selector import Selector, parse_selector

ObjectId: TypeAlias = tuple[str, ObjectKey]
"""The `name` of a `WatchedKind`, and the object's key."""

_SIMILARITY = 0.85
"""Least ratio of difflib at which a kind counts as misspelt: one letter too many, missing or changed in eight."""

DIGEST_BYTES = 8
"""Length of the digest of an object's content. Two states of one object share a digest by chance once in 2^64."""


class Scope(msgspec.Struct, frozen=True):
    """Selects the objects that count."""

    kinds: tuple[WatchedKind, ...]
    namespace: str | None
    """The only namespace whose objects count; objects that name none belong to it. None: all namespaces."""
    selectors: Mapping[str, Selector]
    """Label selector of each kind, by the kind's name."""
    fields: Mapping[str, tuple[FieldTerm, ...]]
    """Conditions of each kind's field selector, by the kind's name."""

    @classmethod
    def of(cls, kinds: tuple[WatchedKind, ...], namespace: str | None, selector: str) -> Scope:
        """Apply the user's `selector` to `labelled` kinds; others have their own. Raises `ConfigError` if it is bad."""
        chosen = {kind.name: parse_selector(selector if kind.labelled else kind.selector) for kind in kinds}
        return cls(kinds, namespace, chosen, {kind.name: parse_field_selector(kind.field_selector) for kind in kinds})


class Content(msgspec.Struct, frozen=True):
    """The objects of one file."""

    objects: dict[ObjectId, Item]
    notes: tuple[str, ...]
    """Reasons why some of its objects are not used, for people."""


def read_content(data: bytes, where: str, scope: Scope) -> Content:
    """Return the objects of a file. Raises `InvalidObject` if the file as a whole cannot be used."""
    objects: dict[ObjectId, Item] = {}
    notes: list[str] = []
    first: dict[ObjectId, str] = {}
    for document in decode(data, where):
        kinds = [kind for kind in scope.kinds if kind.is_kind(document.kind, document.api_version)]
        if not kinds:
            _check_version(document, scope)
            continue
        for kind in kinds:
            item = _item(document, kind, scope)
            if item is None:
                notes.append(f"{_place(document, where)}{kind.unused_because(document.manifest)}")
                continue
            if not _counts(document, kind, item, scope):
                continue
            identity = (kind.name, item.key)
            if identity in first:
                notes.append(f"{_place(document, where)}{document.kind} {item.key} is already in {first[identity]}")
                continue
            first[identity] = document.where.removeprefix(f"{where}, ")
            objects[identity] = item
    return Content(objects, tuple(notes))


def _check_version(document: Document, scope: Scope) -> None:
    """Refuse an unsupported version of a known kind, a built-in kind in other letters, and a misspelt AppModel.

    Another group may have a kind of the same name.
    """
    group = document.api_version.rpartition("/")[0]
    for kind in dict.fromkeys((*BUILT_IN, *scope.kinds)):
        if kind in BUILT_IN and kind.kind != document.kind and kind.kind.lower() == document.kind.lower():
            raise InvalidObject(document.where, f"kind is {document.kind}: write {kind.kind}")
        if not kind.is_named(document.kind):
            continue
        if kind.api_version == document.api_version:
            return  # a built-in kind that this source does not follow
        if kind in BUILT_IN or kind.group == group or not document.api_version:
            has = document.api_version or "missing"
            raise InvalidObject(document.where, f"apiVersion of {document.kind} is {has}: write {kind.api_version}")
    if group == APPMODELS.group and get_close_matches(document.kind, (APPMODELS.kind,), 1, _SIMILARITY):
        raise InvalidObject(document.where, f"kind is {document.kind}: write {APPMODELS.kind}")


def _item(document: Document, kind: WatchedKind, scope: Scope) -> Item | None:
    """Return the object as a value; None if it is not used. Raises `InvalidObject` if it cannot be identified."""
    shown = {**document.manifest, "apiVersion": kind.api_version}
    body = encode(Document(document.where, shown))
    own = kind.namespaces[0] if kind.namespaces and kind.namespaces != ("*",) else ""
    namespace = (own or scope.namespace or DEFAULT_NAMESPACE) if kind.namespaced else ""
    try:
        item = kind.parse(body, default_namespace=namespace)
    except InvalidObject as error:
        raise InvalidObject(document.where, f"{error.where}: {error.reason}") from error
    if item is None:
        return None
    # A file has no resourceVersion, or that of the cluster it was exported from, which an edit does not change.
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).hexdigest()
    return cast("Item", msgspec.structs.replace(cast("Any", item), resource_version=digest))


def _counts(document: Document, kind: WatchedKind, item: Item, scope: Scope) -> bool:
    namespaces = kind.namespaces or ((scope.namespace,) if scope.namespace is not None else ("*",))
    if kind.namespaced and namespaces != ("*",) and item.key.namespace not in namespaces:
        return False
    metadata = {**document.manifest["metadata"], "namespace": item.key.namespace}
    if not matches_fields(scope.fields[kind.name], {**document.manifest, "metadata": metadata}):
        return False
    return scope.selectors[kind.name](_labels(document.manifest))


def _labels(manifest: dict[str, Any]) -> dict[str, str]:
    labels = manifest["metadata"].get("labels")
    if not isinstance(labels, Mapping):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def _place(document: Document, where: str) -> str:
    """Return the document's place in its file; "" if the file has only one."""
    place = document.where.removeprefix(where).removeprefix(", ")
    return f"{place}: " if place else ""
