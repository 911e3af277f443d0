"""How the native twin is built and packed, with and without a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import shmroute
from shmroute import native as twin

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "native.py"

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("cc", "gcc", "clang")), reason="there is no C compiler here"
)


def build(target: str, folder: Path, **environment: str) -> tuple[Path | None, str]:
    """Build a wheel or source archive of this checkout; return its path and the text on stderr."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )
    made = list(folder.glob("*")) if folder.exists() else []
    return (made[0] if done.returncode == 0 else None), done.stdout + done.stderr


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@needs_compiler
def test_wheel_has_the_native_twin_where_there_is_a_compiler(tmp_path: Path) -> None:
    wheel, said = build("wheel", tmp_path / "dist")
    assert wheel, said
    packed = [name for name in names(wheel) if "_native" in name]
    if "t" in sys.abiflags:
        assert f"-cp{sys.version_info.major}{sys.version_info.minor}t-" in wheel.name
        assert len(packed) == 1
    else:
        assert "-cp311-abi3-" in wheel.name
        assert packed == ["shmroute/_native.abi3.so"]


def test_wheel_without_a_compiler_is_pure_and_says_so(tmp_path: Path) -> None:
    wheel, said = build("wheel", tmp_path / "dist", CC="/nonexistent/cc")
    assert wheel, said
    assert wheel.name.endswith("-py3-none-any.whl")
    assert [name for name in names(wheel) if "_native" in name] == []
    assert "built without its native twin" in said
    assert "CC=/nonexistent/cc: no such command" in said


def test_required_native_twin_that_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    wheel, said = build("wheel", tmp_path / "dist", CC="/nonexistent/cc", SHMROUTE_NATIVE="require")
    assert wheel is None
    assert "SHMROUTE_NATIVE=require: CC=/nonexistent/cc: no such command" in said


def test_source_archive_holds_all_that_a_build_needs(tmp_path: Path) -> None:
    archive, said = build("sdist", tmp_path / "dist")
    assert archive, said
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert {"src/shmroute/_native.c", ".ci/native.py", "pyproject.toml"} <= packed
    assert not any(name.endswith(".so") for name in packed)


@needs_compiler
def test_compiler_that_fails_costs_the_native_twin_only(tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    broken.chmod(0o755)
    wheel, said = build("wheel", tmp_path / "dist", CC=str(broken))
    assert wheel, said
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "no headers here" in said


@pytest.mark.parametrize(("wish", "plain"), [("", False), ("0", False), ("1", True), ("yes", True)])
def test_environment_chooses_the_plain_twin(wish: str, plain: bool) -> None:
    code = "import shmroute; from shmroute.native import missing; print(shmroute.__native__, missing)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SHMROUTE_PURE": wish},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if plain:
        assert done.stdout == "False SHMROUTE_PURE is set\n"
    else:
        assert "SHMROUTE_PURE" not in done.stdout


def test_missing_native_twin_has_a_reason() -> None:
    assert shmroute.__native__ is (twin.native is not None)
    assert bool(twin.missing) is (twin.native is None)
