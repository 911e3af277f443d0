"""Fixtures for users' tests. pytest loads them by itself if shmroute is installed.

* `shmroute_routes`: sets answers for `resolve`; a `shmroute.testing.Routes`.
* `shmroute_tables`: sets the objects of declared tables for `table`; a `shmroute.testing.Tables`.
* `shmroute_folder`: a folder with a real watcher; a `shmroute.testing.WatchedFolder`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shmroute.testing import Routes, Tables, WatchedFolder


@pytest.fixture
def shmroute_routes() -> Iterator[Routes]:
    """Answers for `shmroute.resolve`, at first none: `shmroute_routes.set({"model": "app"})`."""
    from shmroute.testing import routes

    with routes({}) as given:
        yield given


@pytest.fixture
def shmroute_tables(shmroute_routes: Routes) -> Tables:
    """Objects for `shmroute.table`, at first none: `shmroute_tables.set("flags", {"checkout": {"enabled":
    True}})`."""
    return shmroute_routes.tables


@pytest.fixture
def shmroute_folder(tmp_path: Path) -> Iterator[WatchedFolder]:
    """Empty folder of manifests, followed by a real watcher: `shmroute_folder.write("app.yaml", text)`."""
    from shmroute.testing import watched_folder

    folder = tmp_path / "manifests"
    folder.mkdir()
    with watched_folder(folder) as watched:
        yield watched
