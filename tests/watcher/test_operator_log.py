"""Log lines for operators about what the watcher follows and what it sets aside."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shmroute.rows import ConflictRow, InvalidRow, Kind, MetadataRow, MetadataState, RowKey, encode
from shmroute.watcher import operator_log
from shmroute.watcher.operator_log import OperatorLog
from tests.processes import bound
from tests.supervise.running import Manifests, until


def invalid(number: int) -> tuple[RowKey, bytes]:
    row = InvalidRow("AppModel", "east", f"a{number}", "spec.app is missing", last_good=False)
    return (Kind.INVALID, f"AppModel east/a{number}"), encode(row)


def test_conflict_invalid_object_and_missing_metadata_have_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    missing = MetadataRow("app", None, "v2", MetadataState.MISSING, 0.0)
    with caplog.at_level(logging.INFO):
        OperatorLog(lambda: 0).note(
            {
                (Kind.CONFLICT, "east/m"): encode(ConflictRow("m", "east", "old", ("young",))),
                (Kind.METADATA, "east/m"): encode(missing),
                **dict([invalid(1)]),
                (Kind.INVALID, "AppModel east/gone"): None,
                (Kind.MODEL, "m"): b"",
            }
        )
    lines = [record.getMessage() for record in caplog.records]
    assert "model east/m: AppModel old serves it; young claim it too" in lines
    assert "metadata of model east/m version v2: its key does not exist" in lines
    assert "AppModel east/a1 is set aside (nothing of it is served): spec.app is missing" in lines
    assert "AppModel east/gone is valid again, or gone" in lines


def test_lines_are_limited_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0
    log = OperatorLog(lambda: now)
    log.note(dict(invalid(number) for number in range(operator_log.MAX_LINES + 7)))
    assert len(caplog.records) == operator_log.MAX_LINES
    now = operator_log.PERIOD_NS
    log.note({})
    assert caplog.records[-1].getMessage().startswith("7 more conflicts")


def test_watch_logs_its_settings_and_first_snapshot_as_json(area: str, tmp_path: Path) -> None:
    manifests = Manifests(tmp_path / "manifests")
    (manifests.path / "bad.json").write_text(
        '{"apiVersion": "iidp.com/v1", "kind": "AppModel", "metadata": {"name": "b"}}'
    )
    (tmp_path / "metadata").mkdir()
    command = [sys.executable, "-m", "shmroute", "watch", "--area", area, "--manifests", str(manifests.path)]
    command += ["--metadata", str(tmp_path / "metadata")]
    errors = tmp_path / "errors"
    with errors.open("w") as stream:
        process = subprocess.Popen(bound([*command, "--log-format", "json"]), stderr=stream)
    try:
        until(lambda: "first snapshot" in errors.read_text(), "first snapshot")
        until(lambda: "is set aside" in errors.read_text(), "the invalid object")
        until(lambda: "metadata of model" in errors.read_text(), "the missing metadata")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    lines = [json.loads(line)["message"] for line in errors.read_text().splitlines()]
    assert any(line.startswith(f"watching {manifests.path} (all namespaces, no selector)") for line in lines)
    assert any("1 model, 1 app" in line for line in lines)
