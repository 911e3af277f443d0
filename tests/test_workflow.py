"""The public workflow and the commit hooks call what exists, on each Python that the package supports."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
MAKEFILE = (ROOT / "Makefile").read_text()


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_check_and_test_run_on_each_supported_python() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    supported = [found[1] for each in classifiers if (found := re.fullmatch(r".*:: (3\.\d+)", each))]
    assert JOBS["test"]["strategy"]["matrix"]["python"] == supported
    assert commands("test") == ["make check PYTHON=python", "make test PYTHON=python"]


def test_every_command_is_a_target_of_the_makefile() -> None:
    for job in JOBS:
        for command in commands(job):
            target = command.split()[1]
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), command


def test_hooks_run_what_make_check_runs() -> None:
    check = MAKEFILE.split("\ncheck:")[1].split("\n\n")[0]
    for hook in HOOKS:
        program = Path(hook["entry"].split()[0]).name
        assert hook["entry"].startswith(".venv/bin/")
        assert program in check
