"""Checks of an object against a custom resource's schema.

Three ways, as the server has them: `typed_patch_errors` for server-side apply (500), `validate`
(422), and `prune`, which drops undeclared fields on POST, PUT and merge patches.
"""

from __future__ import annotations

import math
from typing import Any

from .encoding import Object, dumps_sorted
from .status import Cause

_ROOT_FIELDS = ("apiVersion", "kind", "metadata")


def _open(schema: Object) -> bool:
    return bool(schema.get("x-kubernetes-preserve-unknown-fields")) or not schema.get("type")


def _declared(schema: Object, key: str, root: bool) -> Object | None:
    """Return the schema of a field; {} if it may have any value, None if it is not declared."""
    if root and key in _ROOT_FIELDS:
        return {}
    properties: Object = schema.get("properties") or {}
    if key in properties:
        found: Object = properties[key]
        return found
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        return additional
    return {} if additional or _open(schema) else None


def prune(schema: Object, value: Any, path: str = "") -> tuple[Any, list[str]]:
    """Return the value without undeclared fields, and their paths."""
    dropped: list[str] = []
    if isinstance(value, dict) and not (path and _open(schema)):
        kept: Object = {}
        for key, each in value.items():
            below = _declared(schema, key, not path)
            where = f"{path}.{key}" if path else key
            if below is None:
                dropped.append(where)
                continue
            kept[key], more = prune(below, each, where) if below else (each, [])
            dropped += more
        return kept, dropped
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        items = []
        for index, each in enumerate(value):
            item, more = prune(schema["items"], each, f"{path}[{index}]")
            items.append(item)
            dropped += more
        return items, dropped
    return value, dropped


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _fits(wanted: str, got: str, value: Any) -> bool:
    if wanted == got or (wanted == "number" and got == "integer"):
        return True
    return wanted == "integer" and isinstance(value, float) and math.floor(value) == value


def validate(schema: Object, value: Any, path: str = "") -> list[Cause]:
    """Return what is invalid, as (field, reason, message)."""
    if _open(schema) and path:
        return []
    causes: list[Cause] = []
    wanted = schema.get("type", "object")
    got = _type_of(value)
    if got == "null" and schema.get("nullable"):
        return []
    if not _fits(wanted, got, value):
        text = f'Invalid value: "{got}": {path} in body must be of type {wanted}: "{got}"'
        return [(path, "FieldValueTypeInvalid", text)]
    if isinstance(value, dict):
        for key in schema.get("required") or ():
            if key not in value:
                where = f"{path}.{key}" if path else key
                causes.append((where, "FieldValueRequired", "Required value"))
        for key, each in value.items():
            below = _declared(schema, key, not path)
            if below:
                causes += validate(below, each, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        least = schema.get("minItems", 0)
        if len(value) < least:
            text = f"{path} in body should have at least {least} items"
            text = f"Invalid value: {len(value)}: {text}"
            causes.append((path, "FieldValueInvalid", text))
        for index, each in enumerate(value):
            if isinstance(schema.get("items"), dict):
                causes += validate(schema["items"], each, f"{path}[{index}]")
    elif "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{each}"' for each in schema["enum"])
        text = f"Unsupported value: {dumps_sorted(value).decode()}: supported values: {supported}"
        causes.append((path, "FieldValueNotSupported", text))
    return sorted(causes)


def typed_patch_errors(schema: Object, value: Any, path: str = "") -> list[str]:
    """Return why server-side apply cannot read a configuration as an object of its type."""
    if value is None or (_open(schema) and path):
        return []
    wanted = schema.get("type", "object")
    at = f"  {path}: " if path else "  "
    if wanted == "object":
        if not isinstance(value, dict):
            return [f"{at}expected map, got {_go_pointer(value)}"]
        errors: list[str] = []
        for key in sorted(value):
            below = _declared(schema, key, not path)
            if below is None:
                errors.append(f"  {path}.{key}: field not declared in schema")
            elif below:
                errors += typed_patch_errors(below, value[key], f"{path}.{key}")
        return errors
    if wanted == "array":
        if not isinstance(value, list):
            return [f"{at}expected list, got {_go_pointer(value)}"]
        items = schema.get("items") or {}
        return [
            error for index, each in enumerate(value) for error in typed_patch_errors(items, each, f"{path}[{index}]")
        ]
    if wanted == "string" and not isinstance(value, str):
        return [f"{at}expected string, got &value.valueUnstructured{{Value:{_go(value, True)}}}"]
    if wanted == "boolean" and not isinstance(value, bool):
        return [f"{at}expected boolean, got {_go_type(value)}"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted in ("integer", "number") and not number:
        return [f"{at}expected numeric (int or float), got {_go_type(value)}"]
    return []


def _go_pointer(value: Any) -> str:
    """Return how Go prints a value wrapped in a struct behind a pointer: &{model1}."""
    return "&{" + _go(value, False) + "}"


def _go(value: Any, quoted: bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if quoted else value
    if isinstance(value, dict):
        inner = " ".join(f"{key}:{_go(value[key], quoted)}" for key in sorted(value))
        return f"map[{inner}]"
    if isinstance(value, list):
        return "[" + " ".join(_go(each, quoted) for each in value) + "]"
    return str(value)


def _go_type(value: Any) -> str:
    names = {"boolean": "bool", "integer": "int64", "number": "float64", "string": "string"}
    composite = {"array": "[]interface {}", "object": "map[string]interface {}"}
    return {**names, **composite}.get(_type_of(value), "<nil>")
