"""The manifests under deploy/ are what an API server takes, and ask for no more than they need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config, dynamic

from shmroute.version import __version__
from tests.deploy.rendering import (
    CHART,
    HELM,
    KUBECTL,
    KUSTOMIZE,
    Manifest,
    by_identity,
    kubectl_kustomized,
    kustomized,
    templated,
)
from tests.docs.pages import ROOT, blocks

VARIANTS = ("namespaced", "cluster", "sidecar", "child", "node")
WORKLOADS = ("Deployment", "DaemonSet")
REAL_CLUSTER = os.environ.get("SHMROUTE_TEST_KUBECONFIG")

needs_helm = pytest.mark.skipif(not HELM, reason="helm is not installed")

ALL = [pytest.param(manifest, id=f"{name}-{manifest['kind']}") for name in VARIANTS for manifest in kustomized(name)]
PODS = [
    pytest.param(manifest["spec"]["template"]["spec"], id=f"{name}-{manifest['metadata']['name']}")
    for name in VARIANTS
    for manifest in kustomized(name)
    if manifest["kind"] in WORKLOADS
]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize("manifest", ALL)
def test_each_manifest_fits_the_published_schema(manifest: Manifest) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the schema library's own
        import kubernetes_validate

        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif(not REAL_CLUSTER, reason="SHMROUTE_TEST_KUBECONFIG is not set")
@pytest.mark.parametrize("manifest", ALL)
def test_a_real_api_server_takes_each_manifest_in_a_dry_run(manifest: Manifest) -> None:
    dry_run(manifest)


def dry_run(manifest: Manifest) -> None:
    """Have the real API server say whether it would take the manifest."""
    with config.new_client_from_config(REAL_CLUSTER) as api:  # type: ignore[no-untyped-call]
        resources = dynamic.DynamicClient(api).resources  # type: ignore[no-untyped-call]
        resource = resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        resource.server_side_apply(
            body=manifest,
            name=manifest["metadata"]["name"],
            namespace=manifest["metadata"].get("namespace", "default"),
            field_manager="shmroute-tests",
            force_conflicts=True,
            dry_run="All",
        )


@pytest.mark.parametrize("name", ["namespaced", "cluster"])
def test_the_rights_are_list_and_watch_on_two_resources_and_nothing_else(name: str) -> None:
    (role,) = (each for each in kustomized(name) if each["kind"] in ("Role", "ClusterRole"))
    rights = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == {
        (group, resource, verb)
        for group, resource in (("iidp.com", "appmodels"), ("discovery.k8s.io", "endpointslices"))
        for verb in ("list", "watch")
    }


@pytest.mark.parametrize("pod", PODS)
def test_every_container_runs_without_root_on_a_read_only_file_system(pod: Manifest) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    for container in containers(pod):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]


@pytest.mark.parametrize("pod", PODS)
def test_every_container_that_reads_or_writes_an_area_mounts_the_same_shared_memory(pod: Manifest) -> None:
    mounts = [
        {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}["/dev/shm"]
        for container in containers(pod)
    ]
    assert len(set(mounts)) == 1
    (volume,) = (each for each in pod["volumes"] if each["name"] == mounts[0])
    assert volume.get("emptyDir", {}).get("medium") == "Memory" or volume["hostPath"]["path"] == "/dev/shm"


def test_the_sidecar_is_native_and_the_server_starts_after_its_first_snapshot() -> None:
    (deployment,) = (each for each in kustomized("sidecar") if each["kind"] == "Deployment")
    (sidecar,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"][:2] == ["shmroute", "wait"]


def test_the_commands_in_the_manifests_are_commands_of_shmroute() -> None:
    from shmroute.cli import group

    # Without the group above it a command would learn, and keep, that there is no `-h`.
    parent = group.make_context("shmroute", ["watch"])
    for pod in (parameter.values[0] for parameter in PODS):
        assert isinstance(pod, dict)
        for container in containers(pod):
            probes = [container[probe]["exec"]["command"] for probe in _probes(container)]
            for command in [container.get("command", []), ["shmroute", *container.get("args", [])], *probes]:
                if command[:1] == ["shmroute"] and len(command) > 1:
                    own = command[2 : command.index("--")] if "--" in command else command[2:]
                    found = group.get_command(None, command[1])  # type: ignore[arg-type]
                    assert found is not None, command
                    found.make_context(command[1], [*own, *(["--", "true"] if "--" in command else [])], parent=parent)


def _probes(container: Manifest) -> list[str]:
    return [name for name in container if name.endswith("Probe") and "exec" in container[name]]


def test_the_chart_carries_the_same_definition() -> None:
    definition = ROOT / "crds" / "appmodels.yaml"
    assert (CHART / "crds" / "appmodels.yaml").read_text() == definition.read_text()


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


CHOSEN = (
    "scope=cluster",
    "node.enabled=true",
    "node.area=all",
    "node.group=4711",
    "node.port=9000",
    "node.resources.limits.memory=2Gi",
    "serviceAccount.name=watcher",
    "image.repository=registry.example.com/shmroute",
    "image.tag=1.2.3",
)
"""Every value of the chart that its own manifests use, other than by default."""


@needs_helm
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("namespaced", ()),
        ("cluster", ("scope=cluster",)),
        ("node", ("scope=cluster", "node.enabled=true")),
    ],
)
def test_the_chart_renders_what_the_kustomization_says(name: str, settings: tuple[str, ...]) -> None:
    assert _plain(templated(*settings)) == _plain(kustomized(name))


@needs_helm
def test_the_charts_values_reach_its_manifests() -> None:
    manifests = by_identity(templated(*CHOSEN))
    pod = manifests["DaemonSet", "shmroute-node"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/shmroute:1.2.3"
    assert {"--area=all", "--group=4711", "--listen=:9000"} <= set(container["args"])
    assert "--area=all" in container["startupProbe"]["exec"]["command"]
    assert container["ports"] == [{"name": "health", "containerPort": 9000}]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    assert pod["securityContext"]["runAsGroup"] == 4711
    assert pod["serviceAccountName"] == "watcher"
    (subject,) = manifests["ClusterRoleBinding", "shmroute-watcher"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "watcher", "namespace": "default"}
    assert ("ServiceAccount", "watcher") in manifests


@needs_helm
@pytest.mark.parametrize("settings", [("scope=some",), ("node.enabled=true",)])
def test_the_chart_refuses_values_that_make_no_sense(settings: tuple[str, ...]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        templated(*settings)
    assert "scope" in refused.value.stderr


@needs_helm
def test_a_chart_that_depends_on_ours_gets_the_sidecar_of_the_kustomization(tmp_path: Path) -> None:
    pod = _pod_of(templated(chart=_dependent(tmp_path)))
    (deployment,) = (each for each in kustomized("sidecar") if each["kind"] == "Deployment")
    expected = deployment["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    assert sidecar.pop("imagePullPolicy") == "IfNotPresent"
    assert sidecar == {**expected["initContainers"][0], "image": f"shmroute:{__version__}"}
    assert pod["volumes"] == [volume for volume in expected["volumes"] if volume["name"] == "shm"]


@needs_helm
def test_values_of_the_sidecar_are_given_under_the_name_of_our_chart(tmp_path: Path) -> None:
    settings = (
        "shmroute.sidecar.port=9000",
        "shmroute.sidecar.args={--redis=redis://cache}",
        "shmroute.image.tag=1.2.3",
    )
    (sidecar,) = _pod_of(templated(*settings, chart=_dependent(tmp_path)))["initContainers"]
    assert sidecar["image"] == "shmroute:1.2.3"
    assert sidecar["args"] == ["watch", "--listen=:9000", "--log-format=json", "--redis=redis://cache"]
    assert sidecar["ports"] == [{"name": "health", "containerPort": 9000}]


@needs_helm
@pytest.mark.skipif(not REAL_CLUSTER, reason="SHMROUTE_TEST_KUBECONFIG is not set")
def test_a_real_api_server_takes_what_the_chart_renders_in_a_dry_run(tmp_path: Path) -> None:
    for manifest in (*templated(), *templated(*CHOSEN), *templated(chart=_dependent(tmp_path))):
        dry_run(manifest)


@pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
@pytest.mark.parametrize("name", VARIANTS)
def test_kubectl_resolves_each_kustomization_as_these_tests_do(name: str) -> None:
    assert by_identity(kubectl_kustomized(KUSTOMIZE / name)) == by_identity(kustomized(name))


@pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
@pytest.mark.parametrize("name", VARIANTS)
def test_the_kustomization_on_the_page_sets_images_and_the_namespace_of_all(name: str, tmp_path: Path) -> None:
    (written,) = (block.text for block in blocks(ROOT / "docs" / "kubernetes.md") if "kustomization.yaml" in block.text)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    subprocess.run(["bash", "-ec", written.replace("kustomize/sidecar", f"kustomize/{name}")], cwd=tmp_path, check=True)
    for manifest in kubectl_kustomized(tmp_path / "overlay"):
        if not manifest["kind"].startswith("Cluster"):
            assert manifest["metadata"]["namespace"] == "meta-test"
        for subject in manifest.get("subjects", ()):
            assert subject["namespace"] == "meta-test"
        if manifest["kind"] in WORKLOADS:
            for container in containers(manifest["spec"]["template"]["spec"]):
                assert container["image"].startswith("registry.example.com/")


_DEPENDENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: gateway
spec:
  selector: {matchLabels: {app: gateway}}
  template:
    metadata: {labels: {app: gateway}}
    spec:
      initContainers:
        {{- include "shmroute.sidecar" .Subcharts.shmroute | nindent 8 }}
      containers:
        - name: server
          image: gateway
      volumes:
        {{- include "shmroute.volume" .Subcharts.shmroute | nindent 8 }}
"""


