"""The demo's sequence: start, load, a model that moves, a rolling restart, a killed watcher, and what each proved."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

from examples.demo.scene import MOVING, Folder, Pod
from examples.demo.server import Load, Server, until
from examples.demo.view import View

from shmroute.errors import ConfigError, ShmrouteError
from shmroute.shm.control import ControlReader
from shmroute.worker.reader import Reader

__all__ = ["play"]

PODS: Final = 4

DRAIN_SECONDS: Final = 0.5
"""Seconds from the moment a pod is not ready to its end, like a short preStop hook."""

HOT_MODELS: Final = 500
"""Number of models that each worker looks up; the table holds many more."""


def play(view: View, *, workers: int, models: int, keep: bool, folder: str | None) -> None:
    """Play the demo.

    Raises:
        ConfigError: gunicorn is not installed.
        ShmrouteError: an expected event did not happen in time, or a request failed.
    """
    try:
        import gunicorn  # noqa: F401
    except ImportError:
        raise ConfigError("the demo needs gunicorn: pip install gunicorn") from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        path = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="shmroute-demo-")))
        path.mkdir(parents=True, exist_ok=True)
        scene = Folder(path)
        pods = [Pod(f"iiot-{number}") for number in range(PODS)]
        scene.write_fleet(models)
        scene.write_owner("iiot", "v1")
        scene.write_pods((pod, True) for pod in pods)
        server = Server(f"demo-{os.getpid()}", path, workers)
        stack.callback(server.end)
        for pod in pods:
            pod.start()
        try:
            with view:
                view.say("folder", f"{path}: {models} models in {-(-models // 10)} AppModels, {PODS} pods of app iiot")
                proofs = _acts(view, server, scene, pods, models)
        except ShmrouteError:
            for line in server.log():
                view.say("server's log", line)
            raise
        view.say("", "")
        for proof in proofs:
            view.say("proven", proof)
        if keep:
            where = f"http://127.0.0.1:{server.port}/call?model={MOVING}"
            view.say("running on", f"change {path}, then ask {where}; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                server.wait()


def _acts(view: View, server: Server, scene: Folder, pods: list[Pod], models: int) -> list[str]:
    """Run all acts. Returns what each of them proved."""
    server.wait_ready(f"model_{models - 1}")
    where = f"127.0.0.1:{server.port}"
    view.say("server", f"gunicorn with {len(server.workers)} workers on {where}, one watcher, area {server.area}")
    with Reader(server.area) as reader:
        return [
            _speed_and_memory(view, server, models),
            _move(view, server, scene, reader),
            _rolling_restart(view, server, scene, pods, reader),
            _killed_watcher(view, server, scene, reader),
        ]


def _speed_and_memory(view: View, server: Server, models: int) -> str:
    memory = server.ask_every_worker(f"/memory?hot={HOT_MODELS}")  # before anything else has grown the workers
    if any(answer["models"] != models + 1 for answer in memory.values()):
        raise ShmrouteError("a worker does not see the whole table")
    rates = server.ask_every_worker(f"/bench?hot={HOT_MODELS}")
    for pid in sorted(server.workers):
        view.worker(pid, "look-ups/s", f"{rates[pid]['lookups_per_second'] / 1e6:.2f} million")
        view.worker(pid, "memory", f"{memory[pid]['shmroute_bytes'] / 2**10:,.0f} KiB for {HOT_MODELS} models in use")
        view.worker(pid, "a dict", f"{memory[pid]['dict_bytes'] / 2**10:,.0f} KiB for all {models}")
    return (
        f"{_median(rates, 'lookups_per_second') / 1e6:.1f} million look-ups a second in each worker, all at once;"
        f" {_median(memory, 'shmroute_bytes') / 2**10:,.0f} KiB with {HOT_MODELS} models in use instead of"
        f" {_median(memory, 'dict_bytes') / 2**10:,.0f} KiB for a dict of all"
    )


def _median(answers: dict[int, dict[str, Any]], name: str) -> float:
    return float(median(answer[name] for answer in answers.values()))


def _move(view: View, server: Server, scene: Folder, reader: Reader) -> str:
    server.ask_every_worker(f"/look?model={MOVING}")
    with Load(server) as load:
        view.count(lambda: dict(load.workers))
        load.goes_on("iiot")
        view.say("move", f"{MOVING} goes from app iiot to app iiot2 under load")
        moved = time.monotonic_ns()
        scene.write_owner("iiot2", "v2")
        until(lambda: reader.resolve(MOVING).app == "iiot2", "the move in shared memory")
        seen = until(lambda: _all_saw(server, "iiot2"), "the move in every worker")
        load.goes_on("iiot2")
    load.check("the move")
    delays = {pid: (at - moved) / 1e6 for pid, at in seen.items()}
    for pid, delay in sorted(delays.items()):
        view.worker(pid, "saw the move", f"{delay:.1f} ms after the file was replaced")
    return (
        f"a model moved to another app, seen by all {len(delays)} workers within {max(delays.values()):.1f} ms:"
        f" {load.count} requests during that, 0 failed"
    )


def _all_saw(server: Server, app: str) -> dict[int, int]:
    """Return when each worker saw the model in `app` (monotonic nanoseconds); empty until all have."""
    answers = server.ask_every_worker(f"/look?model={MOVING}")
    if any(app not in answer["seen"] for answer in answers.values()):
        return {}
    return {pid: answer["seen"][app] for pid, answer in answers.items()}


def _rolling_restart(view: View, server: Server, scene: Folder, pods: list[Pod], reader: Reader) -> str:
    serving = list(pods)
    with Load(server) as load:
        view.count(lambda: dict(load.workers))
        load.goes_on("iiot2")
        for number, old in enumerate(pods):
            new = Pod(f"iiot-new-{number}")
            new.start()
            serving.append(new)
            scene.write_pods((pod, True) for pod in serving)
            _until_ready(reader, new, ready=True)
            scene.write_pods((pod, pod is not old) for pod in serving)
            _until_ready(reader, old, ready=False)
            time.sleep(DRAIN_SECONDS)
            serving.remove(old)
            old.stop()
            scene.write_pods((pod, True) for pod in serving)
            view.say("restart", f"pod {old.name} replaced by {new.name}, {load.count} requests so far")
        load.goes_on("iiot2")
    load.check("the restart")
    pods[:] = serving
    return f"a rolling restart of {len(pods)} pods under load: {load.count} requests during that, 0 failed"


def _until_ready(reader: Reader, pod: Pod, *, ready: bool) -> None:
    def known() -> bool:
        return any(endpoint.port == pod.port for endpoint in reader.resolve(MOVING).endpoints) == ready

    until(known, f"pod {pod.name} to be known as {'ready' if ready else 'not ready'}")


def _killed_watcher(view: View, server: Server, scene: Folder, reader: Reader) -> str:
    control = ControlReader(server.area)
    with Load(server) as load:
        view.count(lambda: dict(load.workers))
        load.goes_on("iiot2")
        killed, watcher = time.monotonic(), control.writer_pid
        os.kill(watcher, signal.SIGKILL)
        view.say("kill", f"the watcher, pid {watcher}, is killed under load")
        scene.write_owner("iiot", "v3")
        until(lambda: reader.resolve(MOVING).app == "iiot", "the next watcher")
        back = time.monotonic() - killed
        view.say("kill", f"the next one, pid {control.writer_pid}, has read what was written meanwhile")
        load.goes_on("iiot")
    load.check("the watcher's absence")
    return f"the watcher killed under load, and back after {back:.1f} s: {load.count} requests during that, 0 failed"
