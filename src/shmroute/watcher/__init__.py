"""The watcher follows the sources and publishes their objects. There is one watcher in each pod.

Usually it is a process of its own, `shmroute watch`. A program can also run it in a thread:

    from shmroute.watcher import Watcher, WatchOptions

    with Watcher(WatchOptions(manifests="manifests"), handlers=[MyHandler()]) as watcher:
        watcher.wait_synced(30)
        ...

Users import from here; each name is loaded at its first use. One owner thread applies events in order and publishes; it
never waits for a source, for Redis, for a handler or for a reader.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmroute.resources.appmodel import AppModel, ModelVersion
    from shmroute.tables.handler import Handler, TableHandler, TableItem
    from shmroute.watcher.embed import Watcher
    from shmroute.watcher.options import WatchOptions

__all__ = ["AppModel", "Handler", "ModelVersion", "TableHandler", "TableItem", "WatchOptions", "Watcher"]

_MODULES = {
    "AppModel": "shmroute.resources.appmodel",
    "Handler": "shmroute.tables.handler",
    "ModelVersion": "shmroute.resources.appmodel",
    "TableHandler": "shmroute.tables.handler",
    "TableItem": "shmroute.tables.handler",
    "WatchOptions": "shmroute.watcher.options",
    "Watcher": "shmroute.watcher.embed",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
