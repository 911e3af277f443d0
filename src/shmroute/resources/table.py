"""Tables that a user declares: their definition, and the parser from an object to a row. Pure: no I/O, no clock.

`watch_tables` makes a `WatchedKind` from a definition: sources and tables then treat it like every other kind. JSONPath
is compiled once; a source's thread applies it to each object, so the owner's thread only moves bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeAlias
from zlib import crc32

import msgspec

from shmroute.errors import ConfigError
from shmroute.resources.key import Body, ObjectKey, decode, make_key, parse_key
from shmroute.resources.registry import BUILT_IN, WatchedKind
from shmroute.rows import FIRST_TABLE_NUMBER, LAST_TABLE_NUMBER, index_value

__all__ = [
    "TABLE_NAME",
    "InvalidTableObject",
    "TableDefinition",
    "TableKind",
    "TableObject",
    "parse_resource",
    "watch_tables",
]

MAX_KEY_BYTES: Final = 65_535
"""Longest key of a row, in UTF-8 bytes: the area stores its length in 16 bits."""

RESERVED_NAMES: Final = frozenset(
    {"models", "apps", "endpoints", "metadata", "conflicts", "invalid", "tables", "workers", "settings"}
    | {kind.name for kind in BUILT_IN}
)
"""Names of the built-in tables and views of `shmroute get`."""

TABLE_NAME = re.compile(r"[a-z]([-a-z0-9_]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_Getter: TypeAlias = Callable[[dict[str, Any]], list[Any]]


class TableDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a tables file."""

    resource: str
    """The resource in kubectl's form with its version: `plural.version.group`; core: `configmaps.v1`."""
    kind: str = ""
    """The objects' `kind`; by default guessed from the plural. Needed only in folders, for irregular plurals."""
    scope: Literal["", "Namespaced", "Cluster"] = ""
    """Scope of the resource; by default taken from the API server's discovery."""
    namespace: str = ""
    """The only namespace to watch, `*` for all; by default those of the watcher."""
    selector: str = ""
    """Label selector; "" for all objects."""
    key: str = ""
    """JSONPath of the row's key; by default the name, or `namespace/name` if several namespaces are watched."""
    value: str = ""
    """JSONPath of the row's value; by default the whole object without `metadata.managedFields`."""
    index: dict[str, str] = {}
    """Names of indexes and their JSONPaths; `[*]` for lists."""
    required: bool = False
    """Whether the area's first snapshot waits for this table."""
    secrets: Literal["refused", "allowed"] = "refused"
    """Whether the table may hold Secrets: every process that may read the area can read them."""


class TableKind(WatchedKind, frozen=True, eq=False, kw_only=True):
    """A `WatchedKind` that feeds a declared table."""

    definition: TableDefinition


class TableObject(msgspec.Struct, frozen=True, gc=False):
    """A valid object of a table. `created` is `metadata.creationTimestamp`, "" if unknown."""

    key: ObjectKey
    created: str
    resource_version: str
    row_key: str
    value: bytes
    """The row's value in msgpack."""
    index: tuple[str, ...] = ()
    """Entries of the indexes: `name` and tagged value, made by `shmroute.rows.index_value`."""
    first_seen: str = ""
    """Time at which a watcher first saw an object without `created` (in a folder), RFC 3339 in UTC; else ""."""


class InvalidTableObject(msgspec.Struct, frozen=True, gc=False):
    """An object that cannot be a row. It is listed with the reason; its last valid state is still served."""

    key: ObjectKey
    resource_version: str
    reason: str


def parse_resource(resource: str) -> tuple[str, str, str]:
    """Return group, version and plural of a resource in kubectl's full form. Raises `ConfigError`."""
    plural, _, rest = resource.partition(".")
    version, _, group = rest.partition(".")
    complete = not resource.endswith(".")
    if complete and _DNS.fullmatch(plural) and _VERSION.fullmatch(version) and (not group or _DNS.fullmatch(group)):
        return group, version, plural
    hint = "core resources: configmaps.v1"
    if plural and rest and not _VERSION.fullmatch(version):
        hint = f"the version is missing: {plural}.v1.{rest}, for example"
    raise ConfigError(f"resource {resource!r}: write PLURAL.VERSION.GROUP, as in tenants.v1.iidp.com ({hint})")


