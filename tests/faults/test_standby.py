"""Rows 24 and 25, with watchers as real processes: a frozen one, and two for the same area."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shmroute import Reader, StaleRoutes
from shmroute.shm.control import ControlReader
from shmroute.watcher.loop import STANDBY_RETRY_SECONDS
from tests.faults.watching import watch_process
from tests.processes import bound
from tests.watcher.running import WAIT_SECONDS, wait_for

APPMODEL = {
    "apiVersion": "iidp.com/v1",
    "kind": "AppModel",
    "metadata": {"name": "iiot"},
    "spec": {"app": "iiot", "version": "v1", "models": [{"name": "iiot_dataservice", "version": "v-1"}]},
}

TAKEOVER_SECONDS = 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "v1")
    return tmp_path


def write(folder: Path, version: str) -> None:
    beside = folder / ".iiot.new"
    beside.write_text(json.dumps({**APPMODEL, "spec": {**APPMODEL["spec"], "version": version}}))  # type: ignore[dict-item]
    beside.replace(folder / "iiot.json")


@pytest.mark.fault(25)
def test_25_standby_takes_over_when_the_writing_watcher_ends(folder: Path, area: str) -> None:
    with watch_process(area, "--manifests", folder) as first, Reader(area) as reader:
        reader.wait_ready(WAIT_SECONDS)
        with watch_process(area, "--manifests", folder) as second:
            control = ControlReader(area)
            assert control.writer_pid == first.pid
            # Its first try of the lock comes before its first event: wait until both follow the folder.
            write(folder, "v2")
            wait_for(lambda: reader.resolve("iiot_dataservice").app_version == "v2")
            assert control.writer_pid == first.pid
            before = reader.generation

            first.kill()
            first.wait()
            assert STANDBY_RETRY_SECONDS < TAKEOVER_SECONDS
            wait_for(lambda: control.writer_pid == second.pid)
            assert reader.resolve("iiot_dataservice").app == "iiot"
            write(folder, "v3")
            wait_for(lambda: reader.resolve("iiot_dataservice").app_version == "v3")
            assert reader.generation > before


@pytest.mark.fault(24)
def test_24_a_frozen_watcher_costs_no_answer_and_its_age_grows(folder: Path, area: str) -> None:
    with watch_process(area, "--manifests", folder) as process, Reader(area) as reader:
        reader.wait_ready(WAIT_SECONDS)
        wait_for(lambda: reader.age < 1.0)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: reader.age > 1.5)
        assert reader.resolve("iiot_dataservice").app == "iiot"
        with pytest.raises(StaleRoutes):
            reader.resolve("iiot_dataservice", max_age=1.0)

        process.send_signal(signal.SIGCONT)
        wait_for(lambda: reader.age < 1.5)
        write(folder, "v2")
        wait_for(lambda: reader.resolve("iiot_dataservice", max_age=60.0).app_version == "v2")


@pytest.mark.fault(24)
def test_24_a_frozen_watcher_is_started_again_by_its_supervisor(folder: Path, area: str) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "shmroute",
        "run",
        "--manifests",
        folder,
        "--area",
        area,
        "--log-level",
        "error",
    ]
    server = subprocess.Popen(bound([*command, "--", sys.executable, "-c", "input()"]), stdin=subprocess.PIPE)
    try:
        with Reader(area) as reader:
            reader.wait_ready(WAIT_SECONDS)
            control = ControlReader(area)
            frozen = control.writer_pid
            os.kill(frozen, signal.SIGSTOP)
            write(folder, "v2")
            wait_for(lambda: control.writer_pid != frozen, 30.0)
            wait_for(lambda: reader.resolve("iiot_dataservice").app_version == "v2")
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(WAIT_SECONDS)
