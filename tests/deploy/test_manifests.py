"""The manifests under deploy/ are what an API server takes, and ask for no more than they need."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config, dynamic

from tests.deploy.rendering import CHART, HELM, Manifest, by_identity, kustomized, templated

VARIANTS = ("namespaced", "cluster", "sidecar", "child", "node")
WORKLOADS = ("Deployment", "DaemonSet")
REAL_CLUSTER = os.environ.get("SHMROUTE_TEST_KUBECONFIG")

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

    for pod in (parameter.values[0] for parameter in PODS):
        assert isinstance(pod, dict)
        for container in containers(pod):
            probes = [container[probe]["exec"]["command"] for probe in _probes(container)]
            for command in [container.get("command", []), ["shmroute", *container.get("args", [])], *probes]:
                if command[:1] == ["shmroute"] and len(command) > 1:
                    own = command[2 : command.index("--")] if "--" in command else command[2:]
                    found = group.get_command(None, command[1])  # type: ignore[arg-type]
                    assert found is not None, command
                    found.make_context(command[1], [*own, *(["--", "true"] if "--" in command else [])])


def _probes(container: Manifest) -> list[str]:
    return [name for name in container if name.endswith("Probe") and "exec" in container[name]]


def test_the_chart_carries_the_same_definition() -> None:
    definition = Path(__file__).parents[2] / "crds" / "appmodels.yaml"
    assert (CHART / "crds" / "appmodels.yaml").read_text() == definition.read_text()


def test_the_chart_is_of_this_version() -> None:
    from shmroute.version import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.skipif(not HELM, reason="helm is not installed")
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


def _plain(manifests: list[Manifest]) -> dict[tuple[str, str], Any]:
    """Without the image's tag and the namespace, which the kustomization leaves to its user."""
    text = json.dumps(
        by_identity(manifests) and [by_identity(manifests)[key] for key in sorted(by_identity(manifests))]
    )
    plain: list[Manifest] = json.loads(text.replace("shmroute:0.1.0", "shmroute"))
    for manifest in plain:
        manifest["metadata"].pop("namespace", None)
    return by_identity(plain)
