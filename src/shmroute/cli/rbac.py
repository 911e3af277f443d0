"""`shmroute rbac`: prints exactly the rights that a watcher with these tables needs."""

from __future__ import annotations

from typing import Any

import click
import yaml

from shmroute.cli import options
from shmroute.resources.registry import BUILT_IN, WatchedKind
from shmroute.watcher.tables_file import read_tables

_VERBS = ["list", "watch"]


@click.command()
@options.tables
@options.table
@options.option("-n", "--namespace", default="default", help="Namespace of the watcher.")
@options.all_namespaces
@click.option("--name", default="shmroute-watcher", help="Name of the roles.")
def command(tables: str | None, table: tuple[str, ...], namespace: str, all_namespaces: bool, name: str) -> None:
    """Print the Roles and the ClusterRole that a watcher needs, as YAML.

    A cluster-scoped resource goes into the ClusterRole if its table says `scope: Cluster`: nothing is asked of a
    cluster. Bind the roles to the watcher's service account.
    """
    declared = read_tables(tables, table, several_namespaces=all_namespaces)
    rules: dict[str, list[dict[str, Any]]] = {}
    for kind in (*BUILT_IN, *declared):
        rule = {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": _VERBS}
        for place in _places(kind, namespace, all_namespaces):
            if rule not in rules.setdefault(place, []):
                rules[place].append(rule)
    roles = [_role(name, place, found) for place, found in sorted(rules.items())]
    click.echo(yaml.safe_dump_all(roles, sort_keys=False), nl=False)


def _places(kind: WatchedKind, namespace: str, all_namespaces: bool) -> tuple[str, ...]:
    """Return the namespaces whose Roles have the right; "" for the ClusterRole."""
    everywhere = kind.namespaces == ("*",) or (all_namespaces and not kind.namespaces)
    return ("",) if everywhere or not kind.namespaced else kind.namespaces or (namespace,)


def _role(name: str, namespace: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    kind = "Role" if namespace else "ClusterRole"
    copies = [{**rule, "verbs": list(rule["verbs"])} for rule in rules]  # YAML would write an alias for a shared list
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": copies}
