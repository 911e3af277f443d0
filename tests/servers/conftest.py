"""What the tests with real servers share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supervise.running import Manifests


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """Return a folder in which app "iiot" serves the model."""
    return Manifests(tmp_path / "manifests")
