"""The manifests under deploy/, as objects: kustomizations resolved, charts rendered where helm is at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
CHART = DEPLOY / "helm" / "shmroute"

Manifest = dict[str, Any]

HELM = shutil.which("helm")
KUBECTL = shutil.which("kubectl")


def kustomized(name: str) -> list[Manifest]:
    """What `kubectl kustomize deploy/kustomize/NAME` prints: these kustomizations only list resources."""
    folder = KUSTOMIZE / name
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "resources"}, "the test resolves lists of resources only"
    manifests: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = folder / resource
        if path.is_dir():
            manifests += kustomized(str(path.resolve().relative_to(KUSTOMIZE)))
        else:
            manifests += [each for each in yaml.safe_load_all(path.read_text()) if each]
    return manifests


def kubectl_kustomized(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize FOLDER` really prints."""
    assert KUBECTL
    return _printed([KUBECTL, "kustomize", str(folder)])


def templated(*settings: str, chart: Path = CHART) -> list[Manifest]:
    """What `helm template` makes of a chart with `--set` SETTINGS."""
    assert HELM
    command = [HELM, "template", "shmroute", str(chart), "--namespace", "default"]
    for setting in settings:
        command += ["--set", setting]
    return _printed(command)


def _printed(command: list[str]) -> list[Manifest]:
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [each for each in yaml.safe_load_all(output) if each]


def by_identity(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Manifests by kind and name, without what only says where they came from."""
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}
