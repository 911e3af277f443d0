"""The Helm chart renders the same as the kustomizations, accepts its documented values, and shares no name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shmroute.version import __version__
from tests.deploy.conftest import Kustomize
from tests.deploy.levels import breaches_of_baseline, breaches_of_restricted, containers
from tests.deploy.rendering import CHART, NAMESPACE, Manifest, by_identity, templated
from tests.deploy.test_manifests import PAGE, REAL_CLUSTER, check_schema, dry_run, pods_of, taken
from tests.tools import needs_helm

pytestmark = needs_helm

NODE = ("scope=cluster", "node.enabled=true")
DIGEST = f"sha256:{'0123456789abcdef' * 4}"

EVERYTHING: dict[str, Any] = {
    "scope": "cluster",
    "serviceAccount": {"create": True, "name": "watcher", "annotations": {"a": "b"}},
    "image": {"repository": "registry.example.com/shmroute", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "args": ["--port=http", "--redis-timeout=1"],
    "env": [{"name": "SHMROUTE_REDIS", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}}],
    "envFrom": [{"secretRef": {"name": "shmroute"}}],
    "extraVolumes": [{"name": "tls", "secret": {"secretName": "redis-tls"}}],
    "extraVolumeMounts": [{"name": "tls", "mountPath": "/etc/redis", "readOnly": True}],
    "tables": {"flags": {"resource": "configmaps.v1", "value": ".data"}},
    "checkpoint": {"enabled": True, "volume": {"emptyDir": {"sizeLimit": "1Gi"}}},
    "node": {
        "enabled": True,
        "area": "all",
        "group": 4711,
        "port": 9000,
        "readers": ["team-x", "team-y"],
        "nodeSelector": {"pool": "models"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "resources": {"limits": {"memory": "2Gi"}},
    },
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]},
}
"""A value other than the default for each setting of the chart's own manifests."""


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_chart_has_no_crd_because_helm_never_updates_one() -> None:
    assert not (CHART / "crds").exists()
    assert "CustomResourceDefinition" not in {each["kind"] for each in templated(*NODE)}


@pytest.mark.parametrize(("name", "settings"), [("namespaced", ()), ("cluster", ("scope=cluster",)), ("node", NODE)])
def test_the_chart_renders_the_same_as_the_kustomization(
    kustomize: Kustomize, name: str, settings: tuple[str, ...]
) -> None:
    assert _meaning(templated(*settings)) == _meaning(kustomize(name))


@pytest.mark.parametrize("values", [{}, {"scope": "cluster"}, EVERYTHING], ids=["default", "cluster", "everything"])
def test_rendered_chart_fits_the_published_schema(values: dict[str, Any]) -> None:
    manifests = templated(values=values)
    for manifest in manifests:
        check_schema(manifest)
    for pod in pods_of(manifests):
        assert list(breaches_of_baseline(pod)) == []


