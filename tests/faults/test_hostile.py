"""All that a hostile tenant, Redis, proxy and client can do, at once, against one watcher within its manifest's memory.

Where no cgroup can be made, resident memory is sampled instead; the test's output says which it was.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from shmroute.worker.reader import Reader
from tests.apiserver import ApiServer, app_model
from tests.cgroups import memory_cgroup
from tests.forks import Forks, Pipe
from tests.metadata.odd_redis import odd_redis
from tests.namespaces import in_own_shm, needs_own_shm
from tests.ports import free_port
from tests.processes import bound

LIMIT_BYTES = 512 * 1024 * 1024
"""Memory limit of `deploy/kustomize/sidecar`, including 128 MiB of /dev/shm."""

SEEN_SECONDS = 5.0
HEALTHY_SECONDS = 1.0
ROUNDS = 40
CLIENTS = 1_000
START_SECONDS = 120.0


def serve_all(pipe: Pipe, kubeconfig: Path, redis: str, area: str, port: int, procs: Path | None) -> None:
    """Run the watcher within the limit, and a reader; answer how long each requested version took to arrive."""
    command = [sys.executable, "-m", "shmroute", "watch", "-A", "--kubeconfig", str(kubeconfig), "--area", area]
    command += ["--redis", redis, "--listen", f"127.0.0.1:{port}", "--log-level", "error"]
    if procs is not None:
        command = ["sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh", *command]
    with subprocess.Popen(bound(command)) as watcher, Reader(area) as reader:
        reader.wait_ready(START_SECONDS)
        pipe.send(watcher.pid)
        try:
            while (version := pipe.recv()) != "end":
                started = time.monotonic()
                while reader.resolve("mine").version != version and time.monotonic() < started + 60:
                    time.sleep(0.005)
                assert watcher.poll() is None, "the watcher has ended"
                pipe.send(time.monotonic() - started)
        finally:
            watcher.terminate()
            watcher.wait(30.0)


def hostile_redis(command: list[bytes], connection: socket.socket) -> None:
    """Answer in turn with an endless value, a malformed reply, and one byte per second."""
    match next(_TURNS) % 3:
        case 0:
            connection.sendall(b"*1\r\n$400000000\r\n")
            for _ in range(400):
                connection.sendall(b"x" * 1_000_000)
        case 1:
            connection.sendall(b"*1\r\n" * 5_000 + b"$abc\r\n")
        case _:
            for byte in itertools.cycle(b"*3\r\n$1\r\nx\r\n"):
                connection.sendall(bytes([byte]))
                time.sleep(1.0)


_TURNS = itertools.count()


class Clients:
    """Keeps 1,000 slow clients connected: each sends half a request, and reconnects when it is cut off."""

    def __init__(self, port: int, stop: threading.Event) -> None:
        self._port = port
        self._stop = stop
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        clients: list[socket.socket] = []
        while not self._stop.wait(0.01):
            with suppress(OSError):
                client = socket.create_connection(("127.0.0.1", self._port), 0.5)
                clients.append(client)
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
            if len(clients) > CLIENTS:
                clients.pop(0).close()
        for client in clients:
            client.close()


def conflict(api: ApiServer, stop: threading.Event) -> None:
    """Add and delete AppModels that claim the same models, in the namespace that has used up its share."""
    for number in itertools.count():
        if stop.wait(0.02):
            return
        api.apply(
            app_model(f"claim{number % 200}", [f"claimed{n}" for n in range(10)], version=str(number), namespace="evil")
        )


def healthz(port: int) -> float:
    started = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30.0) as answer:
        assert answer.status == 200
    return time.monotonic() - started


@pytest.mark.long
@pytest.mark.fault(47)
@needs_own_shm
def test_other_tenants_are_served_while_all_attacks_run(tmp_path: Path, area: str) -> None:
    stop = threading.Event()
    with ExitStack() as stack:
        api = stack.enter_context(ApiServer())
        redis = stack.enter_context(odd_redis(hostile_redis))
        group = stack.enter_context(memory_cgroup(LIMIT_BYTES))
        forks = stack.enter_context(Forks())
        api.preload(
            app_model(f"evil{n:05}", [f"evil{n:05}_{m}" for m in range(12_000)], namespace="evil") for n in range(45)
        )
        api.preload(
            app_model(f"claim{n:05}", [f"claimed{m}" for m in range(10)], namespace="evil") for n in range(5_000)
        )
        api.apply(app_model("mine", {"mine": "first"}, namespace="mine"))
        api.faults.trickle(1, 1.0, resource="endpointslices")
        port = free_port()
        arguments = (api.kubeconfig(tmp_path / "kubeconfig"), redis.url, area, port, group and group[0])
        child = forks.start(in_own_shm, "128m", serve_all, *arguments)
        pid = child.pipe.recv()
        stack.callback(stop.set)
        clients = Clients(port, stop)
        claims = threading.Thread(target=conflict, args=(api, stop), daemon=True)
        claims.start()
        seen, healthy, used = [], [], []
        for number in range(ROUNDS):
            api.apply(app_model("mine", {"mine": str(number)}, namespace="mine"))
            child.pipe.send(str(number))
            healthy.append(healthz(port))
            seen.append(child.pipe.recv())
            used.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096)
            stop.wait(0.3)
        assert len(redis.commands) > 2, "the odd Redis was asked"
        in_group = int(group[1].read_text()) if group else 0
        child.pipe.send("end")
        stop.set()
        claims.join(10.0)
        clients.thread.join(10.0)
        child.finish()
        how = f"cgroup of {LIMIT_BYTES >> 20} MiB, in use {in_group >> 20} MiB" if group else "no cgroup: sampled"
        print(f"{how}; resident at most {max(used) >> 20} MiB")
        print(f"seen within {max(seen):.2f} s, /healthz within {max(healthy):.2f} s, {ROUNDS} rounds")
    assert max(seen) < SEEN_SECONDS
    assert max(healthy) < HEALTHY_SECONDS
    assert max(used) < LIMIT_BYTES
