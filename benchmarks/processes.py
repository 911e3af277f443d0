"""Costs of whole worker processes: memory, attaching, starting, scaling over cores; and propagation of a change."""

from __future__ import annotations

import compileall
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.processes import bound

from benchmarks.measured import Measured
from benchmarks.peers import Table
from benchmarks.peers.shmroute_ import ShmroutePeer
from benchmarks.table import models
from benchmarks.timing import Figure, at_quantile, figure, quantile

WAIT_SECONDS = 120.0
_WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A process that does one job of worker.py and tells the result as a line of JSON."""

    def __init__(self, job: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            bound([sys.executable, str(_WORKER), job, *arguments]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def tell(self) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(count: int, job: str, *arguments: str) -> Iterator[list[Worker]]:
    """`count` processes that do the same at the same time."""
    started = [Worker(job, *arguments) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.close()


@contextmanager
def dumped(given: Table | list[str]) -> Iterator[str]:
    """Yield a table in a file, for workers that keep their own copy; or its names, for those that look all of them
    up."""
    with tempfile.NamedTemporaryFile(prefix="shmroute-bench-", dir="/dev/shm") as file:
        file.write(msgspec.msgpack.encode(given))
        file.flush()
        yield file.name


def memory_and_attach(count: int, processes: int) -> list[Measured]:
    """Attach in one worker at a time, then resolve every model once in several at once; beside a dict in each."""
    table = models(count)
    ours = ShmroutePeer(table)
    try:
        attached = []
        for _ in range(processes):  # one after the other: starting processes would slow each other down
            with workers(1, "attach", ours.area) as (worker,):
                attached.append(worker.tell())
        with dumped(list(table)) as file, workers(processes, "touch", ours.area, file) as team:
            touched = [worker.tell()["bytes"] for worker in team]
        with dumped(table) as file, workers(processes, "dict", file) as team:
            private = [worker.tell()["bytes"] for worker in team]
    finally:
        ours.close()
    dict_figure = figure(private)
    return [
        Measured(
            what="attach",
            at=f"{count:,} models",
            unit="s",
            ours=figure([each["seconds"] for each in attached]),
            compared="ms",
            value=figure([each["seconds"] for each in attached]).median * 1e3,
            target=5.0,
        ),
        Measured(
            what="private memory of a worker that has attached",
            at=f"{count:,} models",
            unit="bytes",
            ours=figure([each["bytes"] for each in attached]),
            compared="MiB",
            value=figure([each["bytes"] for each in attached]).median / 2**20,
            target=2.0,
        ),
        Measured(
            what=f"private memory of {processes} workers that resolved every model once",
            at=f"{count:,} models",
            unit="bytes",
            ours=_summed(touched),
            peers={"a dict in each": _summed(private)},
            compared="x a dict in each",
            value=sum(touched) / (dict_figure.median * processes),
            target=0.2,
        ),
    ]


def _summed(values: list[int]) -> Figure:
    total = float(sum(values))
    return Figure(total, total, total, len(values))


def compile_package(root: Path) -> None:
    """Write the bytecode of `root/src`, as installing a package does: else each start would compile its source."""
    compileall.compile_dir(root / "src", quiet=1)


def starting(count: int, rounds: int) -> list[Measured]:
    """`import shmroute` and a first resolve in a fresh worker, beside bare Python."""
    compile_package(Path(__file__).parents[1])
    ours = ShmroutePeer(models(count))
    model = next(iter(models(count)))
    try:
        fresh: list[dict[str, Any]] = []
        bare: list[dict[str, Any]] = []
        for _ in range(rounds):
            for job, kept in (("first", fresh), ("bare", bare)):
                with workers(1, job, ours.area, model) as (worker,):
                    kept.append(worker.tell())
    finally:
        ours.close()
    cpu = [one["cpu"] - other["cpu"] for one, other in zip(fresh, bare, strict=True)]
    size = [float(one["rss"] - other["rss"]) for one, other in zip(fresh, bare, strict=True)]
    return [
        Measured(
            what="import shmroute and first resolve",
            at=f"{count:,} models",
            unit="s",
            ours=figure(cpu),
            compared="ms of CPU over bare Python",
            value=figure(cpu).median * 1e3,
            target=60.0,
        ),
        Measured(
            what="memory of that worker over bare Python",
            at=f"{count:,} models",
            unit="bytes",
            ours=figure(size),
            compared="MiB",
            value=figure(size).median / 2**20,
            target=8.0,
        ),
    ]


def scaling(count: int, rounds: int) -> list[Measured]:
    """Look-ups a second of two worker processes beside one; and of one while 200 generations a second are published."""
    ours = ShmroutePeer(models(count))
    ratios, one_rate, two_rate = [], [], []
    quiet: list[float] = []
    busy: list[float] = []
    try:
        for _ in range(rounds):
            with workers(1, "rate", ours.area) as team:
                one = sum(worker.tell()["rate"] for worker in team)
            with workers(2, "rate", ours.area) as team:
                two = sum(worker.tell()["rate"] for worker in team)
            one_rate.append(one)
            two_rate.append(two)
            ratios.append(two / one)
            with workers(1, "latency", ours.area) as team:
                quiet += team[0].tell()["batches"]
            with workers(1, "latency", ours.area) as team:
                busy += _published_meanwhile(ours, team[0])
    finally:
        ours.close()
    return [
        Measured(
            what="look-ups of 2 processes beside 1",
            at=f"{count:,} models, {os.cpu_count()} cores",
            unit="per s",
            ours=figure(two_rate),
            peers={"1 process": figure(one_rate)},
            compared="x one process",
            value=figure(ratios).median,
            target=1.8,
            at_least=True,
        ),
        Measured(
            what="look-ups while 200 generations a second are published, median",
            at=f"{count:,} models",
            unit="s",
            ours=figure(busy),
            peers={"without publishing": figure(quiet)},
            compared="x without",
            value=figure(busy).median / figure(quiet).median,
            target=1.5,
        ),
        Measured(
            what="the same, p99",
            at=f"{count:,} models",
            unit="s",
            ours=at_quantile(busy, 0.99),
            peers={"without publishing": at_quantile(quiet, 0.99)},
            compared="x without",
            value=quantile(busy, 0.99) / quantile(quiet, 0.99),
            target=4.0,
        ),
    ]


GENERATIONS_PER_SECOND = 200


def _published_meanwhile(ours: ShmroutePeer, worker: Worker) -> list[float]:
    """Publish a row of one of the worker's models again and again, until the worker has printed its figures."""
    import threading

    from shmroute.rows import Kind

    done = threading.Event()
    told: list[dict[str, Any]] = []

    def listen() -> None:
        told.append(worker.tell())
        done.set()

    listener = threading.Thread(target=listen)
    listener.start()
    table = models(len(ours.reader.models()))
    names = list(table)
    dice = random.Random(5)
    due = time.perf_counter()
    stamp = 0
    while not done.is_set():
        stamp += 1
        route = msgspec.msgpack.decode(table[dice.choice(names)])
        ours.publisher.publish({(Kind.MODEL, route[0]): msgspec.msgpack.encode([*route[:3], f"v{stamp}", *route[4:]])})
        due += 1 / GENERATIONS_PER_SECOND
        done.wait(max(0.0, due - time.perf_counter()))
    listener.join()
    batches: list[float] = told[0]["batches"]
    return batches


