"""Pods of a test: real processes on loopback addresses of their own, and the area that names them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmroute.testing import Answer, Routes, routes
from tests.processes import bound

PORT = 8060
_numbers = itertools.count(random.Random(os.getpid()).randrange(1 << 22))


class PodProcess:
    """One pod, at an address that no other test uses."""

    def __init__(self, certificate: Path | None = None) -> None:
        rest, last = divmod(next(_numbers), 254)
        self.host = f"127.{64 + (rest >> 8 & 63)}.{rest & 255}.{last + 1}"
        self.address = f"{self.host}:{PORT}"
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        more = [str(self._certificate)] if self._certificate else []
        command = [sys.executable, "-m", "tests.contrib.pod", self.host, str(PORT), *more]
        self._process = subprocess.Popen(
            bound(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        self._heard(b"ready")

    def behave(self, behaviour: str) -> None:
        """See `tests.contrib.pod`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(behaviour.encode() + b"\n")
        self._process.stdin.flush()
        self._heard(b"done")

    def _heard(self, word: bytes) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def kill(self) -> None:
        """Kill the pod without notice."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end, as the kubelet does; do not wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        self._end(None)

    def _end(self, number: int | None) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if number is not None:
            process.send_signal(number)
        process.wait(20)
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


class Team:
    """The pods of model "m", and its area."""

    def __init__(self, given: Routes, pods: list[PodProcess]) -> None:
        self.given = given
        self.pods = pods

    def publish(self, *pods: PodProcess, model: str = "m", app: str = "app") -> None:
        """Publish these pods as the endpoints of the model's app."""
        self.given.set({model: Answer(app=app, endpoints=tuple(pod.address for pod in pods))})

    def behave(self, behaviour: str) -> None:
        for pod in self.pods:
            pod.behave(behaviour)


@contextmanager
def team(count: int, model: str = "m", **options: Any) -> Iterator[Team]:
    """Yield `count` pods that serve a model of app "app"."""
    pods = [PodProcess(**options) for _ in range(count)]
    try:
        for pod in pods:
            pod.start()
        with routes({}) as given:
            made = Team(given, pods)
            made.publish(*pods, model=model)
            yield made
    finally:
        for pod in pods:
            pod.kill()
