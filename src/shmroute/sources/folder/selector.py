"""Label selectors in Kubernetes' syntax, for a source without an API server that selects. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from shmroute.errors import ConfigError

Selector: TypeAlias = Callable[[Mapping[str, str]], bool]
"""Returns whether an object with these labels is selected."""

_KEY = r"(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)"
_REQUIREMENTS = {
    "among": re.compile(rf"{_KEY}\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)"),
    "equals": re.compile(rf"{_KEY}\s*(?P<operator>==|=|!=)\s*(?P<values>[-A-Za-z0-9_.]*)"),
    "exists": re.compile(rf"(?P<operator>!?)\s*{_KEY}(?P<values>)"),
}
_COMMA = re.compile(r",(?![^()]*\))")  # not between the brackets of a set


def parse_selector(text: str) -> Selector:
    """Parse a selector such as `iidp=iidp,stage in (test, prod),!old`. "" selects everything.

    Raises `ConfigError` if `text` is not a selector.
    """
    requirements = [_requirement(part.strip(), text) for part in _COMMA.split(text)] if text.strip() else []
    return lambda labels: all(requirement(labels) for requirement in requirements)


def _requirement(part: str, text: str) -> Selector:
    for pattern in _REQUIREMENTS.values():
        if match := pattern.fullmatch(part):
            break
    else:
        raise ConfigError(f"label selector {text!r}: {part!r} is neither KEY=VALUE, KEY in (A, B), KEY nor !KEY")
    key, operator = match["key"], match["operator"]
    values = {value.strip() for value in match["values"].split(",")}
    match operator:
        case "":
            return lambda labels: key in labels
        case "!":
            return lambda labels: key not in labels
        case "!=" | "notin":  # an object without the label is selected, too
            return lambda labels: labels.get(key) not in values
        case _:
            return lambda labels: labels.get(key) in values
