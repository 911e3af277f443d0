"""One file's bytes to the objects it holds. Called by the folder source. Pure: no I/O, no clock.

A file is taken whole or not at all: where one of its objects cannot even be told, the others might be half of a
change. What is merely of no use in it (a slice of no Service) is noted, and the rest is taken. Other kinds than
AppModel, EndpointSlice and Endpoints are nobody's business here: a folder may hold a whole rendered chart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from shmroute.errors import InvalidObject
from shmroute.manifests.files import Document, decode, encode
from shmroute.resources.objects import ObjectKey, parse_appmodel, parse_endpointslice
from shmroute.sources.base import Item, Resource
from shmroute.sources.folder.endpoints import slices_of
from shmroute.sources.folder.selector import Selector, parse_selector

__all__ = ["Content", "ObjectId", "Scope", "read_content"]

ObjectId: TypeAlias = tuple[Resource, ObjectKey]

DEFAULT_NAMESPACE = "default"

API_VERSIONS: dict[str, tuple[str, Resource]] = {
    "AppModel": ("iidp.com/v1", "appmodels"),
    "EndpointSlice": ("discovery.k8s.io/v1", "endpointslices"),
    "Endpoints": ("v1", "endpointslices"),
}
"""The kinds that are read, the one version of each that is, and what they tell of."""

DIGEST_BYTES = 8
"""Of an object's content. Two states of one object in a folder get the same by chance once in 2^64 changes."""


class Scope(msgspec.Struct, frozen=True):
    """Which of the objects count."""

    resources: tuple[Resource, ...]
    namespace: str | None
    """Only objects of this namespace count, and those that name none belong to it. None: all namespaces."""
    selected: Selector
    """For AppModels: whether one with these labels counts."""

    @classmethod
    def of(cls, resources: tuple[Resource, ...], namespace: str | None, selector: str) -> Scope:
        """Raises `ConfigError` where `selector` is none."""
        return cls(resources, namespace, parse_selector(selector))


class Content(msgspec.Struct, frozen=True):
    """What a file holds."""

    objects: dict[ObjectId, Item]
    notes: tuple[str, ...]
    """What in it is of no use, in words."""


def read_content(data: bytes, where: str, scope: Scope) -> Content:
    """The objects of a file. Raises `InvalidObject` where it is no file of manifests as a whole."""
    objects: dict[ObjectId, Item] = {}
    notes: list[str] = []
    first: dict[ObjectId, str] = {}
    for document in decode(data, where):
        if document.kind not in API_VERSIONS:
            continue
        api_version, resource = API_VERSIONS[document.kind]
        if document.api_version != api_version:
            problem = f"{document.kind} has the apiVersion {document.api_version or 'of nothing'}: write {api_version}"
            raise InvalidObject(document.where, problem)
        if resource not in scope.resources:
            continue
        for each in _single(document):
            item = _item(each, scope)
            if item is None:
                notes.append(f"{_place(each, where)}{_useless(each)}")
                continue
            if not _counts(each, item, scope):
                continue
            identity = (resource, item.key)
            if identity in first:
                notes.append(f"{_place(each, where)}{each.kind} {item.key} stands in {first[identity]} already")
                continue
            first[identity] = each.where.removeprefix(f"{where}, ")
            objects[identity] = item
    return Content(objects, tuple(notes))


def _single(document: Document) -> Iterator[Document]:
    if document.kind != "Endpoints":
        yield document
        return
    try:
        slices = slices_of(document.manifest)
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise InvalidObject(document.where, f"no usable Endpoints: {error}") from error
    for each in slices:
        yield Document(document.where, each)


def _item(document: Document, scope: Scope) -> Item | None:
    """The object as a value; None where it is of no Service. Raises `InvalidObject` where it cannot be told."""
    body = encode(document)
    namespace = scope.namespace or DEFAULT_NAMESPACE
    try:
        if document.kind == "AppModel":
            item: Item | None = parse_appmodel(body, default_namespace=namespace)
        else:
            item = parse_endpointslice(body, default_namespace=namespace)
    except InvalidObject as error:
        raise InvalidObject(document.where, f"{error.where}: {error.reason}") from error
    if item is None:
        return None
    # A file has no resourceVersion, or that of the cluster it was exported from, which an edit leaves as it is.
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).hexdigest()
    return msgspec.structs.replace(item, resource_version=digest)


def _counts(document: Document, item: Item, scope: Scope) -> bool:
    if scope.namespace is not None and item.key.namespace != scope.namespace:
        return False
    return document.kind != "AppModel" or scope.selected(_labels(document.manifest))


def _labels(manifest: dict[str, Any]) -> dict[str, str]:
    labels = manifest["metadata"].get("labels")
    if not isinstance(labels, Mapping):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def _useless(document: Document) -> str:
    name = document.manifest["metadata"].get("name")
    address_type = document.manifest.get("addressType")
    if address_type not in ("IPv4", "IPv6"):
        return f"EndpointSlice {name} has the addressType {address_type}: only IPv4 and IPv6 can be dialled"
    return f"EndpointSlice {name} has no label kubernetes.io/service-name"


def _place(document: Document, where: str) -> str:
    """Which of several documents of the file; the file itself is known."""
    place = document.where.removeprefix(where).removeprefix(", ")
    return f"{place}: " if place else ""
