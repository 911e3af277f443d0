"""An API server accepts the kustomizations under deploy/; they request only needed rights and share no name."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config, dynamic

from tests.deploy.conftest import Kustomize
from tests.deploy.levels import breaches_of_baseline, breaches_of_restricted, containers
from tests.deploy.rendering import CLUSTER_WIDE, KUSTOMIZE, Manifest, by_identity, kubectl_kustomized
from tests.docs.pages import ROOT, blocks
from tests.tools import needs_kubectl

VARIANTS = ("namespaced", "cluster", "sidecar", "child", "node")
WORKLOADS = ("Deployment", "DaemonSet")
CLUSTER_SCOPED = ("ClusterRole", "ClusterRoleBinding", "PersistentVolume")
REAL_CLUSTER = os.environ.get("SHMROUTE_TEST_KUBECONFIG")
PAGE = ROOT / "docs" / "kubernetes.md"


def check_schema(manifest: Manifest) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the schema library's own
        import kubernetes_validate

        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def dry_run(manifest: Manifest) -> None:
    """Assert that the real API server accepts the manifest in a dry run."""
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


def pods_of(manifests: list[Manifest]) -> list[Manifest]:
    return [each["spec"]["template"]["spec"] for each in manifests if each["kind"] in WORKLOADS]


def taken(manifests: list[Manifest]) -> Iterator[tuple[str, ...]]:
    """Yield what a cluster, a namespace or a node has only one of."""
    for manifest in manifests:
        metadata = manifest["metadata"]
        yield (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        if manifest["kind"] == "PersistentVolume":
            claim = manifest["spec"]["claimRef"]
            yield ("claim of a volume", claim["namespace"], claim["name"])


@pytest.mark.parametrize("name", VARIANTS)
def test_each_manifest_fits_the_published_schema(kustomize: Kustomize, name: str) -> None:
    for manifest in kustomize(name):
        check_schema(manifest)


@pytest.mark.skipif(not REAL_CLUSTER, reason="SHMROUTE_TEST_KUBECONFIG is not set")
@pytest.mark.parametrize("name", VARIANTS)
def test_real_api_server_accepts_each_manifest_in_a_dry_run(kustomize: Kustomize, name: str) -> None:
    for manifest in kustomize(name, "default"):
        dry_run(manifest)


@pytest.mark.parametrize("name", ["namespaced", "cluster"])
def test_the_rights_are_list_and_watch_on_two_resources(kustomize: Kustomize, name: str) -> None:
    (role,) = (each for each in kustomize(name) if each["kind"] in ("Role", "ClusterRole"))
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


@pytest.mark.parametrize("name", VARIANTS)
def test_a_binding_gives_its_own_role_to_its_own_account(kustomize: Kustomize, name: str) -> None:
    manifests = by_identity(kustomize(name, "team-b"))
    for (kind, _), binding in manifests.items():
        if kind.endswith("Binding"):
            reference = binding["roleRef"]
            assert (reference["kind"], reference["name"]) in manifests
            [subject] = binding["subjects"]
            account = manifests[subject["kind"], subject["name"]]
            # Without one, a RoleBinding's subject is of the binding's namespace.
            assert subject.get("namespace", "team-b") == account["metadata"]["namespace"] == "team-b"


# -- one cluster, several teams


@pytest.mark.parametrize("name", VARIANTS)
def test_two_teams_have_no_name_in_common(kustomize: Kustomize, name: str) -> None:
    one, other = (set(taken(kustomize(name, namespace))) for namespace in ("team-a", "team-b"))
    assert one
    assert one & other == set()


def test_the_areas_of_two_teams_on_one_node_are_two_folders(kustomize: Kustomize) -> None:
    paths = {
        each["spec"]["hostPath"]["path"]
        for namespace in ("team-a", "team-b")
        for each in kustomize("node", namespace)
        if each["kind"] == "PersistentVolume"
    }
    assert paths == {"/run/shmroute/team-a", "/run/shmroute/team-b"}


@needs_kubectl
@pytest.mark.parametrize("name", CLUSTER_WIDE)
def test_unchanged_placeholder_names_are_refused(name: str) -> None:
    for manifest in kubectl_kustomized(KUSTOMIZE / name):
        if manifest["kind"] in CLUSTER_SCOPED:
            # An API server takes neither in any name (IsValidPathSegmentName of apimachinery).
            assert re.search(r"[/%]", manifest["metadata"]["name"])


# -- pods


@pytest.mark.parametrize(("name", "level"), [("sidecar", "restricted"), ("child", "restricted"), ("node", "baseline")])
def test_each_pod_passes_the_documented_pod_security_level(kustomize: Kustomize, name: str, level: str) -> None:
    assert re.search(rf"^\|.*\| `{name}` \|.*{level}", PAGE.read_text(), re.MULTILINE)
    check = {"restricted": breaches_of_restricted, "baseline": breaches_of_baseline}[level]
    [pod] = pods_of(kustomize(name))
    assert list(check(pod)) == []


@pytest.mark.parametrize("name", ["sidecar", "child", "node"])
def test_containers_run_without_root_on_a_read_only_file_system(kustomize: Kustomize, name: str) -> None:
    [pod] = pods_of(kustomize(name))
    for container in containers(pod):
        security = {**pod["securityContext"], **container["securityContext"]}
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["requests"]
        if container in pod["containers"] or container.get("restartPolicy") == "Always":
            assert security["runAsNonRoot"]
            assert "add" not in security["capabilities"]


@pytest.mark.parametrize("name", ["sidecar", "child"])
def test_every_container_of_a_pod_mounts_the_same_memory(kustomize: Kustomize, name: str) -> None:
    [pod] = pods_of(kustomize(name))
    mounts = [
        {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}["/dev/shm"]
        for container in containers(pod)
    ]
    assert len(set(mounts)) == 1
    (volume,) = (each for each in pod["volumes"] if each["name"] == mounts[0])
    assert volume["emptyDir"]["medium"] == "Memory"


def test_sidecar_is_native_and_the_server_waits_for_its_snapshot(kustomize: Kustomize) -> None:
    [pod] = pods_of(kustomize("sidecar"))
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"][:2] == ["shmroute", "wait"]


@pytest.mark.parametrize("name", ["sidecar", "node"])
def test_the_watchers_port_is_closed_to_all_but_one_namespace(kustomize: Kustomize, name: str) -> None:
    manifests = kustomize(name)
    [policy] = (each["spec"] for each in manifests if each["kind"] == "NetworkPolicy")
    [workload] = (each for each in manifests if each["kind"] in WORKLOADS)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    [rule] = (rule for rule in policy["ingress"] if {"port": 9901} in rule["ports"])
    assert rule["from"]


def test_the_commands_in_the_manifests_are_commands_of_shmroute(kustomize: Kustomize) -> None:
    from shmroute.cli import group

    # Without the group above it a command would learn, and keep, that there is no `-h`.
    parent = group.make_context("shmroute", ["watch"])
    checked = 0
    for pod in (pod for name in VARIANTS for pod in pods_of(kustomize(name))):
        for container in containers(pod):
            probes = [container[probe]["exec"]["command"] for probe in _probes(container)]
            for command in [container.get("command", []), ["shmroute", *container.get("args", [])], *probes]:
                if command[:1] == ["shmroute"] and len(command) > 1:
                    own = command[2 : command.index("--")] if "--" in command else command[2:]
                    found = group.get_command(None, command[1])  # type: ignore[arg-type]
                    assert found is not None, command
                    found.make_context(command[1], [*own, *(["--", "true"] if "--" in command else [])], parent=parent)
                    checked += 1
    assert checked > 5


def _probes(container: Manifest) -> list[str]:
    return [name for name in container if name.endswith("Probe") and "exec" in container[name]]


def test_the_folder_on_the_node_is_chowned_to_the_watcher_once(kustomize: Kustomize, tmp_path: Path) -> None:
    [pod] = pods_of(kustomize("node"))
    (init,) = pod["initContainers"]
    command = [word.replace("/run/shmroute", str(tmp_path / "node")) for word in init["command"]]
    (tmp_path / "node").mkdir(mode=0o755)
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    for _ in range(2):
        subprocess.run(command, check=True)
        found = (tmp_path / "node").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65532, 65532, 0o750)
        (tmp_path / "node").chmod(0o750)
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}


# -- what docs/kubernetes.md shows


def snippets(*words: str) -> list[list[Any]]:
    """Return the documents of each YAML block of the page that has all words in it."""
    texts = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = (text for text in texts if all(word in text for word in words) and "{{" not in text)
    return [list(yaml.safe_load_all(text)) for text in found]


def deployment(template: Manifest) -> Manifest:
    labels = {"app": "own"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "own"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, **template}},
    }


def test_the_sidecar_on_the_page_is_complete(kustomize: Kustomize) -> None:
    [[shown]] = snippets("restartPolicy: Always")
    check_schema(deployment(shown))
    pod = shown["spec"]
    assert list(breaches_of_restricted(pod)) == []
    [base] = pods_of(kustomize("sidecar"))
    assert pod["serviceAccountName"] == base["serviceAccountName"]
    assert pod["initContainers"][0]["args"] == base["initContainers"][0]["args"]
    for container in containers(pod):
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert "runAsUser" not in container["securityContext"]  # one user for both: the pod's


def test_the_pod_that_reads_on_the_page_is_complete(kustomize: Kustomize) -> None:
    [[shown]] = snippets("supplementalGroups")
    [[volume, claim]] = snippets("kind: PersistentVolumeClaim")
    for manifest in (deployment(shown), volume, claim):
        check_schema(manifest)
    pod = shown["spec"]
    assert list(breaches_of_restricted(pod)) == []

    node = by_identity(kustomize("node", "shmroute"))
    [watcher] = pods_of(list(node.values()))
    own = node["PersistentVolume", "shmroute-node.shmroute"]["spec"]
    assert volume["spec"]["hostPath"] == own["hostPath"]
    assert volume["spec"]["claimRef"] == {key: claim["metadata"][key] for key in ("namespace", "name")}
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"], "readOnly": True}

    user = watcher["containers"][0]["securityContext"]["runAsUser"]
    group = watcher["containers"][0]["securityContext"]["runAsGroup"]
    assert pod["securityContext"]["runAsUser"] != user
    assert group in pod["securityContext"]["supplementalGroups"]
    [server] = pod["containers"]
    variables = {each["name"]: each["value"] for each in server["env"]}
    assert variables == {"SHMROUTE_AREA": "node", "SHMROUTE_DIR": "/run/shmroute", "SHMROUTE_TRUST": str(user)}
    assert server["volumeMounts"][0]["mountPath"] == variables["SHMROUTE_DIR"]
    [its] = (each["value"] for each in watcher["containers"][0]["env"] if each["name"] == "SHMROUTE_DIR")
    assert its == watcher["containers"][0]["volumeMounts"][0]["mountPath"]


@needs_kubectl
@pytest.mark.parametrize(("folder", "namespace"), [("overlay", "meta-test"), ("node-overlay", "shmroute")])
def test_the_kustomizations_on_the_page_set_images_and_the_namespace_of_all(
    folder: str, namespace: str, tmp_path: Path
) -> None:
    [written] = (block.text for block in blocks(PAGE) if f"cat > {folder}/kustomization.yaml" in block.text)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    subprocess.run(["bash", "-ec", written], cwd=tmp_path, check=True)
    manifests = kubectl_kustomized(tmp_path / folder)
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_SCOPED:
            assert manifest["metadata"]["namespace"] == namespace
        else:
            assert namespace in manifest["metadata"]["name"]
        for subject in manifest.get("subjects", ()):
            assert subject["namespace"] == namespace
    for pod in pods_of(manifests):
        for container in containers(pod):
            assert container["image"].startswith("registry.example.com/")


def test_pages_create_each_namespace_before_using_it() -> None:
    for page in ("kubernetes.md", "cluster.md"):
        made: set[str] = set()
        text = "\n".join(block.text for block in blocks(ROOT / "docs" / page) if block.language == "sh").replace(
            "\\\n", " "
        )
        for line in text.splitlines():
            if found := re.search(r"kubectl create namespace (\S+)", line):
                made.add(found[1])
            if "--create-namespace" in line:
                made.add(re.search(r"--namespace (\S+)", line)[1])  # type: ignore[index]
            for used in re.findall(r"(?:^| )(?:-n|--namespace) (\S+)", line):
                assert used in made, f"{page}: {line}"
        assert made