def watch_tables(definitions: dict[str, TableDefinition], *, several_namespaces: bool) -> tuple[TableKind, ...]:
    """Return the kinds to watch for tables, sorted by name.

    A table's number follows from its name and definition: the next watcher finds the table's rows again, and a
    redefined table gets another number.

    Args:
        definitions: the tables, by name.
        several_namespaces: whether the watcher has several namespaces; default keys then hold the namespace.

    Raises:
        ConfigError: a name, resource or path cannot be used.
    """
    used: set[int] = set()
    kinds = []
    for name, definition in sorted(definitions.items()):
        number = _number(name, definition, used)
        used.add(number)
        several = definition.namespace == "*" or (not definition.namespace and several_namespaces)
        kinds.append(_watch_table(name, definition, number, several))
    return tuple(kinds)


def _watch_table(name: str, definition: TableDefinition, number: int, several: bool) -> TableKind:
    if not TABLE_NAME.fullmatch(name):
        raise ConfigError(f"table {name!r}: write a name of lower-case letters, digits, '-' and '_', at most 63")
    if name in RESERVED_NAMES:
        raise ConfigError(f"table {name!r}: the name belongs to shmroute: take another one")
    group, version, plural = parse_resource(definition.resource)
    if (group, plural) == ("", "secrets") and definition.secrets != "allowed":
        raise ConfigError(
            f"table {name!r}: {definition.resource}: every process that may read the area could read the Secrets;"
            " write `secrets: allowed` in the table if that is meant"
        )
    for index in definition.index:
        if not TABLE_NAME.fullmatch(index):
            raise ConfigError(f"table {name!r}: index {index!r}: write lower-case letters, digits, '-' and '_'")
    parser = _TableParser(name, definition, several)
    return TableKind(
        name=name,
        group=group,
        version=version,
        plural=plural,
        kind=definition.kind,
        namespaced=definition.scope != "Cluster",
        parse=parser,
        namespace=definition.namespace,
        selector=definition.selector,
        feeds=number,
        required=definition.required,
        awaited=definition.required,
        definition=definition,
    )


def _number(name: str, definition: TableDefinition, used: set[int]) -> int:
    """Return the number for the table's rows, an even one; the next number is for its indexes."""
    slots = (LAST_TABLE_NUMBER - FIRST_TABLE_NUMBER) // 2
    slot = crc32(msgspec.json.encode([name, definition], order="sorted")) % slots
    while (number := FIRST_TABLE_NUMBER + 2 * slot) in used:
        slot = (slot + 1) % slots
    return number


class _Refused(Exception):
    """An object cannot be a row; the text says why."""


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str
    namespace: str | None = None
    creation_timestamp: str | None = None
    resource_version: str | None = None


_decoder = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.msgpack.Encoder().encode


