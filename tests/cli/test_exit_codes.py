"""Exit codes for scripts and probes: 0, 1, 2, 5, 6 and 7, each with its meaning. Never 3 or 4."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import shmroute
from shmroute import errors
from shmroute.cli import exit_code
from shmroute.shm.writing.publisher import Publisher
from tests.cli.running import Answered, Cli, age, called, publish, published

FORBIDDEN = {3, 4}
"""Exit codes of a child process for which gunicorn up to 23 stops the whole server."""


def test_exit_code_0_means_success(cli: Cli, area: str) -> None:
    with published(area):
        for command in (("resolve", "model1"), ("get", "models"), ("explain", "model1"), ("status",), ("wait",)):
            assert cli(*command, "--area", area).code == 0, command


def test_exit_code_2_means_usage_error(cli: Cli, area: str, tmp_path: Path) -> None:
    wrong: list[tuple[str, ...]] = [
        ("absent",),
        ("resolve",),
        ("get", "No Table"),
        ("get", "models", "-n", "x", "-A"),
        ("get", "apps", "-w"),
        ("apply",),
        ("delete",),
        ("completion", "tcsh"),
        ("run", "--"),
    ]
    for command in wrong:
        check_usage(cli(*command, SHMROUTE_AREA=area), command)
    wrong = [
        ("watch", "--manifests", str(tmp_path), "--kubeconfig", "x"),
        ("watch", "--manifests", str(tmp_path), "--redis", "redis://x", "--metadata", "y"),
        ("watch", "--manifests", str(tmp_path), "--redis", "http://x"),
        ("watch", "--manifests", str(tmp_path), "--listen", "nonsense"),
        ("watch", "--manifests", str(tmp_path), "--area", "../x"),
        ("watch", "--kubeconfig", str(tmp_path / "absent")),
    ]
    for command in wrong:
        check_usage(called(*command, SHMROUTE_AREA=area), command)


def check_usage(answered: Answered, command: tuple[str, ...]) -> None:
    assert answered.code == 2, (command, answered)
    assert answered.out == ""
    assert answered.err != ""
    assert "Traceback" not in answered.err


def test_exit_code_5_means_not_found(cli: Cli, area: str) -> None:
    with published(area):
        for command in (
            ("resolve", "absent"),
            ("resolve", "model1", "absent"),
            ("resolve", "model1", "-n", "west"),
            ("get", "models", "absent"),
            ("explain", "absent"),
        ):
            assert cli(*command, "--area", area).code == 5, command


def test_exit_code_6_means_stale(cli: Cli, area: str) -> None:
    publish(area)
    age(area, 100.0)
    for command in (("resolve", "model1"), ("status",)):
        assert cli(*command, "--area", area, "--max-age", "50").code == 6, command
        assert cli(*command, "--area", area, "--max-age", "500").code == 0, command
        assert cli(*command, "--area", area, SHMROUTE_MAX_AGE="50").code == 6, command


def test_exit_code_7_means_not_ready(cli: Cli, area: str) -> None:
    commands = (
        ("resolve", "model1"),
        ("get", "models"),
        ("get", "models", "-w"),
        ("explain", "model1"),
        ("status",),
        ("wait", "--timeout", "0.01"),
        ("audit",),
    )
    for command in commands:
        assert cli(*command, "--area", area).code == 7, command
    with Publisher(area):  # an area without a generation is as good as none
        for command in commands[:-1]:
            assert cli(*command, "--area", area).code == 7, command


def test_exit_code_1_means_failure(cli: Cli, area: str) -> None:
    Path(f"/dev/shm/shmroute-{area}").write_bytes(b"foreign" * 2000)
    for command in (("resolve", "model1"), ("get", "models"), ("status",), ("explain", "model1")):
        answered = cli(*command, "--area", area)
        assert answered.code == 1, (command, answered)
        assert "is refused" in answered.err


def test_every_error_has_one_of_the_documented_codes() -> None:
    codes = set()
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not issubclass(kind, errors.ShmrouteError):
            continue
        error = kind.__new__(kind)
        error.status = 404
        codes.add(exit_code(error))
    assert codes == {1, 2, 5, 6, 7}


def test_package_never_exits_with_code_3_or_4() -> None:
    ends = {"exit", "_exit", "SystemExit", "Exit"}
    found = []
    for path in Path(shmroute.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                values = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
                if name in ends and values & FORBIDDEN:
                    found.append(f"{path}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("code", [0, 1, 5, 77])
def test_run_exits_with_the_code_of_its_command(tmp_path: Path, code: int, area: str) -> None:
    arguments = ("run", "--area", area, "--manifests", str(tmp_path), "--log-level", "error", "--")
    assert called(*arguments, "sh", "-c", f"exit {code}").code == code
