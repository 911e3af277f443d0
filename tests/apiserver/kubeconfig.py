"""A kubeconfig file that leads to a test server."""

from __future__ import annotations

from pathlib import Path

import yaml

from .encoding import Object


def write_kubeconfig(path: Path, url: str, user: Object, ca: Path | None) -> Path:
    """Write a kubeconfig. user: {"token": ...} or {"tokenFile": ...}; ca: the authority's certificate, for TLS."""
    cluster: Object = {"server": url}
    if ca is not None:
        cluster["certificate-authority"] = str(ca)
    context = {"cluster": "test", "user": "test", "namespace": "default"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(config))
    return path
