"""The manifests under deploy/, as objects: rendered by kubectl and helm, as a user would."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.tools import HELM, KUBECTL

DEPLOY = Path(__file__).parents[2] / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
CHART = DEPLOY / "helm" / "shmroute"

NAMESPACE = "team-a"
CLUSTER_WIDE = ("cluster", "node")
"""Bases with names that are common to the whole cluster."""

Manifest = dict[str, Any]


def kustomized(name: str, folder: Path, namespace: str = NAMESPACE) -> list[Manifest]:
    """Return what kubectl makes of a kustomization in `folder` that builds on a base, as docs/kubernetes.md shows
    it."""
    assert KUBECTL
    overlay = folder / f"{name}-{namespace}"
    overlay.mkdir()
    bases = folder / "kustomize"
    if not bases.exists():
        bases.symlink_to(KUSTOMIZE)
    kustomization: Manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [f"../kustomize/{name}"],
    }
    if name in CLUSTER_WIDE:
        kustomization["transformers"] = ["../kustomize/own-names"]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kubectl_kustomized(overlay)


def kubectl_kustomized(folder: Path) -> list[Manifest]:
    """Return what `kubectl kustomize FOLDER` prints."""
    assert KUBECTL
    return _printed([KUBECTL, "kustomize", str(folder)])


def templated(
    *settings: str, chart: Path = CHART, release: str = "shmroute", namespace: str = NAMESPACE, values: Any = None
) -> list[Manifest]:
    """Return what `helm template` makes of a chart with `--set` SETTINGS and a file of values."""
    assert HELM
    command = [HELM, "template", release, str(chart), "--namespace", namespace, "--values", "-"]
    for setting in settings:
        command += ["--set", setting]
    return _printed(command, yaml.safe_dump(values or {}))


def _printed(command: list[str], given: str = "") -> list[Manifest]:
    done = subprocess.run(command, check=True, input=given, capture_output=True, text=True, timeout=60)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def by_identity(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return the manifests by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}
