"""Reads the file that declares tables, and `--table NAME=RESOURCE`. Errors name file, line and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shmroute.errors import ConfigError
from shmroute.manifests.decoding import decode_text
from shmroute.resources.table import TableKind, watch_tables
from shmroute.resources.table_definition import TableDefinition, TableLimits, TableRedis
from shmroute.sources.folder.selector import parse_selector

MAX_BYTES = 1024 * 1024
"""Largest size of a tables file in bytes: that of a ConfigMap."""

_STRUCTS: dict[tuple[str, ...], Any] = {(): TableDefinition, ("redis",): TableRedis, ("limits",): TableLimits}
"""Path of a map within a table -> the struct with its fields."""

_LONGEST_PATH = 4
"""Number of keys in the longest path of a file: `tables`, a table, `index`, a name."""

_Lines = dict[tuple[str, ...], int]
"""Path of a key in the file's maps -> its line number, from 1."""


def read_tables(
    path: str | None, simple: Iterable[str], *, several_namespaces: bool, current: Iterable[TableKind] = ()
) -> tuple[TableKind, ...]:
    """Return the declared tables.

    Args:
        path: path of a tables file; None if there is none.
        simple: values of `--table`, each `NAME=RESOURCE`.
        several_namespaces: whether the watcher watches several namespaces.
        current: the tables that are watched now; see `watch_tables`.

    Raises:
        ConfigError: the file cannot be read, a field is unknown or cannot be used, or a name is used twice. The text
            has a line for at least one mistake of each table, with the file and its line.
    """
    kinds, problem = read_valid_tables(path, simple, several_namespaces=several_namespaces, current=current)
    if problem:
        raise ConfigError(problem)
    return kinds


def read_valid_tables(
    path: str | None, simple: Iterable[str], *, several_namespaces: bool, current: Iterable[TableKind] = ()
) -> tuple[tuple[TableKind, ...], str]:
    """Return the declared tables that can be used, and why the file's others cannot; "" if all can.

    The arguments are as for `read_tables`.

    Raises:
        ConfigError: a value of `--table` cannot be used.
    """
    tables: dict[str, TableDefinition] = {}
    lines: _Lines = {}
    problems: list[str] = []
    if path:
        try:
            tables, lines, problems = _read_file(Path(path))
        except ConfigError as error:
            problems = [str(error)]
    given = _simple_tables(simple, tables)

    def place(table: str, field: tuple[str, ...]) -> str:
        return "--table: " if table in given else f"{path}:{_line(lines, table, field)}: "

    watch = partial(watch_tables, several_namespaces=several_namespaces, place=place)
    kinds: list[TableKind] = []
    refused = ""
    try:
        kinds += watch(given, current=current)
    except ConfigError as error:
        refused = str(error)
    for name, definition in sorted(tables.items()):
        try:
            parse_selector(definition.selector)
        except ConfigError as error:
            problems.append(f"{place(name, ('selector',))}table {name!r}: {error}")
            continue
        try:
            kinds += watch({name: definition}, current=(*current, *kinds))
        except ConfigError as error:
            problems.append(str(error))
    if refused:
        raise ConfigError("\n".join((*problems, refused)))
    return tuple(sorted(kinds, key=lambda kind: kind.name)), "\n".join(problems)


def former_tables(
    row: bytes, simple: Iterable[str], *, several_namespaces: bool, current: Iterable[TableKind]
) -> tuple[TableKind, ...]:
    """Return the tables that a former watcher followed, and those of `--table`.

    Args:
        row: the definitions by name, as `DeclaredTables` publishes them.
        simple, several_namespaces, current: as for `read_tables`.

    Raises:
        ConfigError: the row cannot be used, for instance because another version wrote it.
    """
    try:
        definitions = msgspec.msgpack.decode(row, type=dict[str, TableDefinition])
    except msgspec.DecodeError as error:
        raise ConfigError(f"the former declarations of tables cannot be read: {error}") from error
    definitions.update(_simple_tables(simple, {}))
    return watch_tables(definitions, several_namespaces=several_namespaces, current=current)


def _simple_tables(simple: Iterable[str], tables: Mapping[str, TableDefinition]) -> dict[str, TableDefinition]:
    given: dict[str, TableDefinition] = {}
    for text in simple:
        name, _, resource = text.partition("=")
        if not name or not resource:
            raise ConfigError(f"--table {text!r}: write NAME=RESOURCE, for example flags=configmaps.v1")
        if name in tables or name in given:
            raise ConfigError(f"--table {text!r}: there is a table {name!r} already")
        given[name] = TableDefinition(resource=resource)
    return given


def is_tables_file(path: str) -> bool:
    """Return whether a file looks like one that declares tables rather than like a manifest."""
    try:
        with Path(path).open("rb") as file:
            values = [value for value in decode_text(file.read(MAX_BYTES)) if value is not None]
    except (OSError, ValueError):
        return False
    return len(values) == 1 and isinstance(values[0], dict) and "tables" in values[0] and "kind" not in values[0]


def _read_file(path: Path) -> tuple[dict[str, TableDefinition], _Lines, list[str]]:
    """Return the tables, the lines of their fields, and the problems of tables that cannot be used."""
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
    if not isinstance(tables, dict):
        raise ConfigError(
            f"{path}:{lines.get(('tables',), 1)}: tables must be a map of names to tables; `tables: {{}}` for none"
        )
    found: dict[str, TableDefinition] = {}
    problems: list[str] = []
    for name, value in tables.items():
        table = _table(value)
        if isinstance(table, TableDefinition):
            found[name] = table
        else:
            problems += [f"{path}:{_line(lines, name, field)}: table {name!r}: {text}" for field, text in table]
    return found, lines, problems


def _table(value: Any) -> TableDefinition | list[tuple[tuple[str, ...], str]]:
    """Return the definition, or the unusable fields, each with the reason."""
    if isinstance(value, str):
        value = {"resource": value}
    unknown = list(_unknown_fields(value))
    if unknown:
        return unknown
    try:
        return msgspec.convert(value, TableDefinition)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$")
        # msgspec's message ends in a path such as `$.index[...]`, or in `key` in `$.index`.
        field = tuple(part for part in at.rstrip("`").replace("[...]", "").split(".") if part)
        return [(field, f"{'.'.join(field) or 'table'}: {reason}")]


def _unknown_fields(value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    for where, struct in _STRUCTS.items():
        found = value
        for part in where:
            found = found.get(part) if isinstance(found, dict) else None
        known = [field.encode_name for field in msgspec.structs.fields(struct)]
        for field in found if isinstance(found, dict) else ():
            if field not in known:
                near = difflib.get_close_matches(str(field), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                yield (*where, str(field)), f"unknown field {'.'.join((*where, str(field)))!r}: {hint}"


def _line(lines: _Lines, table: str, field: tuple[str, ...]) -> int:
    """Return the line of a table's field; if that is unknown, the line of the map that holds it."""
    path: tuple[str, ...] = ("tables", table, *field)
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _lines(content: bytes) -> _Lines:
    node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    return dict(_walk(node, ())) if node is not None else {}


def _walk(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if not isinstance(node, yaml.MappingNode) or len(path) >= _LONGEST_PATH:
        return
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield (*path, key.value), key.start_mark.line + 1
            yield from _walk(value, (*path, key.value))
