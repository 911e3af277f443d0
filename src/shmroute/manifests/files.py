"""Read files of YAML or JSON into single objects. This module does not know what an object means.

Called by the folder source and by `shmroute apply`. It accepts what `kubectl` accepts: several documents in a file,
JSON, lists of objects.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shmroute.errors import InvalidObject
from shmroute.manifests.decoding import decode_text

SUFFIXES = (".yaml", ".yml", ".json")
"""Suffixes of manifest files in a folder."""

STDIN = "-"
"""The path that stands for standard input."""

FILE_MAX_BYTES = 16 * 1024 * 1024
"""Maximum bytes of a file. JSON of this size takes 2 s and 13 times its size in memory; the limit of YAML is lower
(`decoding`). The largest object that a cluster stores has 1.5 MiB; many objects can be in many files."""


class Document(msgspec.Struct, frozen=True):
    """One object of a file. `where` names the file, and the place in it if it holds several."""

    where: str
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        """The object's `kind`; "" if it has none."""
        kind = self.manifest.get("kind")
        return kind if isinstance(kind, str) else ""

    @property
    def api_version(self) -> str:
        """The object's `apiVersion`; "" if it has none."""
        api_version = self.manifest.get("apiVersion")
        return api_version if isinstance(api_version, str) else ""


def is_manifest_file(name: str) -> bool:
    """Return whether a folder's file of this name holds manifests: not hidden, and *.yaml, *.yml or *.json."""
    return not name.startswith(".") and name.endswith(SUFFIXES)


def read(paths: Iterable[str | Path]) -> list[Document]:
    """Return all objects of files, of folders' files (without subfolders), and of standard input for `-`.

    Raises `InvalidObject` for a file that cannot be read or decoded, and for a folder without manifests.
    """
    return [document for path in paths for file in _files_of(path) for document in _read(file)]


def read_file(path: str | Path) -> bytes:
    """Return a file's content. Raises `InvalidObject` if it is too large, and `OSError`."""
    with Path(path).open("rb") as file:
        content = file.read(FILE_MAX_BYTES + 1)
    if len(content) > FILE_MAX_BYTES:
        size = Path(path).stat().st_size
        limit = FILE_MAX_BYTES >> 20
        raise InvalidObject(str(path), f"{size} bytes, more than the {limit} MiB that are read: split it into files")
    return content


def decode(content: bytes, where: str) -> list[Document]:
    """Return the objects of one file, in order, and the items of a `List` one by one. Raises `InvalidObject`.

    Empty documents, as between two `---`, are skipped. An object must have a kind; nothing else is checked.
    """
    try:
        values = [value for value in decode_text(content, json_only=where.endswith(".json")) if value is not None]
    except ValueError as error:
        raise InvalidObject(where, str(error)) from error
    documents = [Document(where, value) for value in values]
    if len(values) > 1:
        documents = [Document(f"{where}, document {number}", value) for number, value in enumerate(values, 1)]
    return [item for document in documents for item in _items(document)]


def encode(document: Document) -> bytes:
    """Return the object as JSON. Raises `InvalidObject` if it holds a value that JSON cannot."""
    try:
        return _encode(document.manifest)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidObject(document.where, f"cannot be written as JSON: {error}") from error


_encode = msgspec.json.Encoder(decimal_format="number").encode


def _files_of(path: str | Path) -> list[str | Path]:
    if str(path) == STDIN:
        return [STDIN]
    if not Path(path).is_dir():
        return [path]
    files = sorted(file for file in Path(path).iterdir() if is_manifest_file(file.name))
    if not files:
        raise InvalidObject(str(path), f"the folder holds no manifest ({', '.join('*' + each for each in SUFFIXES)})")
    return list(files)


def _read(path: str | Path) -> list[Document]:
    if path == STDIN:
        return decode(sys.stdin.buffer.read(), "standard input")
    try:
        return decode(read_file(path), str(path))
    except OSError as error:
        raise InvalidObject(str(path), f"cannot be read: {error.strerror}") from error


def _items(document: Document) -> Iterator[Document]:
    """Yield the document, or, if it is a list, its items."""
    manifest: object = document.manifest
    if not isinstance(manifest, dict):
        raise InvalidObject(document.where, "not an object: write a map of apiVersion, kind, metadata and spec")
    if not document.kind:
        raise InvalidObject(document.where, "kind is missing: not a Kubernetes object")
    items = manifest.get("items")
    if not document.kind.endswith("List") or not isinstance(items, list):
        yield document
        return
    # A typed list, as sent by an API server, names the kind of its items once.
    typed = {"apiVersion": manifest.get("apiVersion"), "kind": document.kind.removesuffix("List")}
    for number, item in enumerate(items, 1):
        where = f"{document.where}, item {number}"
        if not isinstance(item, dict):
            raise InvalidObject(where, "not an object")
        complete = Document(where, item if document.kind == "List" else {**typed, **item})
        if not complete.kind:
            raise InvalidObject(where, "kind is missing: not a Kubernetes object")
        yield complete
