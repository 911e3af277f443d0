"""Fixtures for users' tests; loaded by pytest on its own where shmroute is installed.

* `shmroute_routes`: a function that sets answers for `resolve`, as `shmroute.testing.Routes.set`.
* `shmroute_tables`: sets the objects of declared tables for `table`, as `shmroute.testing.Tables.set`.
* `shmroute_folder`: a `shmroute.testing.WatchedFolder` with a real watcher on it.
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
    """Answers for `shmroute.resolve`, none at first: `shmroute_routes.set({"model": "app"})`."""
    from shmroute.testing import routes

    with routes({}) as given:
        yield given


@pytest.fixture
def shmroute_tables(shmroute_routes: Routes) -> Tables:
    """Objects for `shmroute.table`, none at first: `shmroute_tables.set("flags", {"checkout": {"enabled": True}})`."""
    return shmroute_routes.tables


@pytest.fixture
def shmroute_folder(tmp_path: Path) -> Iterator[WatchedFolder]:
    """An empty folder with a real watcher on it: `shmroute_folder.write("app.yaml", text)`."""
    from shmroute.testing import watched_folder

    folder = tmp_path / "manifests"
    folder.mkdir()
    with watched_folder(folder) as watched:
        yield watched
