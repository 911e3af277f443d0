"""`shmroute area`: areas of this machine, listed and removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shmroute.shm.writing.publisher import Publisher
from tests.cli.running import Cli, called, publish
from tests.leftovers import SHARED_MEMORY


def test_area_that_a_watcher_left_is_listed_and_removed(cli: Cli, area: str) -> None:
    publish(area)
    items = {item["area"]: item for item in json.loads(cli("area", "ls", "-o", "json").out)["items"]}
    assert items[area]["generation"] == 1
    assert items[area]["bytes"] > 0
    assert cli("area", "rm", area).code == 0
    assert not list(SHARED_MEMORY.glob(f"shmroute-{area}*"))
    again = cli("area", "rm", area)
    assert again.code == 5
    assert f"there is no area {area!r}" in again.err


def test_area_with_a_writer_is_not_removed(cli: Cli, area: str) -> None:
    with Publisher(area):
        answered = cli("area", "rm", area)
        assert answered.code == 1
        assert f"(pid {os.getpid()}): end that watcher first" in answered.err, "the pid as this process counts them"
        assert list(SHARED_MEMORY.glob(f"shmroute-{area}*"))


@pytest.mark.parametrize("folder", ["/no/such/folder", "relative", "/dev/null"])
def test_a_shared_folder_that_cannot_be_used_is_named(folder: str, tmp_path: Path) -> None:
    watched = called("watch", "--manifests", tmp_path, SHMROUTE_DIR=folder)
    assert watched.code == 2
    assert f"SHMROUTE_DIR={folder}" in watched.err
    assert "Traceback" not in watched.err


def test_a_shared_folder_that_is_missing_has_no_areas() -> None:
    assert called("area", "ls", SHMROUTE_DIR="/no/such/folder").code == 0


def test_unreadable_area_is_listed_with_its_reason(cli: Cli, area: str) -> None:
    (SHARED_MEMORY / f"shmroute-{area}").write_bytes(b"foreign" * 2000)
    line = next(line for line in cli("area", "ls").out.splitlines() if line.startswith(area))
    assert "unreadable" in line


def test_doctor_names_what_is_wrong_and_ends_with_1(cli: Cli, area: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("apiVersion: iidp.com/v1\nkind: AppModel\nmetadata: {name: bad}\n")
    answered = cli("doctor", "--area", area, "--manifests", str(tmp_path), "--redis", "redis://127.0.0.1:1/0")
    assert answered.code == 1
    assert "spec is missing" in answered.out
    assert "127.0.0.1:1" in answered.out
    assert "does not exist yet" in answered.out
    (tmp_path / "bad.yaml").unlink()
    answered = cli("doctor", "--area", area, "--kubeconfig", str(tmp_path / "absent"))
    assert answered.code == 1
    assert "absent" in answered.out


def test_doctor_checks_the_tables_file(cli: Cli, area: str, tmp_path: Path) -> None:
    tables = tmp_path / "tables.yml"
    tables.write_text("tables:\n  flags: {resource: configmaps.v1}\n")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "a.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")
    options = ("--area", area, "--manifests", str(tmp_path / "manifests"), "--tables", str(tables))
    answered = cli("doctor", *options)
    assert answered.code == 0
    assert f"{tables} declares 1 table" in answered.out
    assert "warning " + str(tmp_path) not in answered.out, "tables alone are no mistake"
    tables.write_text("tables:\n  flags: {resorce: configmaps.v1}\n")
    answered = cli("doctor", *options)
    assert answered.code == 1
    assert f"{tables}:2: table 'flags': unknown field 'resorce'" in answered.out


def test_doctor_finds_objects_that_the_selector_misses(cli: Cli, area: str, tmp_path: Path) -> None:
    from tests.apiserver import ApiServer
    from tests.apiserver.samples import app_model

    with ApiServer() as api:
        api.apply(app_model("iiot", {"iiot_dataservice": "1"}))
        kubeconfig = tmp_path / "kubeconfig"
        api.kubeconfig(kubeconfig)
        options = ("--area", area, "--kubeconfig", str(kubeconfig), "-A")
        assert "appmodels in all namespaces: may be listed, and there are some" in cli("doctor", *options).out
        assert "none matches 'team=x'" in cli("doctor", *options, "-l", "team=x").out


def test_doctor_asks_the_cluster_for_the_resource_of_each_table(cli: Cli, area: str, tmp_path: Path) -> None:
    from tests.apiserver import ApiServer

    tables = tmp_path / "tables.yaml"
    tables.write_text(
        "tables:\n"
        "  flags: {resource: configmaps.v1}\n"
        "  shared: {resource: configmaps.v1, namespace: shared}\n"
        "  wrong: {resource: configmaps.v1, fieldSelector: data.on=1}\n"
        "  plans: {resource: plans.v1.example.com}\n"
    )
    with ApiServer() as api:
        kubeconfig = tmp_path / "kubeconfig"
        api.kubeconfig(kubeconfig)
        api.auth.forbid("list", "configmaps", "shared")
        answered = cli("doctor", "--area", area, "--kubeconfig", str(kubeconfig), "-n", "team", "--tables", str(tables))
    lines = answered.out.splitlines()
    assert answered.code == 1
    assert "ok      table flags: configmaps in namespace team may be listed" in lines
    assert any(line.startswith("problem table shared: ") and "403 Forbidden" in line for line in lines)
    assert any(line.startswith("problem table wrong: ") and "not a known field selector" in line for line in lines)
    assert any(line.startswith("warning table plans has to wait: ") and "plans.example.com" in line for line in lines)
