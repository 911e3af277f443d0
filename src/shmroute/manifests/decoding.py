"""Decodes the text of manifests, YAML documents or a stream of JSON, into values that JSON can hold.

Called by `shmroute.manifests.files`. PyYAML's safe loader parses YAML and resolves types; this module makes JSON's
values from its nodes. It differs from PyYAML in three points: a key that appears twice in one map is refused, because
one of its values would be lost silently; a number keeps its digits and a date stays text; time, memory and stack are
limited for every text. Pure: no I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn

import yaml

YAML_MAX_BYTES: Final = 4 * 1024 * 1024
"""Maximum bytes of a YAML text. Reading a document of this size takes 5 s and 200 MiB, as JSON a tenth of that; the
largest object that a cluster stores has 1.5 MiB."""

VALUES_MAX: Final = 1_000_000
"""Maximum values of one YAML document; each alias counts as all values it stands for. The longest text of real
manifests holds half as many; ten lines of aliases to aliases can stand for billions."""

DEPTH_MAX: Final = 100
"""Maximum nesting of maps and lists. An AppModel has 4 levels, the deepest schemas of Kubernetes about 20."""

_SURELY_FLAT: Final = 500
"""A text with fewer brackets, and shorter lines, cannot nest deeper than 1,500 levels: each bracket opens one level,
each column of indentation at most two. PyYAML's C code takes 270 bytes of stack for a level and does not check it."""

_SIGNED_BITS: Final = 63
"""Bits of the integers that every JSON reader accepts."""

# The C loader is ten times as fast. Every wheel of PyYAML has it; a build from source may not.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def decode_text(content: bytes, *, json_only: bool = False) -> list[Any]:
    """Decode a text.

    Args:
        content: UTF-8. If it begins like JSON it is read as JSON, and as YAML if that fails: YAML's flow style looks
            like JSON.
        json_only: never read it as YAML.

    Returns:
        The values in their order; None for an empty YAML document. Numbers with a fraction are `Decimal`.

    Raises:
        ValueError: the text is neither JSON nor YAML, or too large; the error has line and reason.
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
        if len(content) > YAML_MAX_BYTES:
            limit = f"the {YAML_MAX_BYTES >> 20} MiB of YAML that are read"
            raise ValueError(f"{len(content)} bytes, more than {limit}: split it into files, or write JSON")
        return list(_yaml_values(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(_one_line(error)) from error


# --- JSON ------------------------------------------------------------------------------------------------------


def _json_values(text: str) -> Iterator[Any]:
    """Yield every value of a stream of JSON."""
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
        raise ValueError(f"key {twice!r} appears twice in one map")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


_json_decoder = json.JSONDecoder(object_pairs_hook=_json_map, parse_float=Decimal, parse_constant=_refuse_constant)


# --- YAML ------------------------------------------------------------------------------------------------------


def _yaml_values(text: str) -> Iterator[Any]:
    """Yield every document of a text."""
    if text.count("[") + text.count("{") >= _SURELY_FLAT or re.search(rf"[^\n]{{{_SURELY_FLAT}}}", text):
        _check_depth(text)
    aliases = "&" in text and "*" in text
    for node in yaml.compose_all(text, _SafeLoader):
        if aliases:
            _count(node, {})
        yield None if node is None else _value(node, 0)


def _check_depth(text: str) -> None:
    """Raise a `YAMLError` for a text that is nested too deeply. libyaml makes events without recursion."""
    depth = 0
    for event in yaml.parse(text, _SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise _too_deep(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _count(node: Any, counted: dict[int, int | None]) -> int:
    """Return the number of values in `node`; each alias counts as all values it stands for.

    Args:
        node: the node; an alias is already replaced by the node it stands for.
        counted: known numbers, by the node's id; None while the node's content is being counted.

    Raises:
        YAMLError: there are too many values, or the node contains itself.
    """
    if id(node) in counted:
        known = counted[id(node)]
        if known is None:
            raise _error(node, "this value contains itself")
        return known
    counted[id(node)] = None
    values = 1
    if isinstance(node, yaml.SequenceNode):
        values += sum(_count(item, counted) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        values += sum(_count(key, counted) + _count(value, counted) for key, value in node.value)
    if values > VALUES_MAX:
        raise _error(node, f"more than {VALUES_MAX} values: do aliases repeat each other?")
    counted[id(node)] = values
    return values


def _value(node: Any, depth: int) -> Any:
    """Return the value of a node. PyYAML's own constructor takes twice as long."""
    tag = node.tag
    if isinstance(node, yaml.ScalarNode):
        read = _SCALARS.get(tag)
        if read is not None:
            try:
                return read(node.value)
            except (ValueError, LookupError) as error:
                raise _error(node, f"{node.value!r} is not of the type {tag.removeprefix(_TAG)}") from error
    elif depth == DEPTH_MAX:
        raise _too_deep(node)
    elif tag == _LIST:
        return [_value(item, depth + 1) for item in node.value]
    elif tag == _MAP:
        return _map(node, depth + 1)
    raise _error(node, f"tag {tag} has no equivalent in JSON")


def _map(node: Any, depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    merged: list[Any] = []
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _error(key_node, "a key has to be a string")
        key: str = key_node.value  # as it is written: `1: x` has the key "1", as in JSON
        if key_node.tag == _MERGE:
            merged += value_node.value if value_node.tag == _LIST else [value_node]
        elif key in values:
            raise _error(key_node, f"key {key!r} appears twice in one map")
        else:
            values[key] = _value(value_node, depth)
    for each in merged:
        if each.tag != _MAP:
            raise _error(each, "<< takes a map, or a list of maps")
        values = {**_map(each, depth), **values}
    return values


def _integer(text: str) -> int | Decimal | str:
    if ":" in text:  # a number to base 60, dropped by YAML 1.2: here a time, or a version
        return text
    digits = text.replace("_", "")
    plain = digits.lstrip("+-")
    value = int(digits, 0 if plain[:2] in ("0b", "0x") else 8 if plain[:1] == "0" else 10)
    return value if value.bit_length() <= _SIGNED_BITS else Decimal(value)


def _fraction(text: str) -> Decimal | str:
    try:
        value = Decimal(text)
    except ArithmeticError:  # a number to base 60, or .inf and .nan, which JSON lacks
        return text
    return value if value.is_finite() else text


_TAG = "tag:yaml.org,2002:"
_LIST, _MAP, _MERGE = _TAG + "seq", _TAG + "map", _TAG + "merge"
_SCALARS: dict[str, Callable[[str], Any]] = {  # JSON's types only: `!!set` and `!!binary` are refused
    **dict.fromkeys((_TAG + "str", _TAG + "timestamp", _TAG + "value", _MERGE), str),  # a date is a string
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: yaml.SafeLoader.bool_values[text.lower()],
    _TAG + "int": _integer,
    _TAG + "float": _fraction,
}


def _too_deep(where: Any) -> yaml.YAMLError:
    return _error(where, f"nested more than {DEPTH_MAX} levels deep")


def _error(where: Any, problem: str) -> yaml.YAMLError:
    """Return an error at a node or an event."""
    return yaml.constructor.ConstructorError(None, None, problem, where.start_mark)


def _one_line(error: Exception) -> str:
    """Return the problem and its place in one line. PyYAML writes several lines, with its own name for the text."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f" ({error.context})" if error.context else ""
        return f"{place}{error.problem}{context}"
    if isinstance(error, RecursionError):
        return f"nested more than {DEPTH_MAX} levels deep"
    return " ".join(str(error).split())
