"""The real parts: test API server, Redis, `shmroute run -- gunicorn`, a watcher that stands by, clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from shmroute.shm.control import ControlReader
from tests.apiserver import ApiServer
from tests.chaos.world import NAMESPACE, World
from tests.ports import free_port
from tests.processes import bound, children, is_running
from tests.redis_server import RedisServer

WORKERS = 4
CLIENTS = 2
STOP_SECONDS = 30.0


class Stage:
    """All parts of one run. Use `stage`."""

    def __init__(self, api: ApiServer, store: RedisServer, dice: random.Random, area: str, folder: Path) -> None:
        self.api = api
        self.redis = store
        self.dice = dice
        self.area = area
        self.world = World(api, redis.Redis.from_url(store.url, socket_timeout=2), dice)
        self.backup = api.faults.backup()
        self.defects: list[str] = []
        self.answers: Counter[int] = Counter()
        self.failed_requests = 0
        self.sizes: dict[int, list[tuple[int, int]]] = {}
        self.generations: list[int] = []
        self._kubeconfig = folder / "kubeconfig"
        api.kubeconfig(self._kubeconfig)
        self._port = free_port()
        self._stop = threading.Event()
        self.server = self._start_server()
        self.standby = self._start_standby()
        self._threads = [threading.Thread(target=self._load, daemon=True) for _ in range(CLIENTS)]
        self._threads.append(threading.Thread(target=self._look_at_generation, daemon=True))
        for thread in self._threads:
            thread.start()

    def _watch_options(self) -> list[str]:
        options = ["--kubeconfig", str(self._kubeconfig), "--namespace", NAMESPACE, "--redis", self.redis.url]
        return ["--area", self.area, "--log-level", "error", *options]

    def _start_server(self) -> subprocess.Popen[bytes]:
        gunicorn = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", f"127.0.0.1:{self._port}"]
        gunicorn += ["--log-level", "critical", "tests.chaos.app:application"]
        run = [sys.executable, "-m", "shmroute", "run", *self._watch_options(), "--", *gunicorn]
        return subprocess.Popen(bound(run))

    def _start_standby(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(bound([sys.executable, "-m", "shmroute", "watch", *self._watch_options()]))

    def keep_standby(self) -> None:
        """Start the second watcher again if it has been killed."""
        if self.standby.poll() is not None:
            self.standby = self._start_standby()

    @property
    def writer_pid(self) -> int:
        """The watcher that holds the area, 0 if there is none."""
        try:
            pid = ControlReader(self.area).writer_pid
        except (FileNotFoundError, ValueError):
            return 0
        return pid if pid and is_running(pid) else 0

    @property
    def worker_pids(self) -> list[int]:
        """gunicorn's workers."""
        arbiters = [pid for pid in children(self.server.pid) if pid != self.writer_pid]
        return sorted(worker for arbiter in arbiters for worker in children(arbiter))

    def _load(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=STOP_SECONDS)
            try:
                connection.request("GET", "/")
                answer = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError):
                self.failed_requests += 1  # a worker was killed or frozen under it
                self._stop.wait(0.02)
                continue
            finally:
                connection.close()
            self.answers[answer["pid"]] += 1
            self.defects += answer["defects"]
            self.sizes.setdefault(answer["pid"], []).append((answer["rss_bytes"], answer["descriptors"]))

    def _look_at_generation(self) -> None:
        while not self._stop.wait(0.05):
            with contextlib.suppress(FileNotFoundError, ValueError):
                self.generations.append(ControlReader(self.area).generation)

    def close(self) -> None:
        """End everything, in the order a user would."""
        self._stop.set()
        for process in (self.standby, self.server):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in (self.standby, self.server):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(STOP_SECONDS)


@contextmanager
def stage(seed: int) -> Iterator[Stage]:
    """Yield the parts, started; ended in any case."""
    with (
        tempfile.TemporaryDirectory(prefix="shmroute-chaos-") as folder,
        ApiServer() as api,
        RedisServer() as store,
    ):
        parts = Stage(api, store, random.Random(seed), f"chaos-{os.getpid()}", Path(folder))
        try:
            _until_ready(parts)
            yield parts
        finally:
            api.faults.clear()
            with contextlib.suppress(Exception):
                api.faults.accept()
            parts.close()


def _until_ready(parts: Stage) -> None:
    deadline = time.monotonic() + 60
    while len(parts.answers) < WORKERS:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(parts.answers)} of {WORKERS} workers answer")
        time.sleep(0.05)
