"""shmroute: which app serves a model, looked up lock-free by every worker process of a pod.

    from shmroute import resolve

    resolve("iiot_dataservice").app

One watcher process per pod (`shmroute watch`) keeps the snapshot in shared memory; see `shmroute.reader`.
"""

from shmroute.client import get, resolve
from shmroute.errors import (
    AppNotFound,
    ConfigError,
    LayoutMismatch,
    MetadataNotJson,
    ModelNotFound,
    NoAccess,
    NoEndpoints,
    NotReady,
    ShmrouteError,
    StaleRoutes,
)
from shmroute.reader import Reader
from shmroute.routes import App, Endpoint, Route

__all__ = [
    "App",
    "AppNotFound",
    "ConfigError",
    "Endpoint",
    "LayoutMismatch",
    "MetadataNotJson",
    "ModelNotFound",
    "NoAccess",
    "NoEndpoints",
    "NotReady",
    "Reader",
    "Route",
    "ShmrouteError",
    "StaleRoutes",
    "get",
    "resolve",
]
