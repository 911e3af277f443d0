"""Label and field selectors: parses their text, and tests items against them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .kinds import Kind
from .status import bad_request

Labels = Mapping[str, str]

_SET = re.compile(r"^(\S+)\s+(in|notin)\s+\(([^)]*)\)$")
_COMMA_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True)
class Selector:
    """The selection of a list or a watch. A name or namespace of None means any."""

    labels: tuple[Callable[[Labels], bool], ...] = ()
    name: str | None = None
    namespace: str | None = None
    excludes: tuple[tuple[str, str], ...] = ()

    @property
    def everything(self) -> bool:
        return not self.labels and self.name is None and not self.excludes

    def matches(self, namespace: str, name: str, labels: Labels) -> bool:
        if self.namespace is not None and namespace != self.namespace:
            return False
        if self.name is not None and name != self.name:
            return False
        for field, value in self.excludes:
            if (name if field == "metadata.name" else namespace) == value:
                return False
        return all(test(labels) for test in self.labels)


def _requirement(text: str) -> Callable[[Labels], bool]:
    if found := _SET.match(text):
        key, operator, values = found.groups()
        wanted = {each.strip() for each in values.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in wanted
        return lambda labels: labels.get(key) not in wanted
    if "!=" in text:
        key, value = (each.strip() for each in text.split("!=", 1))
        return lambda labels: labels.get(key) != value
    if "=" in text:
        key, value = (each.strip() for each in re.split("==|=", text, maxsplit=1))
        return lambda labels: labels.get(key) == value
    if text.startswith("!"):
        key = text[1:].strip()
        return lambda labels: key not in labels
    if not text or " " in text:
        raise bad_request(f"unable to parse requirement: found '{text}'")
    return lambda labels: text in labels


def parse(kind: Kind, namespace: str | None, label_text: str, field_text: str) -> Selector:
    """Return the selector of one request; ApiError 400 where the server would say so."""
    tests = tuple(_requirement(part.strip()) for part in _COMMA_OUTSIDE_PARENTHESES.split(label_text) if label_text)
    name: str | None = None
    excludes: list[tuple[str, str]] = []
    for part in field_text.split(",") if field_text else ():
        field, equal, value = part.partition("!=" if "!=" in part else "=")
        value = value.removeprefix("=")
        if not equal:
            raise bad_request(f"invalid selector: '{field_text}'; can't understand '{part}'")
        if field not in ("metadata.name", "metadata.namespace"):
            raise bad_request(
                f"field label not supported: {field}"
                if kind.custom or kind.own_fields
                else f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
        if equal == "!=":
            excludes.append((field, value))
        elif field == "metadata.name":
            name = value
        elif namespace is None:
            namespace = value
        elif namespace != value:
            excludes.append(("metadata.namespace", namespace))
    return Selector(tests, name, namespace, tuple(excludes))
