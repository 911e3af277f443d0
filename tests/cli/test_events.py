"""`shmroute events`, and the past of a model in `explain`, with a real watcher on a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import WAIT_SECONDS, Cli, start
from tests.watcher.running import wait_for

BOTH = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: one, namespace: prod}
spec: {app: appOne, version: v1, models: [{name: model1, version: v-1}, {name: "bad\\e[31m", version: v-1}]}
---
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: two, namespace: prod}
spec: {app: appTwo, version: v1, models: [{name: model2, version: v-1}]}
"""


def test_events_and_explain_show_what_happened_to_a_model(cli: Cli, area: str, tmp_path: Path) -> None:
    manifests, metadata = tmp_path / "manifests", tmp_path / "metadata"
    for folder in (manifests, metadata):
        folder.mkdir()
    file = manifests / "appmodels.yaml"
    file.write_text(BOTH)
    (metadata / "appOne_model1").write_text("{}")
    process = start("watch", "--manifests", manifests, "--metadata", metadata, "--area", area)
    try:
        assert cli("wait", "--timeout", "60", "--area", area).code == 0
        explained = cli("explain", "model1", "--area", area).out
        assert f"AppModel prod/one claims it in {file}" in explained
        assert f"key appOne_model1 of {metadata}" in explained
        file.write_text(BOTH.partition("---")[0])
        wait_for(lambda: "model2 removed" in cli("events", "model2", "--area", area).out)
        lines = cli("events", "--since", "10m", "model2", "--area", area).out.splitlines()
        assert any(line.endswith("  model model2 removed: v-1 by app appTwo v1 (prod/two)") for line in lines)
        assert all("model2" in line for line in lines)
        answered = cli("explain", "model2", "--area", area)
        assert answered.code == 5
        assert "It was served until" in answered.err
        assert "version v-1 by app appTwo v1 (prod/two)." in answered.err
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS)
    items = json.loads(cli("events", "model2", "-o", "json", "--area", area).out)["items"]
    assert ("model", "removed") in {(item["kind"], item["what"]) for item in items}
    assert "watcher ended" in cli("events", "--area", area).out, "the log outlives the watcher"
    assert "\x1b" not in cli("events", "--area", area).out
    assert cli("events", "--since", "0s", "--area", area).err == "No events.\n"


@pytest.mark.parametrize("since", ["", "10 minutes", "-5m", "m"])
def test_an_unreadable_since_is_a_usage_error(cli: Cli, area: str, since: str) -> None:
    answered = cli("events", f"--since={since}", "--area", area)
    assert answered.code == 2
    assert "as in 10m" in answered.err
