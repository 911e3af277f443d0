"""How an object of any kind becomes the row of a declared table. Pure: no I/O, no clock.

JSONPath is compiled once, when the table is declared. A source's thread applies it to each object, so that the owner's
thread only moves bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from string import Formatter
from typing import Any, Final, TypeAlias

import msgspec

from shmroute.resources.key import Body, ObjectKey, decode, parse_key
from shmroute.resources.table_definition import DefinitionError, TableDefinition
from shmroute.rows import index_value

MAX_KEY_BYTES: Final = 65_535
"""Longest key of a row in UTF-8: the area keeps its length in 16 bits."""

MAX_ENTRY_BYTES: Final = MAX_KEY_BYTES - 16
"""Longest entry of an index in UTF-8: a row's key holds the number of a bucket in front of it."""

_Getter: TypeAlias = Callable[[dict[str, Any]], list[Any]]


class TableObject(msgspec.Struct, frozen=True, gc=False):
    """A valid object of a table. `created` is `metadata.creationTimestamp`, "" where unknown."""

    key: ObjectKey
    created: str
    resource_version: str
    row_key: str
    value: bytes
    """The row's value in msgpack."""
    index: tuple[str, ...] = ()
    """Entries of the indexes: `name` and tagged value, as `shmroute.rows.index_value` makes them."""
    first_seen: str = ""
    """Time at which a watcher first saw an object without `created` (in a folder), RFC 3339 in UTC; else ""."""
    metadata: tuple[str, str] | None = None
    """Key in the metadata store, and the version that its row needs; None where the table has no `redis`."""


class InvalidTableObject(msgspec.Struct, frozen=True, gc=False):
    """An object that cannot be a row: listed with its reason; its last valid state is still served."""

    key: ObjectKey
    resource_version: str
    reason: str


class _Refused(Exception):
    """The reason why an object cannot be a row."""


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    creation_timestamp: str | None = None
    resource_version: str | None = None


_decoder = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.msgpack.Encoder().encode


class TableParser:
    """Reads one object for one table; a `shmroute.resources.registry.Parser`."""

    def __init__(self, definition: TableDefinition, several_namespaces: bool) -> None:
        """Raises `DefinitionError` for a path that is not a JSONPath."""
        self._several_namespaces = several_namespaces
        self._paths = definition
        self._key = _path(("key",), definition.key) if definition.key else None
        self._value = _path(("value",), definition.value) if definition.value else None
        self._index = {index: _path(("index", index), path) for index, path in definition.index.items()}
        self._metadata = _MetadataKey(definition.redis.key, definition.redis.version) if definition.redis else None

    def __call__(self, body: Body, *, default_namespace: str) -> TableObject | InvalidTableObject:
        key = parse_key(body, default_namespace=default_namespace)
        resource_version = ""
        try:
            manifest = decode(_decoder.decode, body)
            metadata = msgspec.convert(manifest["metadata"], _Metadata)
            resource_version = metadata.resource_version or ""
            manifest["metadata"].pop("managedFields", None)
            row_key = self._key_of(key, manifest)
            return TableObject(
                key,
                metadata.creation_timestamp or "",
                resource_version,
                row_key,
                self._value_of(manifest),
                tuple(dict.fromkeys(self._entries(manifest))),
                metadata=self._metadata(key, row_key, manifest) if self._metadata is not None else None,
            )
        except (msgspec.ValidationError, _Refused) as error:
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
            raise _Refused(f"key {self._paths.key} has {size} bytes: at most {MAX_KEY_BYTES} are allowed")
        return found

    def _value_of(self, manifest: dict[str, Any]) -> bytes:
        value: object = manifest
        if self._value is not None:
            values = self._value(manifest)
            if not values:
                raise _Refused(f"the object has no {self._paths.value}, which is the value")
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
                if len(entry.encode(errors="replace")) > MAX_ENTRY_BYTES:
                    raise _Refused(f"index {index}: a value of {len(entry)} characters is too long")
                yield entry


