"""Tables that a user declares: their definitions, and the `WatchedKind` made of each. Pure: no I/O, no clock.

Sources and tables treat that kind as every other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from zlib import crc32

import msgspec

from shmroute.errors import ConfigError
from shmroute.resources.appmodel_rules import DNS_LABEL, DNS_SUBDOMAIN
from shmroute.resources.field_selector import parse_field_selector
from shmroute.resources.registry import BUILT_IN, WatchedKind
from shmroute.resources.table_definition import TABLE_NAME, DefinitionError, TableDefinition, TableLimits
from shmroute.resources.table_parser import TableParser
from shmroute.rows import BUILT_IN_TABLES, FIRST_TABLE_NUMBER, LAST_TABLE_NUMBER, TABLE_KINDS

RESERVED_NAMES: Final = frozenset(
    BUILT_IN_TABLES.keys()
    | {"metadata", "conflicts", "invalid", "tables", "workers", "settings"}
    | {kind.name for kind in BUILT_IN}
)
"""Names of the built-in tables and views, which `shmroute get` shows."""

_VERSION = re.compile(r"v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?")


class TableKind(WatchedKind, frozen=True, eq=False, kw_only=True):
    """A `WatchedKind` that feeds a declared table."""

    definition: TableDefinition


def parse_resource(resource: str) -> tuple[str, str, str]:
    """Return group, version and plural of a resource in kubectl's full form. Raises `DefinitionError`."""
    plural, _, rest = resource.partition(".")
    version, _, group = rest.partition(".")
    complete = not resource.endswith(".")
    names = (plural, group) if group else (plural,)
    if complete and _VERSION.fullmatch(version) and all(map(DNS_SUBDOMAIN.fullmatch, names)):
        return group, version, plural
    hint = "core resources: configmaps.v1"
    if plural and rest and not _VERSION.fullmatch(version):
        hint = f"the version is missing: {plural}.v1.{rest}, for example"
    text = f"resource {resource!r}: write PLURAL.VERSION.GROUP, as in tenants.v1.iidp.com ({hint})"
    raise DefinitionError(("resource",), text)


def watch_tables(
    definitions: dict[str, TableDefinition],
    *,
    several_namespaces: bool,
    current: Iterable[TableKind] = (),
    place: Callable[[str, tuple[str, ...]], str] = lambda table, field: "",  # noqa: ARG005
) -> tuple[TableKind, ...]:
    """Return the kinds to watch for tables, by name.

    A table's number follows from its name and definition, so that a watcher that takes over finds its rows again and a
    redefined table gets another one.

    Args:
        definitions: the tables.
        several_namespaces: whether the watcher's own namespaces are several; keys then hold the namespace.
        current: the kinds that are watched now: one whose definition has not changed stays the same kind, and no other
            takes its number.
        place: words in front of a problem with that field of that table, such as file and line.

    Raises:
        ConfigError: names, resources or paths that cannot be used; a line for each.
    """
    known = {kind.name: kind for kind in current}
    used = {kind.feeds for kind in known.values()}
    problems: list[str] = []
    kinds = []
    for name, definition in sorted(definitions.items()):
        if name in known and known[name].definition == definition:
            kinds.append(known[name])
            continue
        try:
            kind = _watch_table(name, definition, _number(name, definition, used), several_namespaces)
        except DefinitionError as error:
            problems.append(f"{place(name, error.field)}table {name!r}: {error.text}")
        else:
            used.add(kind.feeds)
            kinds.append(kind)
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(kinds)


def _watch_table(name: str, definition: TableDefinition, number: int, several_namespaces: bool) -> TableKind:
    if not TABLE_NAME.fullmatch(name):
        raise DefinitionError((), "write a name of lower-case letters, digits, '-' and '_', at most 63")
    if name in RESERVED_NAMES:
        raise DefinitionError((), "the name belongs to shmroute: take another one")
    group, version, plural = parse_resource(definition.resource)
    if (group, plural) == ("", "secrets") and definition.secrets != "allowed":
        raise DefinitionError(
            ("resource",),
            f"{definition.resource}: every process that may read the area could read the Secrets;"
            " write `secrets: allowed` in the table if that is meant",
        )
    for field, text in _problems(definition):
        raise DefinitionError(field, text)
    parse_field_selector(definition.field_selector)
    namespaces = definition.namespaces
    several = len(namespaces) > 1 or namespaces == ("*",) or (not namespaces and several_namespaces)
    return TableKind(
        name=name,
        group=group,
        version=version,
        plural=plural,
        kind=definition.kind,
        namespaced=definition.scope != "Cluster",
        parse=TableParser(definition, several),
        namespaces=namespaces,
        selector=definition.selector,
        field_selector=definition.field_selector,
        feeds=number,
        required=definition.required,
        awaited=definition.required,
        definition=definition,
    )


def _problems(definition: TableDefinition) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each field that breaks a rule beyond its type, and what to write in it."""
    for index in definition.index:
        if not TABLE_NAME.fullmatch(index):
            yield ("index", index), f"index {index!r}: write lower-case letters, digits, '-' and '_'"
    namespaces = definition.namespaces
    if definition.scope == "Cluster" and namespaces:
        yield ("namespace",), "namespace: objects of scope Cluster have none: leave the field out"
    for namespace in namespaces:
        if namespace == "*" and len(namespaces) > 1:
            yield ("namespace",), "namespace: * stands for all namespaces: write it alone"
        elif namespace != "*" and not DNS_LABEL.fullmatch(namespace):
            yield (
                ("namespace",),
                f"namespace {namespace!r}: write lower-case letters, digits and '-', at most 63; several as a list",
            )
    if definition.namespace == []:
        yield ("namespace",), "namespace: an empty list: write at least one, or leave the field out"
    if definition.limits is not None and definition.limits == TableLimits():
        yield ("limits",), "limits: write objects, bytes or both"


def _number(name: str, definition: TableDefinition, used: set[int]) -> int:
    """Return a number for the table's rows, the first of `TABLE_KINDS`."""
    slots = (LAST_TABLE_NUMBER + 1 - FIRST_TABLE_NUMBER) // TABLE_KINDS
    slot = crc32(msgspec.json.encode([name, definition], order="sorted")) % slots
    while (number := FIRST_TABLE_NUMBER + TABLE_KINDS * slot) in used:
        slot = (slot + 1) % slots
    return number
