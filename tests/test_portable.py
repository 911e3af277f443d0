"""Look-ups and the watcher without features of Linux, and features that are refused there. Never run on a Mac."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

SOME = ("tests/worker/test_similar_names.py", "tests/watcher/test_events.py", "tests/shm/test_events.py")
ALL = (
    "tests/worker",
    "tests/watcher/test_watcher.py",
    "tests/watcher/test_status_page.py",
    "tests/shm/test_publisher.py",
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**environment, "SHMROUTE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=1_000,
    )


@pytest.mark.parametrize("paths", [SOME, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"])
def test_tests_pass_without_linux_only_system_calls(tmp_path: Path, paths: tuple[str, ...]) -> None:
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "tests.portable", "-p", "no:cacheprovider", *paths)
    assert done.returncode == 0, done.stdout[-4_000:]
    assert " passed" in done.stdout


def test_features_that_need_linux_say_so(tmp_path: Path) -> None:
    refused = run(
        tmp_path,
        "-c",
        "import tests.portable, sys; from shmroute.cli import main;"
        "sys.argv[1:] = ['run', '--manifests', '.', '--', 'true']; main()",
    )
    assert refused.returncode == 2
    assert "shmroute run needs Linux" in refused.stderr
    hook = run(tmp_path, "-c", "import tests.portable; from shmroute.supervise import hooks; hooks.start()")
    assert "a server's hook needs Linux" in hook.stderr
