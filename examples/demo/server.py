"""The demo's server: gunicorn behind `shmroute run`, as a user would start it, and requests to all of its workers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from examples.demo.scene import MOVING, NAMESPACE

from shmroute.errors import ShmrouteError
from shmroute.supervise.linux import spawn

__all__ = ["CLIENTS", "Load", "Server", "until"]

START_SECONDS: Final = 60.0
STEP_SECONDS: Final = 20.0
"""Time limit of any single step; then the demo ends with an error."""

CLIENTS: Final = 4

PAUSE_SECONDS: Final = 0.02
"""Seconds between two requests of a client: the load is hundreds per second, and CPU time is left for the servers."""

LOG_BYTES: Final = 2000
"""Length of the end of the server's log that is shown after an error."""


def until(condition: Callable[[], Any], what: str, seconds: float = STEP_SECONDS) -> Any:
    """Return the first true answer of `condition`.

    Raises:
        ShmrouteError: there is none within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise ShmrouteError(f"gave up waiting for {what} after {seconds:g} s")
        time.sleep(0.01)
    return found


class Server:
    """gunicorn with `workers` workers on a free port, and a watcher of `folder` beside it.

    Started before this process has threads, so that the kernel can be told to end it with this process.
    """

    def __init__(self, area: str, folder: Path, workers: int) -> None:
        self.area = area
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self._count = workers
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = spawn(
            [
                *(sys.executable, "-m", "shmroute", "run", "--area", area, "--manifests", str(folder)),
                *("--namespace", NAMESPACE, "--log-level", "error", "--"),
                *(sys.executable, "-m", "gunicorn", "--config", "python:examples.demo.gunicorn_conf"),
                *("--workers", str(workers), "--bind", f"127.0.0.1:{self.port}", "examples.demo.app:application"),
            ],
            mask=set(),
            environment={name: value for name, value in os.environ.items() if not name.startswith("SHMROUTE_")},
            own_group=True,
            with_parent=True,
            stderr=self._log.fileno(),
        )
        self.workers: set[int] = set()
        """Process ids, once `wait_ready` has returned."""

    def wait_ready(self, model: str) -> None:
        """Wait until all workers answer for `model`."""

        def all_answer() -> bool:
            if self._process.poll() is not None:
                raise ShmrouteError(f"the server has ended with {self._process.returncode}")
            try:
                status, answer = self.ask(f"/pick?model={model}")
            except (OSError, http.client.HTTPException):
                return False
            if status == 200:
                self.workers.add(answer["pid"])
            return len(self.workers) == self._count

        until(all_answer, f"{self._count} workers", START_SECONDS)

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """Send one request on a connection of its own; return status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=STEP_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask_every_worker(self, path: str) -> dict[int, dict[str, Any]]:
        """Return one answer of each worker, by process id. The kernel chooses who takes a request, so all are asked at
        once, again and again until each has answered."""
        answers: dict[int, dict[str, Any]] = {}
        problems: list[str] = []

        def ask() -> None:
            try:
                status, answer = self.ask(path)
            except (OSError, http.client.HTTPException) as error:
                problems.append(repr(error))
                return
            if status == 200:
                answers[answer["pid"]] = answer
            else:
                problems.append(answer["error"])

        def all_answered() -> bool:
            threads = [threading.Thread(target=ask, daemon=True) for _ in self.workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(STEP_SECONDS)
            if problems:
                raise ShmrouteError(f"{path}: {problems[0]}")
            return answers.keys() >= self.workers

        until(all_answered, f"an answer of each worker to {path}")
        return answers

    def log(self) -> list[str]:
        """Return the end of the server's log on standard error."""
        text = os.pread(self._log.fileno(), LOG_BYTES, max(0, os.fstat(self._log.fileno()).st_size - LOG_BYTES))
        return text.decode(errors="replace").splitlines()

    def wait(self) -> None:
        """Wait until the server ends by itself."""
        self._process.wait()

    def end(self) -> None:
        """End the server; nothing of it is left."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STEP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Load:
    """Clients that call the moving model through the server, again and again, and count what comes back."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        """Answers by app."""
        self.workers: Counter[int] = Counter()
        """Answers by worker."""
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(STEP_SECONDS)

    @property
    def count(self) -> int:
        """Answers so far."""
        with self._lock:
            return self.answers.total()

    def goes_on(self, app: str, count: int = 50) -> None:
        """Wait for `count` more answers of `app`."""
        before = self.answers[app]
        until(lambda: self.answers[app] >= before + count, f"{count} answers of app {app} under load")

    def check(self, event: str) -> None:
        """Raises `ShmrouteError` if a request has failed."""
        if self.failures:
            raise ShmrouteError(f"{len(self.failures)} requests failed during {event}, first: {self.failures[0]}")

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                status, answer = self._server.ask(f"/call?model={MOVING}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status != 200:
                self.failures.append(answer["error"])
                continue
            with self._lock:
                self.answers[answer["app"]] += 1
                self.workers[answer["pid"]] += 1
