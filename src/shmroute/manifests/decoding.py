"""Text to values, for manifests: YAML's documents or a stream of JSON, with nothing in them that JSON lacks.

Called by `shmroute.manifests.files`. Stricter than most readers where a mistake would pass unseen: a key that stands
twice in one map is refused. Values stay as they were written: a number keeps its digits, a date stays text.
Whatever the text is, decoding it takes bounded time, memory and stack. Pure: no I/O.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NoReturn

import yaml

__all__ = ["DEPTH_MAX", "VALUES_MAX", "decode_text"]

VALUES_MAX = 4_000_000
"""Keys, items and values in one file. 16 MiB of real manifests hold fewer; a few lines of nested YAML aliases
can stand for billions."""

DEPTH_MAX = 100
"""Of maps and lists in each other. An AppModel has 4 levels, the deepest schemas of Kubernetes about 20."""

_SIGNED_64 = 63
"""Bits of an integer that every JSON reader takes."""

# The C parser is far faster; every wheel of PyYAML has it, a build from source may lack it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def decode_text(content: bytes, *, json_only: bool = False) -> list[Any]:
    """The values of a text, in order; None for an empty YAML document. Raises `ValueError` with line and reason.

    Text that begins as JSON is read as JSON, and where that fails as YAML (its flow style looks alike), unless
    `json_only`. Numbers with a fraction are `Decimal`.
    """
    try:
        text = content.decode("utf-8-sig")
        if json_only:
            return list(_json_values(text))
        if text.lstrip()[:1] in ("{", "["):
            try:
                return list(_json_values(text))
            except json.JSONDecodeError:
                pass
        return _yaml_values(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(_one_line(error)) from error


# --- JSON ------------------------------------------------------------------------------------------------------


def _json_values(text: str) -> Iterator[Any]:
    """Every value of a stream of JSON."""
    position, end = 0, len(text)
    while True:
        while position < end and text[position] in " \t\r\n":
            position += 1
        if position == end:
            return
        value, position = _json_decoder.raw_decode(text, position)
        yield value


def _json_map(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands twice in one map")
    return value


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_json_decoder = json.JSONDecoder(object_pairs_hook=_json_map, parse_float=Decimal, parse_constant=_no_number)


# --- YAML ------------------------------------------------------------------------------------------------------


def _yaml_values(text: str) -> list[Any]:
    loader = _Loader(text)
    try:
        return list(_YamlReader(loader).documents())
    finally:
        loader.dispose()


class _YamlReader:
    """Values from YAML's events: only what JSON has, a key once in each map, aliases within bounds.

    Three times as fast as PyYAML's own composer and constructor, which 10,000 files feel; and those recurse
    in C without a bound, so that 100 kB of brackets end the process.
    """

    def __init__(self, loader: Any) -> None:
        self._next: Callable[[], Any] = loader.get_event
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._depth = 0

    def documents(self) -> Iterator[Any]:
        self._next()  # the stream's start
        while isinstance(self._next(), yaml.DocumentStartEvent):
            self._anchors = {}
            yield self._value(self._next())
            self._next()  # the document's end

    def _value(self, event: Any) -> Any:
        before = self._values
        self._count(event, 1)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _error(event, f"alias *{event.anchor} stands for nothing that is complete before it")
            value, size = self._anchors[event.anchor]
            self._count(event, size)
            return value
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        else:
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise _error(event, f"nested more than {DEPTH_MAX} levels deep")
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if event.tag not in (None, "!", _LIST_TAG if is_list else _MAP_TAG):
                raise _error(event, f"tag {event.tag} has no place in a manifest")
            value = self._list() if is_list else self._map()
            self._depth -= 1
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._values - before
        return value

    def _count(self, event: Any, values: int) -> None:
        self._values += values
        if self._values > VALUES_MAX:
            raise _error(event, f"more than {VALUES_MAX} values: do aliases repeat each other?")

    def _list(self) -> list[Any]:
        items = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event))
        return items

    def _map(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[Any] = []
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event)
            if key == "<<" and event.implicit[0]:
                value = self._value(self._next())
                merged += value if isinstance(value, list) else [value]
            elif key in result:
                raise _error(event, f"key {key!r} stands twice in one map")
            else:
                result[key] = self._value(self._next())
        for each in merged:
            if not isinstance(each, dict):
                raise _error(event, "<< takes a map, or a list of maps")
            for key, value in each.items():
                result.setdefault(key, value)
        return result

    def _key(self, event: Any) -> str:
        """A key as it is written: `1: x` is kept under "1", as JSON would have it."""
        if isinstance(event, yaml.ScalarEvent):
            key = event.value
            if event.anchor is not None:
                self._anchors[event.anchor] = key, 1
        elif isinstance(event, yaml.AliasEvent):
            key = self._value(event)
        else:
            key = None
        if not isinstance(key, str):
            raise _error(event, "a key has to be a string")
        return key

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None or tag == "!":
            if not event.implicit[0]:
                return text  # in quotes
            tag = _resolve(text)
        read = _SCALARS.get(tag)
        if read is None:
            raise _error(event, f"tag {tag} has no place in a manifest")
        try:
            return read(text)
        except (ValueError, LookupError) as error:
            raise _error(event, f"{text!r} is no {tag.rpartition(':')[2]}") from error


_resolver: Any = yaml.resolver.Resolver()


@functools.lru_cache(maxsize=4096)
def _resolve(text: str) -> str:
    """The tag that a scalar without quotes has by its looks. The same few names and versions come again and again."""
    tag: str = _resolver.resolve(yaml.ScalarNode, text, (True, False))
    return tag


def _yaml_bool(text: str) -> bool:
    return bool(yaml.SafeLoader.bool_values[text.lower()])


def _yaml_integer(text: str) -> int | Decimal | str:
    if ":" in text:  # base 60, which YAML has since given up: a time, or a version
        return text
    digits = text.replace("_", "")
    plain = digits.lstrip("+-")
    base = 0 if plain[:2] in ("0b", "0x") else 8 if plain[:1] == "0" else 10
    value = int(digits, base)
    return value if value.bit_length() <= _SIGNED_64 else Decimal(value)


def _yaml_float(text: str) -> Decimal | str:
    try:
        value = Decimal(text)
    except ArithmeticError:  # base 60, or .inf and .nan, which JSON lacks
        return text
    return value if value.is_finite() else text


_TAG = "tag:yaml.org,2002:"
_LIST_TAG = _TAG + "seq"
_MAP_TAG = _TAG + "map"
_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "str": str,
    _TAG + "timestamp": str,  # Kubernetes' dates are strings
    _TAG + "value": str,
    _TAG + "merge": str,
    _TAG + "null": lambda _: None,
    _TAG + "bool": _yaml_bool,
    _TAG + "int": _yaml_integer,
    _TAG + "float": _yaml_float,
}


def _error(event: Any, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, event.start_mark)


def _one_line(error: Exception) -> str:
    """What is wrong and where. PyYAML writes several lines, with its own name for the text."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f" ({error.context})" if error.context else ""
        return f"{place}{error.problem}{context}"
    if isinstance(error, RecursionError):
        return f"nested more than {DEPTH_MAX} levels deep"
    return " ".join(str(error).split())
