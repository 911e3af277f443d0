"""The cluster: configuration, requests, the CRD, writing AppModels.

Users import from here. Each name is imported at its first use, so that a watcher that only reads does not load the
code that writes. A worker never imports this package.

    from shmroute.kube import Connection, apply_appmodels, appmodel_manifest

    apply_appmodels(Connection(), [appmodel_manifest("newSdkApp", "v-2", {"model1": "v-1"})])

The modules:

    configuration   address, credentials and TLS of a cluster: `kubeconfig`, `plugin`, `proxy`, `files`
    connection      requests with deadlines; `transport` and `abort` make every wait end
    write           applies and deletes AppModels, by `server_side_apply`; `crd` installs the definition
    discovery       explains a 404
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmroute.kube.abort import Abort
    from shmroute.kube.connection import Connection
    from shmroute.kube.crd import crd_yaml, install_crd
    from shmroute.kube.server_side_apply import Outcome
    from shmroute.kube.write import (
        Written,
        apply_appmodels,
        appmodel_manifest,
        delete_appmodels,
        find_keys,
    )

__all__ = [
    "Abort",
    "Connection",
    "Outcome",
    "Written",
    "apply_appmodels",
    "appmodel_manifest",
    "crd_yaml",
    "delete_appmodels",
    "find_keys",
    "install_crd",
]

_HOMES = {
    "Abort": "abort",
    "Connection": "connection",
    "Outcome": "server_side_apply",
    "Written": "write",
    "appmodel_manifest": "write",
    "apply_appmodels": "write",
    "crd_yaml": "crd",
    "delete_appmodels": "write",
    "find_keys": "write",
    "install_crd": "crd",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
