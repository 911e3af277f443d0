"""What the tests with real servers share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.serving import PAUSE_SECONDS
from tests.supervise.running import Manifests


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """Return a folder in which app "iiot" serves the model."""
    return Manifests(tmp_path / "manifests")


@pytest.fixture(params=[PAUSE_SECONDS, pytest.param(0.01, marks=pytest.mark.long)], ids=["light load", "full load"])
def pause_seconds(request: pytest.FixtureRequest) -> float:
    """Return the pause of a client under load; the long tests send several times as many requests."""
    given: float = request.param
    return given