def propagation(count: int, processes: int, changes: int) -> list[Measured]:
    """Measure the time from a watch line that a real watcher gets until the last worker sees the change."""
    from tests.apiserver import ApiServer, app_model, app_models

    area = f"bench-{os.getpid()}-propagation"
    delays = []
    sent_ns = 0

    def note_time(_watch: object, _type: str, event: object) -> bool:
        nonlocal sent_ns
        if event is not None:
            sent_ns = time.monotonic_ns()
        return True

    with tempfile.TemporaryDirectory() as folder, ApiServer() as api:
        api.watches.let_through = note_time
        api.preload(app_models(count // 10, namespace="meta-test", models_each=10))
        api.apply(app_model("moving", {"moving": "v0"}, version="v0", namespace="meta-test"))
        kubeconfig = Path(folder) / "kubeconfig"
        api.kubeconfig(kubeconfig)
        command = [sys.executable, "-m", "shmroute", "watch", "--kubeconfig", str(kubeconfig), "-n", "meta-test"]
        watcher = subprocess.Popen(bound([*command, "--area", area, "--log-level", "error"]))
        try:
            with workers(processes, "follow", area, "moving") as team:
                for worker in team:
                    worker.tell()
                for number in range(1, changes + 1):
                    time.sleep(0.02)
                    changed = app_model("moving", {"moving": "v0"}, version=f"v{number}", namespace="meta-test")
                    api.apply(changed)
                    seen = [worker.tell() for worker in team]
                    assert all(each["version"] == f"v{number}" for each in seen), seen
                    delays.append((max(each["at"] for each in seen) - sent_ns) / 1e9)
        finally:
            watcher.terminate()
            watcher.wait(WAIT_SECONDS)
            from shmroute.shm.writing.publisher import Publisher

            Publisher(area).close(remove=True)
    at = f"{count:,} models, {processes} workers"
    return [
        Measured(
            what="a change: watch line sent -> seen by the last worker",
            at=at,
            unit="s",
            ours=figure(delays),
            compared="ms, median",
            value=figure(delays).median * 1e3,
            target=3.0,
        ),
        Measured(
            what="the same, p99",
            at=at,
            unit="s",
            ours=at_quantile(delays, 0.99),
            compared="ms, 99th percentile",
            value=quantile(delays, 0.99) * 1e3,
            target=20.0,
        ),
    ]