def _dependent(folder: Path) -> Path:
    """A user's chart that depends on ours, and takes its sidecar as docs/kubernetes.md says."""
    chart = folder / "gateway"
    shutil.copytree(CHART, chart / "charts" / "shmroute")
    (chart / "templates").mkdir()
    (chart / "templates" / "deployment.yaml").write_text(_DEPENDENT)
    dependency = {"name": "shmroute", "version": __version__, "repository": "file://../shmroute"}
    about = {"apiVersion": "v2", "name": "gateway", "version": "1.0.0", "dependencies": [dependency]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    return chart


def _pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = by_identity(manifests)["Deployment", "gateway"]["spec"]["template"]["spec"]
    return pod


def _plain(manifests: list[Manifest]) -> dict[tuple[str, str], Any]:
    """Without the namespace and the image's tag, which the kustomization leaves to its user."""
    plain: list[Manifest] = json.loads(json.dumps(manifests).replace(f'"shmroute:{__version__}"', '"shmroute"'))
    for manifest in plain:
        manifest["metadata"].pop("namespace", None)
        for subject in manifest.get("subjects", ()):
            subject.pop("namespace", None)  # without one, a RoleBinding's subject is of the binding's namespace
        if manifest["kind"] in WORKLOADS:
            for container in containers(manifest["spec"]["template"]["spec"]):
                container.pop("imagePullPolicy", None)  # the default of an image with a tag
    return by_identity(plain)
