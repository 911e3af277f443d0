"""mypy and pyright agree on the types of the public names: tests/typing/worker_api.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import bound

ROOT = Path(__file__).parents[1]
CHECKED = ROOT / "tests" / "typing" / "worker_api.py"
WRITE_TO_A_TABLE = 'tenants["acme"] ='

SECONDS = 200


def needs(tool: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(tool) is None
    return pytest.mark.skipif(missing, reason=f"{tool} is not installed here: make venv installs it")


def check(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    return subprocess.run(
        bound([sys.executable, "-m", *map(str, command)]),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@needs("mypy")
def test_mypy_sees_the_types_that_are_promised() -> None:
    # A cache of its own that stays: without it, mypy reads the standard library anew in each run.
    cache = ROOT / ".mypy_cache" / "promised"
    finished = check("mypy", "--config-file=", "--strict", f"--cache-dir={cache}", CHECKED)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@needs("basedpyright")
def test_pyright_sees_the_same_types_and_refuses_a_write(tmp_path: Path) -> None:
    project = tmp_path / "pyrightconfig.json"
    paths = {"include": [str(CHECKED)], "extraPaths": [str(ROOT / "src")]}
    # Comments that tell mypy to ignore a line are not for pyright: it has to report that one line.
    project.write_text(json.dumps({**paths, "typeCheckingMode": "standard", "enableTypeIgnoreComments": False}))
    finished = check("basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", project)
    found = json.loads(finished.stdout)
    errors = {each["range"]["start"]["line"]: each["message"] for each in found["generalDiagnostics"]}
    lines = CHECKED.read_text().splitlines()
    (refused,) = [number for number, line in enumerate(lines) if WRITE_TO_A_TABLE in line]
    assert set(errors) == {refused}, errors
    assert "__setitem__" in errors[refused]
    assert found["summary"]["filesAnalyzed"] >= 1
