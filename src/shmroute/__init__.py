"""shmroute tells each worker process of a pod which app serves a model, without taking a lock.

    from shmroute import resolve

    resolve("iiot_dataservice").app

One watcher process per pod (`shmroute watch`) keeps the snapshot in shared memory; see `shmroute.worker.reader`.
"""

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
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.reader import Reader
from shmroute.worker.routes import App, Route
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
