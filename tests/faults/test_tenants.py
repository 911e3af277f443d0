"""One tenant creates enough objects to fill the area; other tenants are served nevertheless, by real processes."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shmroute.worker.reader import Reader
from tests.apiserver import ApiServer, app_model
from tests.forks import Forks, Pipe
from tests.namespaces import in_own_shm, needs_own_shm
from tests.ports import free_port
from tests.processes import bound

WAIT_SECONDS = 60.0
SEEN_SECONDS = 5.0
"""Longest time until another tenant's change is seen, in seconds: a loose bound on the measured time."""


def told(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "shmroute", *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def serve_tenants(pipe: Pipe, kubeconfig: Path, area: str, port: int, last: str) -> None:
    """Run a watcher of all namespaces in a /dev/shm of its own; answer the test's requests by the pipe."""
    command = [sys.executable, "-m", "shmroute", "watch", "-A", "--kubeconfig", str(kubeconfig), "--area", area]
    command += ["--listen", f"127.0.0.1:{port}", "--no-endpoints", "--log-level", "warning"]
    with subprocess.Popen(bound(command)) as watcher, Reader(area) as reader:
        try:
            reader.wait_ready(WAIT_SECONDS)
            pipe.send({model: reader.get(model) is not None for model in ("mine", "evil00000_0", last)})
            while (version := pipe.recv()) != "end":
                deadline = time.monotonic() + WAIT_SECONDS
                while reader.resolve("mine").version != version:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                pipe.send("seen")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
                readyz = answer.read().decode()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            commands = (("status",), ("get", "invalid"), ("explain", last))
            texts = [told(*words, "--area", area) for words in commands]
            assert watcher.poll() is None
            pipe.send((readyz, metrics, *texts))
        finally:
            watcher.terminate()


@pytest.mark.fault(47)
@needs_own_shm
@pytest.mark.parametrize(
    ("size", "objects", "models"),
    [pytest.param("4m", 25, 1_000), pytest.param("128m", 45, 12_000, marks=pytest.mark.long)],
)
def test_one_tenant_cannot_take_the_room_of_the_others(
    tmp_path: Path, area: str, size: str, objects: int, models: int
) -> None:
    last = f"evil{objects - 1:05}_0"
    with ApiServer() as api, Forks() as forks:
        api.preload(
            app_model(f"evil{n:05}", [f"evil{n:05}_{m}" for m in range(models)], namespace="evil")
            for n in range(objects)
        )
        api.apply(app_model("mine", {"mine": "0"}, namespace="mine"))
        arguments = (api.kubeconfig(tmp_path / "kubeconfig"), area, free_port(), last)
        child = forks.start(in_own_shm, size, serve_tenants, *arguments)
        there: dict[str, Any] = child.pipe.recv()
        assert there == {"mine": True, "evil00000_0": True, last: False}
        for version in ("1", "2", "3"):
            started = time.monotonic()
            api.apply(app_model("mine", {"mine": version}, namespace="mine"))
            child.pipe.send(version)
            assert child.pipe.recv() == "seen"
            print(f"seen after {time.monotonic() - started:.3f} s")
        child.pipe.send("end")
        readyz, metrics, status, invalid, explained = child.pipe.recv()
        child.finish()
    for text in (readyz, status):
        assert "of namespace 'evil' (routes): its --share is taken" in text
    assert readyz.startswith("ok\n")
    assert "shmroute_blocked 0.0" in metrics
    set_aside = next(line for line in metrics.splitlines() if line.startswith("shmroute_no_room_objects "))
    assert 0 < float(set_aside.split()[1]) < objects
    for text in (invalid, explained):
        assert f"evil{objects - 1:05}" in text
        assert "no room: namespace 'evil' may take" in text
