"""Checks of an object before it is stored: its name and its schema, with the server's errors."""

from __future__ import annotations

import re

from . import schema, status
from .encoding import Object
from .kinds import CUSTOM_RESOURCE_DEFINITIONS, ENDPOINT_SLICES, Kind
from .status import ApiError, Cause, bad_request
from .store import object_key

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


def pruned(kind: Kind, obj: Object, strict: bool) -> tuple[Object, list[str]]:
    """Return the object without undeclared fields, and a warning for each; ApiError 400 if strict."""
    if kind.schema is None:
        return obj, []
    kept, dropped = schema.prune(kind.schema, obj)
    warnings = [f'unknown field "{path}"' for path in dropped]
    if warnings and strict:
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"strict decoding error: {', '.join(warnings)}"
        )
    return kept, warnings


def check_typed(kind: Kind, config: Object, namespace: str, name: str) -> None:
    """Raise ApiError 500 if server-side apply cannot read the configuration."""
    if kind.schema is None:
        return
    errors = schema.typed_patch_errors(kind.schema, config)
    if not errors:
        return
    text = errors[0].strip() if len(errors) == 1 else "errors:\n" + "\n".join(errors)
    where = object_key(namespace, name)
    type_name = f"{kind.api_version}, Kind={kind.kind}"
    message = f"failed to create typed patch object ({where}; {type_name}): {text}"
    raise ApiError(500, message)


def check(kind: Kind, name: str, obj: Object) -> None:
    """Raise ApiError 422 if the object is invalid."""
    for field in ("labels", "annotations"):
        values = obj["metadata"].get(field) or {}
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise bad_request(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
                f"json: cannot unmarshal ObjectMeta.metadata.{field}: want a map of strings"
            )
    causes: list[Cause] = []
    if not name:
        text = "Required value: name or generateName is required"
        causes.append(("metadata.name", "FieldValueRequired", text))
    elif not _NAME.fullmatch(name) or len(name) > 253:
        text = f'Invalid value: "{name}": {_NAME_MESSAGE}'
        causes.append(("metadata.name", "FieldValueInvalid", text))
    if kind.schema is not None:
        causes += schema.validate(kind.schema, obj)
    elif kind is ENDPOINT_SLICES and not obj.get("addressType"):
        causes.append(("addressType", "FieldValueRequired", "Required value"))
    elif kind is CUSTOM_RESOURCE_DEFINITIONS:
        causes += _check_definition(name, obj.get("spec") or {})
    if causes:
        raise status.invalid(kind.group, kind.kind, name, causes)


def _check_definition(name: str, spec: Object) -> list[Cause]:
    names = spec.get("names") or {}
    versions = spec.get("versions") or []
    causes: list[Cause] = []
    for field_name, value in (("group", spec.get("group")), ("scope", spec.get("scope"))):
        if not value:
            causes.append((f"spec.{field_name}", "FieldValueRequired", "Required value"))
    if sum(bool(each.get("storage")) for each in versions) != 1:
        text = "Invalid value: must have exactly one version marked as storage version"
        causes.append(("spec.versions", "FieldValueInvalid", text))
    wanted = f"{names.get('plural', '')}.{spec.get('group', '')}"
    if name != wanted:
        text = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        causes.append(("metadata.name", "FieldValueInvalid", text))
    return causes
