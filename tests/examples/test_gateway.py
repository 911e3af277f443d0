"""The gateway example, under load, through all its acts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import bound

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
@pytest.mark.fault(49)
@pytest.mark.long
def test_gateway_example_loses_no_request_in_any_act() -> None:
    """Rate and deadline suit a busy machine: the promises under test do not depend on them."""
    command = [sys.executable, "examples/gateway/play.py", "--rate", "20", "--seconds", "2", "--deadline", "12"]
    finished = subprocess.run(bound(command), cwd=ROOT, capture_output=True, text=True, timeout=380)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "broken promises: none" in finished.stdout
