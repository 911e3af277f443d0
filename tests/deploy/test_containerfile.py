"""The image's build, without podman: the package builds from the files that the Containerfile copies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.deploy.rendering import DEPLOY
from tests.docs.pages import ROOT

CONTAINERFILE = (DEPLOY / "Containerfile").read_text()


def test_image_build_copies_all_files_that_the_package_needs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copies = re.findall(r"^COPY (?!--from)(.+) (/source\S*)$", CONTAINERFILE, re.MULTILINE)
    for words, into in copies:
        for word in words.split():
            target = source / into.removeprefix("/source").lstrip("/")
            if (ROOT / word).is_dir():
                shutil.copytree(ROOT / word, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                target = target / word if into.endswith("/") else target
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / word, target)
    # As `pip install /source` does, but for the isolation, which would ask the package index.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "out", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [wheel] = (source / "out").glob("shmroute-*.whl")
    with zipfile.ZipFile(wheel) as package:
        assert {"shmroute/cli/__init__.py", "shmroute/crds/appmodels.yaml"} <= set(package.namelist())


def test_the_image_runs_the_watcher_as_the_user_of_the_manifests() -> None:
    user = re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE)
    assert user == ["65532:65532"]
    assert "runAsUser: 65532" in (DEPLOY / "kustomize" / "sidecar" / "deployment.yaml").read_text()
