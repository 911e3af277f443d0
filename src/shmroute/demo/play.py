"""The demo's sequence: start, load, a model that moves, a rolling restart, and what each of them proved."""

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
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from shmroute.client import Reader
from shmroute.demo.scene import MOVING, NAMESPACE, Folder, Pod
from shmroute.errors import ConfigError, ShmrouteError

__all__ = ["play"]

Say = Callable[[str], None]

START_SECONDS: Final = 60.0
STEP_SECONDS: Final = 20.0
"""How long any one thing may take before the demo gives up and says so."""

CLIENTS: Final = 4
PODS: Final = 4
DRAIN_SECONDS: Final = 0.3
"""Between a pod's being reported not ready and its end: what a preStop hook usually waits."""


class _Load:
    """Clients that call the moving model through the server, again and again, and count what comes back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        self.workers: Counter[int] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(STEP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status, answer = _ask(self._port, f"/call?model={MOVING}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status == 200:
                self.answers[answer["app"]] += 1
                self.workers[answer["pid"]] += 1
            else:
                self.failures.append(answer["error"])


def play(say: Say, *, workers: int, models: int, keep: bool, folder: str | None) -> None:
    """Play the demo.

    Raises:
        ConfigError: gunicorn is not installed.
        ShmrouteError: something that had to happen did not.
    """
    try:
        import gunicorn  # noqa: F401
    except ImportError:
        raise ConfigError("the demo needs gunicorn: pip install gunicorn") from None
    with ExitStack() as stack:
        path = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="shmroute-demo-")))
        path.mkdir(parents=True, exist_ok=True)
        scene = Folder(path)
        pods = [Pod(f"iiot-{number}") for number in range(PODS)]
        scene.write_fleet(models)
        scene.write_owner("iiot", "v1")
        scene.write_pods((pod, True) for pod in pods)
        say(f"folder      {path}: {models} models in {-(-models // 10)} AppModels, {PODS} pods of app iiot")
        port = _free_port()
        area = f"demo-{os.getpid()}"
        server = _start(area, path, port, workers)
        stack.callback(_end, server)
        pids = _workers(port, workers, models)
        with Reader(area) as reader:
            say(f"server      gunicorn with {len(pids)} workers on 127.0.0.1:{port}, one watcher, area {area}")
            proofs = [
                _speed_and_memory(say, port, pids, models),
                _move(say, port, pids, scene, reader),
                _rolling_restart(say, port, scene, pods),
            ]
        say("")
        for proof in proofs:
            say(f"proven: {proof}")
        if keep:
            say(f"running on: change {path}, then ask http://127.0.0.1:{port}/call?model={MOVING}; Ctrl-C ends it")
            server.wait()


# --- the acts ----------------------------------------------------------------------------------------------


def _speed_and_memory(say: Say, port: int, pids: set[int], models: int) -> str:
    memory = _every(port, pids, f"/memory?models={models}")  # before anything else has grown the workers
    rates = _every(port, pids, f"/bench?models={models}")
    for pid, answer in sorted(rates.items()):
        say(f"look-ups    worker {pid}: {answer['lookups_per_second'] / 1e6:.2f} million a second")
    for pid, answer in sorted(memory.items()):
        ours, theirs = answer["shmroute_bytes"] / 2**10, answer["dict_bytes"] / 2**10
        say(f"memory      worker {pid}: {ours:,.0f} KiB with 500 models in use, {theirs:,.0f} KiB as a dict of all")
    rate = median(answer["lookups_per_second"] for answer in rates.values())
    ours = median(answer["shmroute_bytes"] for answer in memory.values()) / 2**10
    theirs = median(answer["dict_bytes"] for answer in memory.values()) / 2**10
    return (
        f"{rate / 1e6:.1f} million look-ups a second in each worker;"
        f" {ours:,.0f} KiB with 500 models in use instead of {theirs:,.0f} KiB for a dict of all"
    )


def _move(say: Say, port: int, pids: set[int], scene: Folder, reader: Reader) -> str:
    _every(port, pids, f"/look?model={MOVING}")
    with _Load(port) as load:
        _until(lambda: sum(load.answers.values()) >= 50, "50 answers under load")
        say(f"move        {MOVING} goes from app iiot to app iiot2 under load")
        moved = time.monotonic_ns()
        scene.write_owner("iiot2", "v2")
        _until(lambda: reader.resolve(MOVING).app == "iiot2", "the move in shared memory")
        seen = _until(lambda: _all_saw(port, pids, "iiot2"), "the move in every worker")
        before = load.answers["iiot2"]
        _until(lambda: load.answers["iiot2"] >= before + 50, "50 answers after the move")
    delays = {pid: (at - moved) / 1e6 for pid, at in seen.items()}
    for pid, delay in sorted(delays.items()):
        say(f"move        worker {pid} saw it {delay:.1f} ms after the file was replaced")
    if load.failures:
        raise ShmrouteError(f"{len(load.failures)} requests failed during the move, first: {load.failures[0]}")
    total = sum(load.answers.values())
    return (
        f"a model moved to another app, seen by all {len(delays)} workers within {max(delays.values()):.1f} ms,"
        f" {total} requests, 0 failed"
    )


def _rolling_restart(say: Say, port: int, scene: Folder, pods: list[Pod]) -> str:
    serving = list(pods)
    with _Load(port) as load:
        _until(lambda: sum(load.answers.values()) >= 50, "50 answers under load")
        for number, old in enumerate(pods):
            new = Pod(f"iiot-new-{number}")
            serving.append(new)
            scene.write_pods((pod, True) for pod in serving)
            scene.write_pods((pod, pod is not old) for pod in serving)
            time.sleep(DRAIN_SECONDS)
            serving.remove(old)
            old.stop()
            scene.write_pods((pod, True) for pod in serving)
            say(f"restart     pod {old.name} replaced by {new.name}, {sum(load.answers.values())} requests so far")
    if load.failures:
        raise ShmrouteError(f"{len(load.failures)} requests failed during the restart, first: {load.failures[0]}")
    total = sum(load.answers.values())
    return f"a rolling restart of {len(pods)} pods under load, {total} requests, 0 failed"


# --- the server --------------------------------------------------------------------------------------------


def _start(area: str, folder: Path, port: int, workers: int) -> subprocess.Popen[bytes]:
    """`shmroute run -- gunicorn`, as a user would."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "shmroute", "run", "--area", area, "--manifests", str(folder)),
            *("--namespace", NAMESPACE, "--log-level", "warning", "--"),
            *(sys.executable, "-m", "gunicorn", "--workers", str(workers), "--bind", f"127.0.0.1:{port}"),
            *("--log-level", "warning", "shmroute.demo.app:application"),
        ],
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(STEP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STEP_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _workers(port: int, workers: int, models: int) -> set[int]:
    """The workers' process ids, once all of them answer with the last model of the table."""
    pids: set[int] = set()

    def all_answer() -> bool:
        try:
            status, answer = _ask(port, f"/pick?model=model_{models - 1}")
        except (OSError, http.client.HTTPException):
            return False
        if status == 200:
            pids.add(answer["pid"])
        return len(pids) == workers

    _until(all_answer, f"{workers} workers", START_SECONDS)
    return pids


def _every(port: int, pids: set[int], path: str) -> dict[int, dict[str, Any]]:
    """One answer of each worker; the kernel chooses who takes a request, so it is asked until all have."""
    answers: dict[int, dict[str, Any]] = {}
    lock = threading.Lock()

    def ask() -> bool:
        status, answer = _ask(port, path)
        if status != 200:
            raise ShmrouteError(f"{path}: {answer['error']}")
        with lock:
            answers[answer["pid"]] = answer
        return answers.keys() >= pids

    while not answers.keys() >= pids:
        threads = [threading.Thread(target=ask, daemon=True) for _ in pids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(STEP_SECONDS)
    return answers


def _all_saw(port: int, pids: set[int], app: str) -> dict[int, int]:
    """When each worker saw the model in `app` (monotonic nanoseconds); empty until all have."""
    answers = _every(port, pids, f"/look?model={MOVING}")
    if any(app not in answer["seen"] for answer in answers.values()):
        return {}
    return {pid: answer["seen"][app] for pid, answer in answers.items()}


def _until(condition: Callable[[], Any], what: str, seconds: float = STEP_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise ShmrouteError(f"gave up waiting for {what} after {seconds:g} s")
        time.sleep(0.01)
    return found
