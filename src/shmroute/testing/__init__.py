"""Helpers for users' tests: answers for `resolve` and `table` without a watcher, and a real watcher on a folder.

    from shmroute import resolve
    from shmroute.testing import routes

    with routes({"iiot_dataservice": "iiot"}):
        assert resolve("iiot_dataservice").app == "iiot"

    with tables({"flags": {"checkout": {"enabled": "true"}}}):
        assert table("flags")["checkout"] == {"enabled": "true"}

`pod_server` runs an HTTP server that such a route can lead to; a test can make it refuse, hang or answer 503.

`routes` and `tables` write to real shared memory, in an area of their own, which they remove at the end. Meanwhile
`SHMROUTE_AREA` names that area, so child processes see the routes too. Blocks can be nested: the innermost one answers.
Without a `/dev/shm`, set `SHMROUTE_DIR` to any folder before the tests start. `shmroute.pytest_plugin` has fixtures.

The code is in `answers` and `table_rows` (rows), `areas`, `folder` and `pods`.
"""

from __future__ import annotations

from shmroute.testing.answers import Answer, Answers, Pod
from shmroute.testing.areas import Routes, Tables, not_ready, routes, tables
from shmroute.testing.folder import WatchedFolder, watched_folder
from shmroute.testing.pods import PodServer, pod_server

__all__ = [
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
]
