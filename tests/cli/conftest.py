from __future__ import annotations

import pytest

from tests.cli.running import Cli


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return the command within the test's process."""
    return Cli(monkeypatch, capsys)
