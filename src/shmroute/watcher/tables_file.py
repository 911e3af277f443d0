"""Reads the file that declares tables, and `--table NAME=RESOURCE`. Errors name file, line and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shmroute.errors import ConfigError
from shmroute.manifests.decoding import decode_text
from shmroute.resources.table import TableDefinition

__all__ = ["read_tables"]

MAX_BYTES = 1024 * 1024
"""Largest size of a tables file: that of a ConfigMap."""

FIELDS = TableDefinition.__struct_fields__


def read_tables(path: str | None, simple: Iterable[str]) -> dict[str, TableDefinition]:
    """Return the declared tables: name -> definition.

    Args:
        path: path of a tables file; None if there is none.
        simple: values of `--table`, each `NAME=RESOURCE`.

    Raises:
        ConfigError: the file cannot be read, a field is unknown or of the wrong type, or a name is used twice.
    """
    tables = _read_file(Path(path)) if path else {}
    for text in simple:
        name, _, resource = text.partition("=")
        if not name or not resource:
            raise ConfigError(f"--table {text!r}: write NAME=RESOURCE, for example flags=configmaps.v1")
        if name in tables:
            raise ConfigError(f"--table {text!r}: there is a table {name!r} already")
        tables[name] = TableDefinition(resource=resource)
    return tables


def _read_file(path: Path) -> dict[str, TableDefinition]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES} bytes")
    try:
        values = [value for value in decode_text(content) if value is not None]
    except ValueError as error:  # also for duplicate keys; the error names the line
        raise ConfigError(f"{path}: {error}") from error
    if len(values) != 1 or not isinstance(values[0], dict):
        raise ConfigError(f"{path}: write one map with the key `tables`")
    lines = _lines(content)
    file_of = values[0]
    for field in file_of:
        if field != "tables":
            raise ConfigError(f"{path}:{lines.get((field,), 1)}: unknown field {field!r}: the only one is `tables`")
    tables = file_of.get("tables")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path}:{lines.get(('tables',), 1)}: tables must be a map of names to tables")
    return {name: _table(path, name, value, lines) for name, value in tables.items()}


def _table(path: Path, name: str, value: Any, lines: dict[tuple[str, ...], int]) -> TableDefinition:
    where = ("tables", name)
    if isinstance(value, str):
        value = {"resource": value}
    if isinstance(value, dict):
        for field in value:
            if field not in FIELDS:
                near = difflib.get_close_matches(str(field), FIELDS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FIELDS)}"
                line = lines.get((*where, field), lines.get(where, 1))
                raise ConfigError(f"{path}:{line}: table {name!r}: unknown field {field!r}: {hint}")
    try:
        return msgspec.convert(value, TableDefinition)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$")
        fields = tuple(part for part in at.rstrip("`").replace("[...]", "").split(".") if part)
        line = lines.get((*where, *fields), lines.get(where, 1))
        raise ConfigError(f"{path}:{line}: table {name!r}: {'.'.join(fields) or 'table'}: {reason}") from error


def _lines(content: bytes) -> dict[tuple[str, ...], int]:
    """Return the line number, from 1, of each key of the file's maps."""
    node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    return dict(_walk(node, ())) if node is not None else {}


def _walk(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if not isinstance(node, yaml.MappingNode) or len(path) > len(FIELDS):
        return
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield (*path, key.value), key.start_mark.line + 1
            yield from _walk(value, (*path, key.value))
