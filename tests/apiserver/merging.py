"""Ways to change an object by another: apply's merge and its pruning, merge patch, JSON patch."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from .encoding import Object
from .kinds import Associative
from .managed import Fields, Path, children
from .status import ApiError, bad_request


def merge_applied(live: Any, config: Any, path: Path, lists: Associative) -> Any:
    """Return the live value with an applied configuration laid over it."""
    if isinstance(live, dict) and isinstance(config, dict):
        merged = dict(live)
        for key, each in config.items():
            below = (*path, f"f:{key}")
            merged[key] = merge_applied(live.get(key), each, below, lists)
        return merged
    if isinstance(live, list) and path in lists and isinstance(config, list):
        olds = children(live, path, lists) or {}
        news = children(config, path, lists) or {}
        merged = {step: merge_applied(olds.get(step), each, (*path, step), lists) for step, each in news.items()}
        return list({**olds, **merged}.values())
    return copy.deepcopy(config)


def remove_abandoned(obj: Object, abandoned: Iterable[Path], owned: Fields) -> None:
    """Drop from obj the fields an applier no longer claims and nobody else owns."""
    for path in sorted(abandoned, key=len, reverse=True):
        if any(each[: len(path)] == path for each in owned):
            continue
        node: Any = obj
        for step in path[:-1]:
            node = node.get(step.removeprefix("f:")) if isinstance(node, dict) else None
        kind, _, name = path[-1].partition(":")
        if isinstance(node, dict) and kind == "f":
            node.pop(name, None)
        elif kind == "v":
            _remove_value(obj, path)
    drop_empty_metadata(obj)


def _remove_value(obj: Object, path: Path) -> None:
    node: Any = obj
    for step in path[:-2]:
        node = node.get(step.removeprefix("f:"), {})
    name = path[-2].removeprefix("f:")
    node[name] = [each for each in node.get(name, []) if f'v:"{each}"' != path[-1]]


def drop_empty_metadata(obj: Object) -> None:
    """Remove empty maps and lists from the metadata, as the server does."""
    metadata = obj["metadata"]
    for name in ("labels", "annotations", "finalizers", "ownerReferences"):
        if name in metadata and not metadata[name]:
            del metadata[name]


def merge_patch(value: Any, patch: Any) -> Any:
    """Return `value` changed by a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(value) if isinstance(value, dict) else {}
    for key, each in patch.items():
        if each is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), each)
    return merged


def json_patch(value: Object, operations: list[Object]) -> Object:
    """Return `value` changed by a JSON patch (RFC 6902): add, replace, remove and test."""
    result: Object = copy.deepcopy(value)
    for each in operations:
        steps = [part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")[1:]]
        try:
            _operate(result, steps, each)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            reason = f"the server rejected our request due to an error in our request: {error!r}"
            raise ApiError(422, reason, "Invalid") from error
    return result


def _operate(root: Object, steps: list[str], operation: Object) -> None:
    node: Any = root
    for step in steps[:-1]:
        node = node[int(step)] if isinstance(node, list) else node[step]
    last: Any = steps[-1]
    if isinstance(node, list):
        last = len(node) if last == "-" else int(last)
    match operation["op"]:
        case "remove":
            del node[last]
        case "add" if isinstance(node, list):
            node.insert(last, operation["value"])
        case "replace" if isinstance(node, dict) and last not in node:
            raise KeyError(last)
        case "add" | "replace":
            node[last] = operation["value"]
        case "test":
            if node[last] != operation["value"]:
                raise ValueError(f"testing value {operation['path']} failed")
        case other:
            raise bad_request(f"Unexpected kind: {other}")
