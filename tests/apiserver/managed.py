"""Ownership of fields: metadata.managedFields, as server-side apply keeps it.

A field set is a frozenset of paths, a path a tuple of FieldsV1 steps such as "f:spec". Pure
functions over objects; the rules are those of structured-merge-diff as far as the kinds here need
them (maps are granular, lists are atomic unless the kind names them associative).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .encoding import Object, dumps_sorted
from .kinds import Associative, Kind
from .status import ApiError

Path: TypeAlias = tuple[str, ...]
Fields: TypeAlias = frozenset[Path]

NOTHING: Fields = frozenset()

_UNOWNED_METADATA = (
    *("name", "generateName", "namespace", "uid", "resourceVersion", "generation"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    *("managedFields", "selfLink"),
)


def owned_part(obj: Object) -> Object:
    """Return the object without what nobody owns: its type, its identity, its bookkeeping."""
    part = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    metadata = obj.get("metadata") or {}
    part["metadata"] = {k: v for k, v in metadata.items() if k not in _UNOWNED_METADATA}
    return part


def _step(element: Any, keys: tuple[str, ...]) -> str:
    if not keys:
        return "v:" + dumps_sorted(element).decode()
    return "k:" + dumps_sorted({key: element.get(key) for key in keys}).decode()


def children(value: Any, path: Path, lists: Associative) -> dict[str, Any] | None:
    """Return the separately owned parts of a value, by step; None where it is owned as a whole."""
    if isinstance(value, dict):
        return {f"f:{key}": each for key, each in value.items()}
    keys = lists.get(path)
    if isinstance(value, list) and keys is not None:
        return {_step(each, keys): each for each in value}
    return None


def applied_fields(kind: Kind, config: Object) -> Fields:
    """Return what an apply lays claim to: the leaves of its configuration."""

    def walk(value: Any, path: Path) -> Iterator[Path]:
        parts = children(value, path, kind.associative)
        if not parts:
            yield path
            return
        if path and path[-1].startswith("k:"):
            yield path
        for step, each in parts.items():
            yield from walk(each, (*path, step))

    claims = {f"f:{key}": each for key, each in owned_part(config).items()}
    if not claims["f:metadata"]:
        del claims["f:metadata"]
    return frozenset(path for step, each in claims.items() for path in walk(each, (step,)))


@dataclass
class Changes:
    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)


_ABSENT = object()


def compare(kind: Kind, before: Object, after: Object) -> Changes:
    """Return which owned fields differ; an added or removed container counts along with its parts."""
    changes = Changes()

    def whole(value: Any, path: Path, into: set[Path]) -> None:
        into.add(path)
        for step, each in (children(value, path, kind.associative) or {}).items():
            whole(each, (*path, step), into)

    def walk(old: Any, new: Any, path: Path) -> None:
        if old is _ABSENT:
            whole(new, path, changes.added)
            return
        if new is _ABSENT:
            whole(old, path, changes.removed)
            return
        olds = children(old, path, kind.associative)
        news = children(new, path, kind.associative)
        if olds is None or news is None:
            if old is None and news is not None:
                # A null that is always shown counts as there: only the parts are new.
                for step, each in news.items():
                    whole(each, (*path, step), changes.added)
            elif old != new:
                changes.modified.add(path)
            return
        for step in olds.keys() | news.keys():
            walk(olds.get(step, _ABSENT), news.get(step, _ABSENT), (*path, step))

    old_part = {"metadata": {}, **kind.empty, **owned_part(before)}
    walk(old_part, {**kind.empty, **owned_part(after)}, ())
    return changes


@dataclass
class Manager:
    """One entry of managedFields."""

    name: str
    operation: str
    api_version: str
    fields: Fields
    time: str
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.name, self.operation, self.api_version, self.subresource

    def describe(self) -> str:
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.operation == "Update":
            text += f" using {self.api_version} at {self.time}"
        return text


def read(obj: Object) -> list[Manager]:
    entries = (obj.get("metadata") or {}).get("managedFields") or []
    return [
        Manager(
            name=entry.get("manager", ""),
            operation=entry.get("operation", ""),
            api_version=entry.get("apiVersion", ""),
            fields=frozenset(_from_v1(entry.get("fieldsV1") or {}, ())),
            time=entry.get("time", ""),
            subresource=entry.get("subresource", ""),
        )
        for entry in entries
    ]


def write(managers: list[Manager]) -> list[Object]:
    """Return the entries in the server's order; managers that own nothing are left out."""
    entries = []
    for each in sorted(managers, key=lambda m: (m.operation, m.time, m.name)):
        if not each.fields:
            continue
        entry: Object = {
            "apiVersion": each.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": _to_v1(each.fields),
            "manager": each.name,
            "operation": each.operation,
            "time": each.time,
        }
        if each.subresource:
            entry["subresource"] = each.subresource
        entries.append(entry)
    return entries


def _from_v1(tree: Object, path: Path) -> Iterator[Path]:
    for step, below in tree.items():
        if step == ".":
            yield path
        elif not below:
            yield (*path, step)
        else:
            yield from _from_v1(below, (*path, step))


def _to_v1(fields: Fields) -> Object:
    tree: Object = {}
    parents = {path[:length] for path in fields for length in range(1, len(path))}
    for path in fields:
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path in parents:
            node["."] = {}
    return tree


def conflict(found: list[tuple[Manager, Fields]]) -> ApiError:
    """Return ApiError 409: an apply without force claims fields that others own."""
    causes: list[Object] = []
    lines: list[str] = []
    for manager, fields in sorted(found, key=lambda each: each[0].describe()):
        lines.append(f"conflicts with {manager.describe()}:")
        for text in sorted(show(path) for path in fields):
            lines.append(f"- {text}")
            reason = f"conflict with {manager.describe()}"
            causes.append({"reason": "FieldManagerConflict", "message": reason, "field": text})
    if len(causes) == 1:
        text = f"1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        text = f"{len(causes)} conflicts: " + "\n".join(lines)
    return ApiError(409, f"Apply failed with {text}", "Conflict", details={"causes": causes})


def show(path: Path) -> str:
    """Return a path as messages write it: .spec.models, .status.conditions[type="Ready"]."""
    text = ""
    for step in path:
        kind, _, name = step.partition(":")
        text += f".{name}" if kind == "f" else f"[{name.strip('{}')}]"
    return text
