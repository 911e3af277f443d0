"""The rows of tables that a test has declared. The watcher's own code makes them from objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shmroute.errors import ConfigError
from shmroute.resources.table import watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.resources.table_parser import InvalidTableObject
from shmroute.rows import RowKey
from shmroute.sources.base import Replaced
from shmroute.tables import Index


class Declared(msgspec.Struct, frozen=True):
    """A table that a test has set. Without `objects` (None), its first complete list is still missing."""

    objects: Mapping[str, Any] | None
    index: Mapping[str, str] = {}


def rows_of_tables(declared: Mapping[str, Declared]) -> dict[RowKey, bytes]:
    """Return the rows of tables, by their names.

    Raises:
        ConfigError: a name, a path or an object cannot be used.
    """
    definitions = {
        name: TableDefinition(
            resource="objects.v1",
            scope="Cluster",
            key=".key",
            value=".value",
            index={index: f".value{path}" for index, path in each.index.items()},
        )
        for name, each in declared.items()
    }
    kinds = watch_tables(definitions, several_namespaces=False)
    index = Index(kinds=kinds)
    for kind in kinds:
        objects = declared[kind.name].objects
        if objects is None:
            continue
        made = []
        for number, (key, value) in enumerate(objects.items()):
            manifest = {"metadata": {"name": f"object-{number}"}, "key": key, "value": value}
            try:
                body = msgspec.json.encode(manifest)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError(f"table {kind.name!r}: {key!r} cannot be written as JSON: {error}") from error
            parsed = kind.parse(body, default_namespace="")
            if isinstance(parsed, InvalidTableObject):
                raise ConfigError(f"table {kind.name!r}: {key!r} cannot be a row: {parsed.reason}")
            if parsed is not None:
                made.append(parsed)
        index.apply(Replaced(kind.name, tuple(made)))
    return dict(index.rows())
