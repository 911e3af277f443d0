"""The tables file has a published schema; kustomization and chart carry the file, and the rights for its tables."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from shmroute.cli import group
from shmroute.errors import ConfigError
from shmroute.resources.table_definition import TablesFile, schema
from shmroute.watcher.tables_file import read_tables
from tests.deploy.rendering import CHART, DEPLOY, KUSTOMIZE, NAMESPACE, Manifest, kubectl_kustomized, templated
from tests.deploy.test_manifests import check_schema
from tests.tools import needs_helm, needs_kubectl

jsonschema = pytest.importorskip("jsonschema")

TABLES: dict[str, Any] = {
    "flags": {"resource": "configmaps.v1", "selector": "app=gateway", "value": ".data"},
    "nodes": {"resource": "nodes.v1", "scope": "Cluster", "index": {"zone": ".metadata.labels.zone"}},
    "plans": {
        "resource": "plans.v1.iidp.com",
        "namespace": ["team-a", "team-b"],
        "fieldSelector": "metadata.name!=old",
        "redis": {"key": "plan_{key}", "version": ".spec.version"},
        "limits": {"objects": 100},
    },
    "tenants": "tenants.v1.iidp.com",
}


def test_published_schema_equals_the_table_definitions() -> None:
    published = (DEPLOY / "tables.schema.json").read_text()
    assert published == json.dumps(schema(), indent=2) + "\n", "write it again: json.dumps(schema(), indent=2)"


def test_the_chart_checks_tables_by_the_same_schema() -> None:
    values = json.loads((CHART / "values.schema.json").read_text())
    _, parts = msgspec.json.schema_components([TablesFile], ref_template="#/definitions/{name}")
    assert values["properties"]["tables"] == parts.pop("TablesFile")["properties"]["tables"]
    assert {name: values["definitions"][name] for name in parts} == parts


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flags": {"resource": "configmaps.v1", "valeu": ".data"}},
        {"flags": {"value": ".data"}},
        {"flags": {"resource": "configmaps.v1", "secrets": "yes"}},
        {"flags": {"resource": "configmaps.v1", "limits": {"objects": 0}}},
        {"Flags": "configmaps.v1"},
    ],
)
def test_the_schema_accepts_exactly_what_the_watcher_accepts(tmp_path: Path, change: dict[str, Any]) -> None:
    content = {"tables": {**TABLES, **change}}
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(content))
    fits = jsonschema.Draft202012Validator(schema()).is_valid(content)
    assert fits == (not change)
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=r"tables.yaml:\d+: table '[Ff]lags'"):
        read_tables(str(path), (), several_namespaces=False)


def rules(manifests: list[Manifest]) -> list[Manifest]:
    (role,) = [each for each in manifests if each["kind"] in ("Role", "ClusterRole")]
    found: list[Manifest] = role["rules"]
    return found


@needs_helm
def test_the_chart_carries_the_tables_and_the_rights_for_them() -> None:
    manifests = templated("scope=cluster", "node.enabled=true", values={"tables": TABLES})
    for manifest in manifests:
        check_schema(manifest)
    (carried,) = [each for each in manifests if each["kind"] == "ConfigMap"]
    assert yaml.safe_load(carried["data"]["tables.yaml"]) == {"tables": TABLES}
    granted = {(*rule["apiGroups"], *rule["resources"]) for rule in rules(manifests)}
    assert {("", "configmaps"), ("", "nodes"), ("iidp.com", "plans"), ("iidp.com", "tenants")} <= granted
    (daemons,) = [each for each in manifests if each["kind"] == "DaemonSet"]
    pod = daemons["spec"]["template"]["spec"]
    assert "--tables=/etc/shmroute/tables/tables.yaml" in pod["containers"][0]["args"]
    assert {"name": "tables", "configMap": {"name": carried["metadata"]["name"]}} in pod["volumes"]


@needs_helm
@pytest.mark.parametrize("beyond", [{"scope": "Cluster"}, {"namespace": "*"}, {"namespace": ["team-a", "team-b"]}])
def test_the_chart_refuses_a_table_beyond_its_namespace(beyond: dict[str, Any]) -> None:
    table = {"resource": "plans.v1.iidp.com"}
    assert templated(values={"tables": {"plans": {**table, "namespace": NAMESPACE}}})
    with pytest.raises(Exception, match="non-zero exit status"):
        templated(values={"tables": {"plans": {**table, **beyond}}})


@needs_kubectl
@pytest.mark.parametrize(
    ("base", "kind", "component", "container"),
    [
        ("sidecar", "Deployment", "tables", "shmroute"),
        ("node", "DaemonSet", "tables", "shmroute"),
        ("child", "Deployment", "tables-child", "server"),
    ],
)
def test_the_component_carries_the_file_and_the_rights_for_it(
    tmp_path: Path, base: str, kind: str, component: str, container: str
) -> None:
    (tmp_path / "kustomize").symlink_to(KUSTOMIZE)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    tables = {"flags": TABLES["flags"], "tenants": TABLES["tenants"]}
    (overlay / "tables.yaml").write_text(yaml.safe_dump({"tables": tables}))
    scope = ("-A", "--name", "shmroute-watcher:NAMESPACE") if base == "node" else ("-n", NAMESPACE)
    printed = CliRunner().invoke(
        group, ["rbac", "--tables", str(overlay / "tables.yaml"), *scope], catch_exceptions=False
    )
    (overlay / "role.yaml").write_text(printed.stdout)
    generated = {"name": "shmroute-tables", "files": ["tables.yaml"], "options": {"disableNameSuffixHash": True}}
    kustomization = {
        "namespace": NAMESPACE,
        "resources": [f"../kustomize/{base}"],
        "components": [f"../kustomize/{component}"],
        "configMapGenerator": [generated],
        "patches": [{"path": "role.yaml", "target": {"kind": "(Cluster)?Role"}}],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    manifests = kubectl_kustomized(overlay)
    for manifest in manifests:
        check_schema(manifest)
    (carried,) = [each for each in manifests if each["kind"] == "ConfigMap"]
    assert carried["metadata"]["name"] == "shmroute-tables", "no hash: a change must restart nothing"
    assert yaml.safe_load(carried["data"]["tables.yaml"]) == {"tables": tables}
    granted = {(*rule["apiGroups"], *rule["resources"]) for rule in rules(manifests)}
    built_in = {("iidp.com", "appmodels"), ("discovery.k8s.io", "endpointslices")}
    assert granted == {*built_in, ("", "configmaps"), ("iidp.com", "tenants")}
    (workload,) = [each for each in manifests if each["kind"] == kind]
    pod = workload["spec"]["template"]["spec"]
    every = (*pod.get("initContainers", ()), *pod["containers"])
    assert all(each.get("image") for each in every), "the component patches containers that exist"
    (watcher,) = [each for each in every if each["name"] == container]
    assert {"name": "SHMROUTE_TABLES", "value": "/etc/shmroute/tables/tables.yaml"} in watcher["env"]
    assert "/etc/shmroute/tables" in [mount["mountPath"] for mount in watcher["volumeMounts"]]