def test_every_value_reaches_the_manifests() -> None:
    manifests = by_identity(templated(values=EVERYTHING))
    pod = manifests["DaemonSet", "shmroute-shmroute"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (init,) = pod["initContainers"]
    assert {each["image"] for each in (container, init)} == {"registry.example.com/shmroute:1.2.3"}
    assert {each["imagePullPolicy"] for each in (container, init)} == {"Always"}
    args = {"--area=all", "--group=4711", "--listen=:9000", "--port=http", "--redis-timeout=1"}
    assert {*args, "--checkpoint=/var/lib/shmroute/checkpoint"} <= set(container["args"])
    assert "--area=all" in container["startupProbe"]["exec"]["command"]
    assert container["ports"] == [{"name": "health", "containerPort": 9000}]
    assert container["resources"] == {"limits": {"memory": "2Gi"}, "requests": {"cpu": "20m", "memory": "256Mi"}}
    assert {"name": "SHMROUTE_DIR", "value": "/run/shmroute"} in container["env"]
    assert EVERYTHING["env"][0] in container["env"]
    assert container["envFrom"] == EVERYTHING["envFrom"]
    assert EVERYTHING["extraVolumeMounts"][0] in container["volumeMounts"]
    assert {"name": "checkpoint", "mountPath": "/var/lib/shmroute"} in container["volumeMounts"]
    assert EVERYTHING["extraVolumes"][0] in pod["volumes"]
    assert {"name": "checkpoint", "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"]
    assert container["securityContext"]["runAsGroup"] == 4711
    assert "chown 65532:4711" in init["command"][-1]
    for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[field] == EVERYTHING["node"][field]
    assert pod["imagePullSecrets"] == EVERYTHING["imagePullSecrets"]
    assert pod["serviceAccountName"] == "watcher"
    assert manifests["ServiceAccount", "watcher"]["metadata"]["annotations"] == {"a": "b"}
    [subject] = manifests["ClusterRoleBinding", f"shmroute-watcher:{NAMESPACE}:shmroute"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "watcher", "namespace": NAMESPACE}
    claims = [each for (kind, _), each in manifests.items() if kind == "PersistentVolumeClaim"]
    assert claims
    [rule] = manifests["NetworkPolicy", "shmroute-shmroute"]["spec"]["ingress"]
    assert rule == {"from": EVERYTHING["networkPolicy"]["from"], "ports": [{"port": 9000}]}


def test_a_namespace_that_reads_gets_a_volume_to_the_watchers_folder() -> None:
    manifests = templated(*NODE, "node.readers={team-x}")
    volumes = {each["spec"]["claimRef"]["namespace"]: each for each in manifests if each["kind"] == "PersistentVolume"}
    assert set(volumes) == {NAMESPACE, "team-x"}
    assert len({volume["spec"]["hostPath"]["path"] for volume in volumes.values()}) == 1
    for claim in (each for each in manifests if each["kind"] == "PersistentVolumeClaim"):
        volume = volumes[claim["metadata"]["namespace"]]
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"] == f"{NAMESPACE}.shmroute"


# -- one cluster, several releases


@pytest.mark.parametrize("settings", [(), ("scope=cluster",), (*NODE, "node.readers={x}")])
@pytest.mark.parametrize(
    "releases",
    [
        (("shmroute", "team-a"), ("shmroute", "team-b")),
        (("one", "team-a"), ("two", "team-a")),
        (("b.x", "a"), ("x", "a")),
        (("x", "a"), ("b.x", "a")),
        (("x", "a"), ("x-shmroute", "a")),
    ],
    ids=lambda releases: " and ".join("/".join(reversed(each)) for each in releases),
)
def test_two_releases_have_no_name_in_common(
    releases: tuple[tuple[str, str], tuple[str, str]], settings: tuple[str, ...]
) -> None:
    one, other = (templated(*settings, release=release, namespace=namespace) for release, namespace in releases)
    assert set(taken(one)) & set(taken(other)) == set()
    paths = [
        {each["spec"]["hostPath"]["path"] for each in release if each["kind"] == "PersistentVolume"}
        for release in (one, other)
    ]
    assert paths[0] & paths[1] == set()
    selected = [
        (each["metadata"]["namespace"], json.dumps(each["spec"]["selector"]))
        for each in (*one, *other)
        if each["kind"] == "DaemonSet"
    ]
    assert len(selected) == len(set(selected))


# -- values


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tag": "1"}, "tag"),
        ({"image": {"digset": DIGEST}}, "digset"),
        ({"image": {"digest": "sha256:abc"}}, "digest"),
        ({"image": {"tag": f"1@{DIGEST}"}}, "tag"),
        ({"scope": "some"}, "scope"),
        ({"node": {"enabled": True}}, "scope"),
        ({"node": {"toleration": []}}, "toleration"),
        ({"node": {"readers": ["a b"]}}, "readers"),
        ({"sidecar": {"args": []}}, "args"),
        ({"env": {"SHMROUTE_REDIS": "x"}}, "env"),
        ({"serviceAccount": {"name": "A_b"}}, "name"),
        ({"networkPolicy": {"enabled": "no"}}, "enabled"),
        ({"sidecar": {"port": 0}}, "port"),
    ],
    ids=str,
)
def test_meaningless_values_of_the_chart_are_refused_by_name(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        templated(values=values)
    assert problem in refused.value.stderr


def test_the_schema_knows_every_value_and_no_other() -> None:
    def paths(value: Any, schema: dict[str, Any], path: str = "") -> None:
        if isinstance(value, dict) and "properties" in schema:
            assert schema["additionalProperties"] is False, path
            assert set(schema["properties"]) - {"global"} == set(value), path
            for name, each in value.items():
                paths(each, schema["properties"][name], f"{path}.{name}")

    paths(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"shmroute:{__version__}"),
        ({"tag": "1.2.3"}, "shmroute:1.2.3"),
        ({"digest": DIGEST}, f"shmroute@{DIGEST}"),
        ({"tag": "1.2.3", "digest": DIGEST}, f"shmroute@{DIGEST}"),
        ({"repository": "host:5000/a/shmroute", "tag": "1"}, "host:5000/a/shmroute:1"),
    ],
    ids=str,
)
def test_an_image_by_digest_gets_no_tag(image: dict[str, str], expected: str) -> None:
    [pod] = pods_of(templated(*NODE, values={"image": image}))
    assert {container["image"] for container in containers(pod)} == {expected}


