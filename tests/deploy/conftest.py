from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.rendering import NAMESPACE, Manifest, kustomized
from tests.tools import KUBECTL

Kustomize = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def kustomize(tmp_path_factory: pytest.TempPathFactory) -> Kustomize:
    """Renders a base under deploy/kustomize for a namespace, as docs/kubernetes.md says; each only once."""
    if not KUBECTL:
        pytest.skip("kubectl is not installed")
    folder: Path = tmp_path_factory.mktemp("kustomize")
    rendered: dict[tuple[str, str], list[Manifest]] = {}

    def render(name: str, namespace: str = NAMESPACE) -> list[Manifest]:
        if (name, namespace) not in rendered:
            rendered[name, namespace] = kustomized(name, folder, namespace)
        return rendered[name, namespace]

    return render
