"""The public names, which a release may remove only with a line in docs/renamed.md."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import shmroute

API_PAGE = Path(__file__).parents[1] / "docs" / "api.md"

PUBLIC = {
    "shmroute": [
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
    ],
    "shmroute.errors": [
        "ApiError",
        "AppNotFound",
        "AreaBusy",
        "AreaUnavailable",
        "AreaUnreadable",
        "CallAttemptsFailed",
        "CallFailed",
        "CallModelNotFound",
        "CallNoEndpoints",
        "CallNotRouted",
        "CallTimedOut",
        "ConfigError",
        "FailedAttempt",
        "InvalidObject",
        "MetadataNotJson",
        "ModelNotFound",
        "NoAccess",
        "NoEndpoints",
        "NotReady",
        "OutOfSharedMemory",
        "ShmrouteError",
        "SnapshotExpired",
        "StaleRoutes",
        "TableNotFound",
        "TableNotReady",
        "TableValueError",
    ],
    "shmroute.calls": [
        "Attempt",
        "AttemptFailed",
        "AttemptStarted",
        "AttemptSucceeded",
        "Attempts",
        "Budget",
        "Counters",
        "EndpointEjected",
        "EndpointReturned",
        "Event",
        "Outcome",
        "Outliers",
        "Policy",
        "Settings",
        "default_policy",
        "joined",
    ],
    "shmroute.contrib.aiohttp": ["Failover", "url_for"],
    "shmroute.contrib.asgi": ["Ready", "lifespan", "ready"],
    "shmroute.contrib.granian": ["beside"],
    "shmroute.contrib.gunicorn": ["on_exit", "post_fork", "when_ready"],
    "shmroute.contrib.httpx": ["AsyncTransport", "Transport", "url_for"],
    "shmroute.contrib.prometheus": ["CallsCollector", "WorkerCollector"],
    "shmroute.contrib.requests": ["Adapter", "url_for"],
    "shmroute.kube": [
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
    ],
    "shmroute.shm": ["Publisher", "RowChange", "RowReader"],
    "shmroute.tables.handler": ["Announcement", "Handler", "TableHandler", "TableItem"],
    "shmroute.testing": [
        "Answer",
        "Answers",
        "Pod",
        "PodServer",
        "Routes",
        "Tables",
        "WatchedFolder",
        "not_ready",
        "pod_server",
        "routes",
        "tables",
        "watched_folder",
    ],
    "shmroute.watcher": [
        "AppModel",
        "Handler",
        "ModelVersion",
        "TableHandler",
        "TableItem",
        "WatchOptions",
        "Watcher",
    ],
    "shmroute.worker.changes": [
        "AsyncChanges",
        "Change",
        "Changes",
        "Follower",
        "Reset",
    ],
}
"""Module -> its names. Add a name here when it becomes public; a removed name needs a line in docs/renamed.md."""


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_module_exports_these_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == PUBLIC[module]
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_every_module_of_the_api_page_is_pinned() -> None:
    named = re.findall(r"^\.\. auto(module|class|function):: ([\w.]+)$", API_PAGE.read_text(), re.MULTILINE)
    assert named
    for kind, name in named:
        module, _, member = (name, "", "") if kind == "module" else name.rpartition(".")
        # A class may be documented where it is defined, and be imported from the public package around it.
        package = next(each for each in sorted(PUBLIC, reverse=True) if f"{module}.".startswith(f"{each}."))
        assert not member or member in PUBLIC[package], name


def test_only_public_modules_list_their_names() -> None:
    """Packages, and `shmroute.rows`, list them too: they pass on names of other modules."""
    source = Path(shmroute.__file__).parent
    listing = [
        path for path in source.rglob("*.py") if "__all__ = [" in path.read_text() and path.name != "__init__.py"
    ]
    modules = {f"shmroute.{'.'.join(path.relative_to(source).with_suffix('').parts)}" for path in listing}
    assert modules - {"shmroute.rows"} <= PUBLIC.keys()
