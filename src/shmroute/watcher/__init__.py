"""The watcher follows the sources and publishes their objects. There is one watcher in each pod.

Usually it is a process of its own, `shmroute watch`. A program can also run it in a thread:

    from shmroute.watcher import Watcher, WatchOptions

    with Watcher(WatchOptions(manifests="manifests"), handlers=[MyHandler()]) as watcher:
        watcher.wait_synced(30)
        ...

Users import from here; each name is loaded at its first use. One owner thread applies events in order and publishes; it
never waits for a source, for Redis, for a handler or for a reader.

The modules:

    loop              the owner thread; `build` makes it from `options`, `embed` runs it in a program
    standby           before the area is free; `checkpoint` and `adoption` for the time before the first list
    pending_rows      the rows to publish; `metadata_feed` adds those of metadata
    declared_tables   tables that are added, removed or redefined: `tables_file`, `tables_follower`
    source_states     what sources reported last; `status` is the watcher's state, `metrics` exposes it
    dispatch          calls users' handlers; `handlers` loads them
    room              shares of namespaces; `metadata_room` for metadata
    operator_log      log lines for operators; `events` is the event log of the area
    http              the port; `status_page` and `views` show the area, `explain`, `report` and `workers` commands too
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