@pytest.mark.parametrize(
    ("account", "name", "made"),
    [
        ({}, "shmroute-shmroute", True),
        ({"name": ""}, "shmroute-shmroute", True),
        ({"name": "own"}, "own", True),
        ({"create": False}, "default", False),
        ({"create": False, "name": "own"}, "own", False),
    ],
    ids=str,
)
def test_the_service_account_always_has_a_name(account: dict[str, Any], name: str, made: bool) -> None:
    manifests = templated(*NODE, values={"serviceAccount": account})
    [pod] = pods_of(manifests)
    [subject] = next(each["subjects"] for each in manifests if "subjects" in each)
    assert pod["serviceAccountName"] == subject["name"] == name
    assert (("ServiceAccount", name) in by_identity(manifests)) is made


def test_a_network_policy_without_sources_admits_no_connection() -> None:
    manifests = by_identity(templated(*NODE, values={"networkPolicy": {"from": []}}))
    assert manifests["NetworkPolicy", "shmroute-shmroute"]["spec"]["ingress"] == []
    assert ("NetworkPolicy", "shmroute-shmroute") not in by_identity(templated(*NODE, "networkPolicy.enabled=false"))


# -- the sidecar in a user's own chart


def test_chart_on_the_page_has_the_sidecar_of_the_kustomization(kustomize: Kustomize, tmp_path: Path) -> None:
    manifests = templated(chart=dependent(tmp_path))
    for manifest in manifests:
        check_schema(manifest)
    [pod] = pods_of(manifests)
    [expected] = pods_of(kustomize("sidecar"))
    (sidecar,) = pod["initContainers"]
    assert sidecar.pop("imagePullPolicy") == "IfNotPresent"
    assert sidecar == {**expected["initContainers"][0], "image": f"shmroute:{__version__}"}
    assert pod["volumes"] == [volume for volume in expected["volumes"] if volume["name"] == "shm"]
    assert pod["serviceAccountName"] in {
        each["metadata"]["name"] for each in manifests if each["kind"] == "ServiceAccount"
    }
    assert not [breach for breach in breaches_of_restricted(pod) if breach.startswith("shmroute:")]


@pytest.mark.parametrize("scope", ["namespaced", "cluster"])
def test_as_a_subchart_no_object_is_named_like_the_release(tmp_path: Path, scope: str) -> None:
    """`helm create` names an app's ServiceAccount like the release, and a second object of that name fails."""
    manifests = templated(f"shmroute.scope={scope}", chart=dependent(tmp_path), release="app")
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names)) > 3
    assert "app" not in {name for _, name in names}


def test_the_values_on_the_page_reach_the_sidecar(tmp_path: Path) -> None:
    [values] = [yaml.safe_load(text) for text in yaml_blocks() if text.startswith("shmroute:")]
    manifests = templated(chart=dependent(tmp_path), values=values)
    for manifest in manifests:
        check_schema(manifest)
    [pod] = pods_of(manifests)
    (sidecar,) = pod["initContainers"]
    assert sidecar["image"] == f"registry.example.com/shmroute@{values['shmroute']['image']['digest']}"
    assert sidecar["args"][-2:] == ["--checkpoint=/var/lib/shmroute/checkpoint", "--port=http"]
    assert sidecar["env"] == values["shmroute"]["env"]
    assert {"name": "checkpoint", "mountPath": "/var/lib/shmroute"} in sidecar["volumeMounts"]
    assert {"name": "checkpoint", **values["shmroute"]["checkpoint"]["volume"]} in pod["volumes"]


