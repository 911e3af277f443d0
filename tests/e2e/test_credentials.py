"""`shmroute watch` as a process, with a kubeconfig that is invalid, at first or always."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmroute.worker.reader import Reader
from tests.apiserver import ApiServer, app_model
from tests.kube.peers import write_kubeconfig
from tests.kube.plugins import Plugin
from tests.processes import bound
from tests.watcher.running import wait_for


def watch(area: str, kubeconfig: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shmroute", "watch", "-A", "--area", area, "--kubeconfig", kubeconfig, *more]
    return subprocess.Popen(bound(command), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    ("cluster", "user", "problem"),
    [
        ({"proxy-url": "socks5://u:hunter2@127.0.0.1:1"}, {"token": "t"}, "proxy-url"),
        ({"proxy-url": "127.0.0.1:3128"}, {"token": "t"}, "proxy-url"),
        ({"insecure-skip-tls-verify": "false"}, {"token": "t"}, "insecure-skip-tls-verify"),
        ({}, {"token": "t", "as-groups": ["admins"]}, "as-groups"),
        ({}, {}, "no credentials"),
    ],
    ids=lambda value: str(value),
)
def test_unusable_cluster_configuration_ends_the_watcher_in_one_line(
    area: str, tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], problem: str
) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "https://api.example:6443", cluster=cluster, user=user)
    process = watch(area, kubeconfig)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert problem in said
    assert "Traceback" not in said
    assert "hunter2" not in said


@pytest.mark.fault(13)
def test_a_plugin_that_fails_at_first_delays_the_first_snapshot_and_is_named(area: str, tmp_path: Path) -> None:
    script = Plugin(tmp_path)
    script.does("echo no network yet >&2; exit 1")
    with ApiServer() as api:
        api.apply(app_model("one", {"first": "1"}))
        process = watch(area, write_kubeconfig(tmp_path / "kubeconfig", api.url, user=script.config()))
        try:
            wait_for(lambda: script.runs >= 3)
            command = [sys.executable, "-m", "shmroute", "status", "--area", area]
            status = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert "no credentials" in status.stdout + status.stderr
            assert "no network yet" in status.stdout + status.stderr
            assert not list(api.requests)

            script.gives(token=api.auth.token)
            with Reader(area) as reader:
                reader.wait_ready(60)
                assert reader.resolve("first").version == "1"
        finally:
            process.terminate()
            process.communicate(timeout=30)