class _MetadataKey:
    """Makes an object's key in the metadata store, and reads the version that its row needs.

    Args:
        template: the key, with fields in braces; `{{` and `}}` are literal braces.
        version: JSONPath of the version.

    Raises:
        DefinitionError: a template or a path that cannot be used.
    """

    NAMES: Final = ("key", "name", "namespace", "version")

    def __init__(self, template: str, version: str) -> None:
        where = ("redis", "key")
        self._parts: list[tuple[str, str | None, _Getter | None]] = []
        """Literal text, the name of the field behind it, and for a JSONPath how it is read."""
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise DefinitionError(where, f"redis.key {template!r}: {error}") from error
        for text, field, form, conversion in parts:
            path = field is not None and field.startswith((".", "$", "["))
            if field is not None and ((not path and field not in self.NAMES) or form or conversion):
                names = "}, {".join(self.NAMES)
                raise DefinitionError(
                    where, f"redis.key {template!r}: in braces write {{{names}}} or a JSONPath, as in {{.spec.app}}"
                )
            self._parts.append((text, field, _path(where, field) if field is not None and path else None))
        if not any(field not in (None, "version") for _, field, _ in self._parts):
            raise DefinitionError(where, f"redis.key {template!r}: all rows would share one value: add {{key}}")
        self._path = version
        self._version = _path(("redis", "version"), version)

    def __call__(self, key: ObjectKey, row_key: str, manifest: dict[str, Any]) -> tuple[str, str]:
        version = _one_word("redis.version", self._path, self._version(manifest))
        known = {"key": row_key, "name": key.name, "namespace": key.namespace, "version": version}
        made = []
        for text, field, getter in self._parts:
            made.append(text)
            if field is not None:
                made.append(_one_word("redis.key", field, getter(manifest)) if getter is not None else known[field])
        return "".join(made), version


def _one_word(field: str, path: str, values: list[Any]) -> str:
    """Return the only value of a path, as text. A number is written as in JSON."""
    if len(values) != 1:
        raise _Refused(f"{field} {path} gives {_counted(values)}: it must give one")
    (value,) = values
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return msgspec.json.encode(value).decode()
    raise _Refused(f"{field} {path} gives {_described(value)}: it must give a string that is not empty, or a number")


_NAMES: Final = re.compile(r"(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
"""A JSONPath of plain names, which most are: followed here, in a tenth of the library's time."""


def _path(field: tuple[str, ...], text: str) -> _Getter:
    """Compile a JSONPath as kubectl writes it (`.spec.code`, `.metadata.labels.app\\.io/name`, `{.spec}`)."""
    name = " ".join(field) if field[0] == "index" else ".".join(field)
    plain = text.strip()
    if plain.startswith("{") and plain.endswith("}"):
        plain = plain[1:-1]
    if not plain:
        raise DefinitionError(field, f"{name}: the path is empty: write one as in .spec.code")
    if not plain.startswith(("$", ".", "[")):
        plain = f".{plain}"
    if _NAMES.fullmatch(plain):
        return partial(_at, plain.split(".")[1:])
    import jsonpath  # here: it takes 0.1 s, and most tables do without

    # In kubectl's form a dot inside a name is escaped; the standard (RFC 9535) writes such a name in brackets.
    plain = re.sub(r"\.((?:[^.\[\]\\]|\\.)*\\\.(?:[^.\[\]\\]|\\.)*)", _bracketed, plain)
    try:
        query = jsonpath.compile(plain if plain.startswith("$") else f"${plain}")
    except jsonpath.JSONPathError as error:
        reason = str(error).strip().splitlines()[0]
        raise DefinitionError(
            field,
            f"{name}: {text!r} is not a JSONPath ({reason}): write it as in kubectl's additionalPrinterColumns, for"
            " example .spec.code",
        ) from error
    found: _Getter = query.findall
    return found


def _at(names: list[str], manifest: dict[str, Any]) -> list[Any]:
    """Return the value behind these names as a list, as a JSONPath does; an empty list if there is none."""
    value: Any = manifest
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return []
        value = value[name]
    return [value]


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
