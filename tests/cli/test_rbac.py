"""`shmroute rbac` prints exactly the rights that are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.cli.running import Cli

FILE = """\
tables:
  tenants: {resource: tenants.v1.iidp.com, scope: Cluster}
  flags: {resource: configmaps.v1}
  more-flags: {resource: configmaps.v1, selector: a=b}
  shared: {resource: configmaps.v1, namespace: shared}
"""


def rights(cli: Cli, *arguments: str) -> dict[tuple[str, str], set[str]]:
    """Return the resources of each printed role, by kind of role and namespace."""
    answered = cli("rbac", *arguments)
    assert answered.code == 0, answered
    roles: list[dict[str, Any]] = list(yaml.safe_load_all(answered.out))
    assert all(rule["verbs"] == ["list", "watch"] for role in roles for rule in role["rules"])
    return {
        (role["kind"], role["metadata"].get("namespace", "")): {
            f"{resource}.{group}"
            for rule in role["rules"]
            for resource in rule["resources"]
            for group in rule["apiGroups"]
        }
        for role in roles
    }


BUILT_IN = {"appmodels.iidp.com", "endpointslices.discovery.k8s.io"}


def test_each_namespace_gets_a_role_with_its_resources(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tables.yaml").write_text(FILE)
    assert rights(cli, "--tables", str(tmp_path / "tables.yaml"), "-n", "team") == {
        ("ClusterRole", ""): {"tenants.iidp.com"},
        ("Role", "team"): {*BUILT_IN, "configmaps."},
        ("Role", "shared"): {"configmaps."},
    }


def test_all_namespaces_need_a_cluster_role(cli: Cli) -> None:
    assert rights(cli, "-A", "--table", "flags=configmaps.v1") == {("ClusterRole", ""): {*BUILT_IN, "configmaps."}}
