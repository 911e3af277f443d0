"""Field selectors in the API's own syntax, for a definition that is checked and a source that selects by itself. Pure.

Which fields an API server takes is the server's business: `metadata.name` and `metadata.namespace` of every resource,
some of each built-in kind, and what a CustomResourceDefinition lists under `selectableFields`. Values are compared as
text, and an absent field equals the empty text, as a server does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shmroute.resources.table_definition import DefinitionError

_FIELD = re.compile(r"[A-Za-z][-A-Za-z0-9_]*(\.[A-Za-z][-A-Za-z0-9_]*)+")
_TERM = re.compile(r"(?P<field>[^=!\\]*)(?P<operator>!=|==|=)(?P<value>(?:[^=,\\]|\\[,=\\])*)")
_COMMA = re.compile(r"(?<!\\),")


class FieldTerm(NamedTuple):
    """One of the conditions, all of which an object must meet."""

    field: str
    equal: bool
    value: str


def parse_field_selector(text: str) -> tuple[FieldTerm, ...]:
    """Return the conditions that `text` writes, such as `metadata.name=flags,spec.tier!=free`; "" is none.

    Raises:
        DefinitionError: text that no API server takes, with what to write instead.
    """
    return tuple(_term(part.strip(), text) for part in _COMMA.split(text)) if text.strip() else ()


def _term(part: str, text: str) -> FieldTerm:
    match = _TERM.fullmatch(part)
    if match is None:
        raise _refused(text, f"{part!r} is neither FIELD=VALUE nor FIELD!=VALUE")
    field = match["field"].strip()
    if not _FIELD.fullmatch(field):
        raise _refused(text, f"{field!r} is not a field: write its full path, as in metadata.name or spec.tier")
    if field.startswith("metadata.") and field not in ("metadata.name", "metadata.namespace"):
        hint = "; labels are for `selector`" if field.startswith("metadata.labels") else ""
        raise _refused(text, f"no API server selects by {field}: of metadata it takes name and namespace{hint}")
    return FieldTerm(field, match["operator"] != "!=", re.sub(r"\\(.)", r"\1", match["value"]))


def _refused(text: str, reason: str) -> DefinitionError:
    return DefinitionError(("fieldSelector",), f"fieldSelector {text!r}: {reason}")


def matches_fields(terms: tuple[FieldTerm, ...], manifest: Mapping[str, Any]) -> bool:
    """Whether an object meets all conditions."""
    return all((_text(manifest, term.field) == term.value) == term.equal for term in terms)


def _text(manifest: Any, path: str) -> str:
    for name in path.split("."):
        manifest = manifest.get(name) if isinstance(manifest, Mapping) else None
    match manifest:
        case None:
            return ""
        case bool():
            return str(manifest).lower()
    return str(manifest)
