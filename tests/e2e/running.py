"""The command line as real processes: a watcher, and workers that look models up in a loop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmroute import Reader
from tests.cluster import Cluster, Manifest
from tests.faults.watching import watch_process
from tests.processes import bound

WAIT_SECONDS = 30.0
STEP_SECONDS = 0.01


def appmodel(name: str, app: str, version: str, models: dict[str, str]) -> Manifest:
    """Return an AppModel as its users write it."""
    return {
        "apiVersion": "iidp.com/v1",
        "kind": "AppModel",
        "metadata": {"name": name, "labels": {"iidp": "iidp"}},
        "spec": {
            "app": app,
            "version": version,
            "models": [{"name": model, "version": of} for model, of in models.items()],
        },
    }


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true answer of `condition`; fails if there is none in time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"no {what} within {WAIT_SECONDS:g} s"
        time.sleep(STEP_SECONDS)
    return answer


@contextmanager
def watcher(cluster: Cluster, area: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `shmroute watch` on the cluster's namespace; end it at the end of the block."""
    place = ("--kubeconfig", cluster.kubeconfig, "--namespace", cluster.namespace)
    with watch_process(area, *place, *options, log_level="info") as process:
        yield process


def shmroute(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shmroute", *arguments],
        check=check,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


_WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A process that resolves models in a loop; see worker.py."""

    def __init__(self, area: str, models: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            bound([sys.executable, str(_WORKER), area, *models]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, Any]:
        """Return what the worker sees now: each model's answer, its generation, and the errors it has met."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("tell\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(area: str, count: int, *models: str) -> Iterator[list[Worker]]:
    """Run `count` worker processes on the area."""
    started = [Worker(area, models) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.close()


def ready(area: str) -> Reader:
    """Return a reader, once the area holds a first snapshot."""
    reader = Reader(area)
    reader.wait_ready(WAIT_SECONDS)
    return reader
