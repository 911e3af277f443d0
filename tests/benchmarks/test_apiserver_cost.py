"""The table of costs is measured on a server in a process of its own, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import apiserver_cost
from shmroute.kube.connection import Connection, path_of
from tests.processes import bound


def test_each_kind_of_request_gets_a_cost_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    command = [sys.executable, "-m", "tests.apiserver", "--kubeconfig", str(kubeconfig)]
    server = subprocess.Popen(bound(command), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        options = ["--kubeconfig", str(kubeconfig), "--pid", str(server.pid), "--count", "100", "--watchers", "3"]
        apiserver_cost.main([*options, "--idle-seconds", "1"])
        [found] = json.loads(capsys.readouterr().out).values()
        with closing(Connection(str(kubeconfig))) as connection:
            path = path_of("apis", "iidp.com", "v1", "appmodels")
            left = json.loads(connection.request("GET", path).data)["items"]
    finally:
        server.terminate()
        server.wait(10)
        if server.stdout:
            server.stdout.close()

    assert left == []
    assert found["write of an object"] > 0  # the dearest of all; the others may be less than a clock tick
    assert {
        "quorum probe",
        "peek",
        "list from the cache",
        "event to one watcher",
        "idle watch, a second",
    } <= found.keys()
