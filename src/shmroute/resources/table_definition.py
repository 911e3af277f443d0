"""The form of a tables file: all fields of a table's declaration. Pure data.

`deploy/tables.schema.json`, the JSON Schema for editors and charts, is made of these structs.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

TABLE_NAME = re.compile(r"[a-z]([-a-z0-9_]{0,61}[a-z0-9])?")
_NAMES_ONLY: Final = {"propertyNames": {"pattern": f"^{TABLE_NAME.pattern}$"}}


class DefinitionError(Exception):
    """A field of a table's definition cannot be used.

    Attributes:
        field: the path of the field within the definition.
        text: the rule, and what to write instead.
    """

    def __init__(self, field: tuple[str, ...], text: str) -> None:
        super().__init__(field, text)
        self.field = field
        self.text = text


class TableRedis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metadata of each row from the watcher's Redis, read again only when the version changes."""

    key: Annotated[
        str,
        Meta(
            description="Key in Redis. In braces: key, name, namespace, version, or a JSONPath of the object.",
            examples=["tenant_{key}", "{.spec.app}_{.spec.model}"],
        ),
    ]
    version: Annotated[
        str, Meta(description="JSONPath of the version, a string or a number.", examples=[".spec.version"])
    ]


class TableLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a table. The youngest objects beyond them are set aside."""

    objects: Annotated[int, Meta(ge=1, description="Most objects with a row.")] | None = None
    bytes: Annotated[int, Meta(ge=1, description="Most bytes of all keys and values, in msgpack.")] | None = None


class TableDefinition(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"field_selector": "fieldSelector"},
):
    """One table of a tables file."""

    resource: Annotated[
        str,
        Meta(
            description="The resource with its version, PLURAL.VERSION.GROUP; core: configmaps.v1.",
            examples=["tenants.v1.iidp.com", "configmaps.v1"],
        ),
    ]
    kind: Annotated[
        str, Meta(description="The objects' kind, where a folder cannot guess it from the plural.", examples=["Tenant"])
    ] = ""
    scope: Annotated[
        Literal["", "Namespaced", "Cluster"],
        Meta(description="Scope of the resource; by default asked of the API server's discovery."),
    ] = ""
    namespace: Annotated[
        str | list[str],
        Meta(description="The namespace to watch, a list of several, or * for all; by default the watcher's."),
    ] = ""
    selector: Annotated[str, Meta(description="Label selector; by default all objects.")] = ""
    field_selector: Annotated[
        str,
        Meta(
            description="Field selector: metadata.name, metadata.namespace, and what the resource declares selectable.",
            examples=["metadata.name=flags"],
        ),
    ] = ""
    key: Annotated[
        str,
        Meta(description="JSONPath of the row's key; by default the name, or namespace/name with several namespaces."),
    ] = ""
    value: Annotated[
        str, Meta(description="JSONPath of the row's value; by default the object without metadata.managedFields.")
    ] = ""
    index: Annotated[
        dict[str, str],
        Meta(description="JSONPaths by index name; [*] for the items of a list.", extra_json_schema=_NAMES_ONLY),
    ] = {}
    redis: TableRedis | None = None
    limits: TableLimits | None = None
    required: Annotated[bool, Meta(description="Whether the first snapshot waits for this table.")] = False
    secrets: Annotated[
        Literal["refused", "allowed"],
        Meta(description="Secrets are visible to every process that may read the area: only if this says allowed."),
    ] = "refused"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces to watch; ("*",) for all, empty for those of the watcher."""
        if isinstance(self.namespace, str):
            return (self.namespace,) if self.namespace else ()
        return tuple(dict.fromkeys(self.namespace))


class TablesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tables file. A table that only has a resource may be written as that resource alone."""

    tables: Annotated[
        dict[str, TableDefinition | str],
        Meta(description="Tables by name.", extra_json_schema=_NAMES_ONLY),
    ]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a tables file, draft 2020-12."""
    found = msgspec.json.schema(TablesFile)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tables of shmroute (shmroute watch --tables FILE)",
        **found,
    }
