"""shmroute tells each worker process of a pod which app serves a model, without taking a lock.

    from shmroute import resolve

    resolve("iiot_dataservice").app

One watcher process per pod (`shmroute watch`) keeps the snapshot in shared memory; see `shmroute.worker.reader`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmroute.errors import (
    AppNotFound,
    AreaUnreadable,
    ConfigError,
    MetadataNotJson,
    ModelNotFound,
    NoAccess,
    NoEndpoints,
    NotReady,
    ShmrouteError,
    SnapshotExpired,
    StaleRoutes,
    TableNotFound,
    TableNotReady,
    TableValueError,
)
from shmroute.native import native as _native_module
from shmroute.worker.default import get, resolve, snapshot, table
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

if TYPE_CHECKING:
    from shmroute.rows import App
    from shmroute.worker.endpoints import Endpoint
    from shmroute.worker.snapshot import Snapshot
    from shmroute.worker.tables import Table

__all__ = [
    "App",
    "AppNotFound",
    "AreaUnreadable",
    "ConfigError",
    "Endpoint",
    "MetadataNotJson",
    "ModelNotFound",
    "NoAccess",
    "NoEndpoints",
    "NotReady",
    "Reader",
    "Route",
    "ShmrouteError",
    "Snapshot",
    "SnapshotExpired",
    "StaleRoutes",
    "Table",
    "TableNotFound",
    "TableNotReady",
    "TableValueError",
    "get",
    "resolve",
    "snapshot",
    "table",
]

__native__: bool = _native_module is not None
"""Whether look-ups run in the native twin (C). If False, plain Python does; `shmroute.native.missing` says why."""


_MODULES = {
    "App": "shmroute.rows",
    "Endpoint": "shmroute.worker.endpoints",
    "Snapshot": "shmroute.worker.snapshot",
    "Table": "shmroute.worker.tables",
}
"""Name of a class -> its module, which is loaded at the first use: a look-up needs none of them."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
