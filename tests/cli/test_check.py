"""`shmroute check`: manifests validated without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Cli

GOOD = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: %s, namespace: east}
spec: {app: sdkApp, version: v1, models: [{name: model1, version: v-1}]}
"""


def test_valid_manifests_pass_and_other_kinds_are_skipped(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD % "a")
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n")
    answered = cli("check", str(tmp_path))
    assert answered.code == 0
    assert answered.out == ""
    assert "1 AppModel checked, 1 other object skipped, 0 problems" in answered.err


def test_unknown_field_is_an_error_with_a_suggestion(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text((GOOD % "a").replace("models:", "modles:"))
    answered = cli("check", str(tmp_path / "a.yaml"))
    assert answered.code == 1
    assert "spec.modles is not a field of an AppModel: did you mean models?" in answered.out


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("iidp.com/v1", "iidp.com/v1alpha1", "apiVersion is"),
        ("apiVersion: iidp.com/v1\n", "", "apiVersion is"),
        ("kind: AppModel", "kind: appModel", "kind is"),
        ("kind: AppModel", "kind: AppModels", "did you mean AppModel?"),
    ],
)
def test_appmodel_with_wrong_version_or_case_is_reported_not_skipped(
    cli: Cli, tmp_path: Path, right: str, wrong: str, problem: str
) -> None:
    (tmp_path / "a.yaml").write_text((GOOD % "a").replace(right, wrong))
    answered = cli("check", str(tmp_path / "a.yaml"))
    assert answered.code == 1
    assert problem in answered.out


def test_every_broken_file_is_reported(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text((GOOD % "b").replace("v1, models", "1, models"))
    answered = cli("check", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), str(tmp_path / "absent.yaml"))
    assert answered.code == 1
    assert len([line for line in answered.out.splitlines() if line.startswith("error: ")]) >= 3


def test_each_mistake_of_a_tables_file_is_reported_by_table(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text("tables:\n  flags: {resource: configmaps.v1}\n")
    answered = cli("check", str(path))
    assert (answered.code, answered.out) == (0, "")
    assert "1 table checked" in answered.err
    path.write_text(
        "tables:\n  a: {resorce: configmaps.v1}\n  b: {resource: x}\n  c: {resource: configmaps.v1, selector: '=='}\n"
    )
    answered = cli("check", str(path))
    assert answered.code == 1
    assert [line.split()[1] for line in answered.out.splitlines()] == [f"{path}:{line}:" for line in (2, 3, 4)]


def test_appmodel_in_two_files_is_a_warning_of_its_own(cli: Cli, tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD % "a")
    answered = cli("check", str(tmp_path))
    assert answered.out == (
        f"warning: AppModel 'a' in namespace east is in {tmp_path / 'a.yaml'} and in {tmp_path / 'b.yaml'}\n"
    )


def test_model_claimed_twice_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD % "a" + "---" + GOOD % "b")
    answered = cli("check", str(tmp_path))
    assert answered.code == 0
    assert "warning: model 'model1' in namespace east is claimed by AppModels a, b" in answered.out