class _TableParser:
    """Parses one object for one table; a `shmroute.resources.registry.Parser`."""

    def __init__(self, name: str, definition: TableDefinition, several_namespaces: bool) -> None:
        self._several_namespaces = several_namespaces
        self._key = _path(name, "key", definition.key)
        self._value = _path(name, "value", definition.value)
        self._paths = definition
        self._index = {
            index: _path(name, f"index {index}", path) or _missing(name, index)
            for index, path in definition.index.items()
        }

    def __call__(self, body: Body, *, default_namespace: str) -> TableObject | InvalidTableObject:
        key = parse_key(body, default_namespace=default_namespace)
        resource_version = ""
        try:
            manifest = decode(_decoder.decode, body)
            metadata = msgspec.convert(manifest["metadata"], _Metadata)
            resource_version = metadata.resource_version or ""
            manifest["metadata"].pop("managedFields", None)
            return TableObject(
                make_key("object", metadata.name, metadata.namespace or default_namespace),
                metadata.creation_timestamp or "",
                resource_version,
                self._key_of(key, manifest),
                self._value_of(manifest),
                tuple(dict.fromkeys(self._entries(manifest))),
            )
        except msgspec.ValidationError as error:
            return InvalidTableObject(key, resource_version, str(error))
        except _Refused as error:
            return InvalidTableObject(key, resource_version, str(error))

    def _key_of(self, key: ObjectKey, manifest: dict[str, Any]) -> str:
        if self._key is None:
            found: object = str(key) if self._several_namespaces else key.name
        else:
            values = self._key(manifest)
            if len(values) != 1:
                raise _Refused(f"key {self._paths.key} gives {_counted(values)}: it must give one")
            found = values[0]
        if not isinstance(found, str) or not found:
            raise _Refused(f"key {self._paths.key} gives {_described(found)}: it must give a string that is not empty")
        if "\0" in found:
            raise _Refused(f"key {self._paths.key} holds a NUL character")
        if (size := len(found.encode(errors="replace"))) > MAX_KEY_BYTES:
            raise _Refused(f"key {self._paths.key} has {size} bytes, at most {MAX_KEY_BYTES} are taken")
        return found

    def _value_of(self, manifest: dict[str, Any]) -> bytes:
        value: object = manifest
        if self._value is not None:
            values = self._value(manifest)
            if not values:
                raise _Refused(f"value {self._paths.value} leads to nothing")
            value = values if "*" in self._paths.value else values[0]
        try:
            return _encode(value)
        except (OverflowError, ValueError, UnicodeEncodeError) as error:
            raise _Refused(f"the value cannot be stored: {error}") from error

    def _entries(self, manifest: dict[str, Any]) -> Iterator[str]:
        for index, path in self._index.items():
            for value in path(manifest):
                if value is None:
                    continue
                entry = index_value(index, value)
                if entry is None:
                    raise _Refused(
                        f"index {index}: {self._paths.index[index]} gives {_described(value)}: only strings, numbers"
                        " and true or false can be indexed; write [*] for the items of a list"
                    )
                if len(entry.encode(errors="replace")) > MAX_KEY_BYTES - 16:
                    raise _Refused(f"index {index}: a value of {len(entry)} characters is too long")
                yield entry


def _missing(name: str, index: str) -> _Getter:
    raise ConfigError(f"table {name!r}: index {index!r} has no path")


def _path(table: str, field: str, text: str) -> _Getter | None:
    """Compile a JSONPath in kubectl's form (`.spec.code`, `.metadata.labels.app\\.io/name`, `{.spec}`)."""
    if not text:
        return None
    import jsonpath  # imported late: it takes 0.1 s, and only tables need it

    plain = text.strip()
    if plain.startswith("{") and plain.endswith("}"):
        plain = plain[1:-1]
    if not plain.startswith(("$", ".", "[")):
        plain = f".{plain}"
    # In kubectl's form a dot inside a name is escaped; the standard (RFC 9535) writes such a name in brackets.
    plain = re.sub(r"\.((?:[^.\[\]\\]|\\.)*\\\.(?:[^.\[\]\\]|\\.)*)", _bracketed, plain)
    try:
        query = jsonpath.compile(plain if plain.startswith("$") else f"${plain}")
    except jsonpath.JSONPathError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"table {table!r}: {field}: {text!r} is not a JSONPath ({reason}): write it as in kubectl's"
            " additionalPrinterColumns, for example .spec.code"
        ) from error
    found: _Getter = query.findall
    return found


def _bracketed(match: re.Match[str]) -> str:
    name = re.sub(r"\\(.)", r"\1", match.group(1)).replace("'", "\\'")
    return f"['{name}']"


def _counted(values: list[Any]) -> str:
    return "nothing" if not values else f"{len(values)} values"


def _described(value: object) -> str:
    if value is None:
        return "null"
    for kind, words in ((bool, "true or false"), (str, "a string"), (int, "a number"), (float, "a number")):
        if isinstance(value, kind):
            return words if value != "" else "an empty string"
    return "a map" if isinstance(value, dict) else "a list"