def test_every_common_value_reaches_the_sidecar(tmp_path: Path) -> None:
    values = {**EVERYTHING, "sidecar": {"port": 9000, "sizeLimit": "1Gi"}}
    manifests = templated(chart=dependent(tmp_path), values={"shmroute": {**values, "node": {}}})
    [pod] = pods_of(manifests)
    (sidecar,) = pod["initContainers"]
    assert sidecar["envFrom"] == EVERYTHING["envFrom"]
    assert sidecar["ports"] == [{"name": "health", "containerPort": 9000}]
    assert "--listen=:9000" in sidecar["args"]
    assert EVERYTHING["extraVolumeMounts"][0] in sidecar["volumeMounts"]
    assert EVERYTHING["extraVolumes"][0] in pod["volumes"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in pod["volumes"]


@pytest.mark.skipif(not REAL_CLUSTER, reason="SHMROUTE_TEST_KUBECONFIG is not set")
def test_real_api_server_accepts_the_rendered_chart_in_a_dry_run(tmp_path: Path) -> None:
    node = {**EVERYTHING["node"], "readers": [], "priorityClassName": ""}
    for manifest in (
        *templated(namespace="default"),
        *templated(namespace="default", values={**EVERYTHING, "node": node}),
        *templated(namespace="default", chart=dependent(tmp_path)),
    ):
        dry_run(manifest)


# -- helpers


def yaml_blocks() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def dependent(folder: Path) -> Path:
    """Return a user's chart that depends on ours, and takes its sidecar as docs/kubernetes.md shows."""
    [shown] = (text for text in yaml_blocks() if "{{" in text)
    chart = folder / "gateway"
    shutil.copytree(CHART, chart / "charts" / "shmroute")
    (chart / "templates").mkdir()
    indented = "".join(f"    {line}\n" for line in shown.splitlines()).replace("nindent 4", "nindent 8")
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gateway"}}
    text = f"{yaml.safe_dump(head)}spec:\n  selector: {{matchLabels: {{app: gateway}}}}\n  template:\n"
    text += f"    metadata: {{labels: {{app: gateway}}}}\n{indented}"
    (chart / "templates" / "deployment.yaml").write_text(text)
    dependency = {"name": "shmroute", "version": __version__, "repository": "file://../shmroute"}
    about = {"apiVersion": "v2", "name": "gateway", "version": "1.0.0", "dependencies": [dependency]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    return chart


def _meaning(manifests: list[Manifest]) -> Any:
    """Return the manifests by kind, without names and labels, which differ, and what the kustomization leaves to its
    user."""
    plain: list[Manifest] = json.loads(json.dumps(manifests).replace(f'"shmroute:{__version__}"', '"shmroute"'))
    meaning: dict[str, Any] = {}
    for manifest in plain:
        kind = manifest["kind"]
        manifest.pop("metadata")
        spec = manifest.get("spec", {})
        for subject in manifest.get("subjects", ()):
            subject.pop("name")
            subject.pop("namespace", None)  # without one, a RoleBinding's subject is of the binding's namespace
        manifest.get("roleRef", {}).pop("name", None)
        if kind == "DaemonSet":
            spec.pop("selector")
            spec["template"].pop("metadata")
            pod = spec["template"]["spec"]
            pod.pop("serviceAccountName")
            for volume in pod["volumes"]:
                volume["persistentVolumeClaim"].pop("claimName")
            for container in containers(pod):
                container.pop("imagePullPolicy", None)
        elif kind == "NetworkPolicy":
            spec.pop("podSelector")
        elif kind == "PersistentVolume":
            spec["claimRef"].pop("name")
            spec["hostPath"].pop("path")
        elif kind == "PersistentVolumeClaim":
            spec.pop("volumeName")
        assert kind not in meaning
        meaning[kind] = manifest
    return meaning
