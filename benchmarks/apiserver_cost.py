"""`python -m benchmarks.apiserver_cost --kubeconfig FILE --pid PID`: what each kind of request costs an API server.

Processor time of the server is read from /proc/PID, or with `--metrics` from its own `process_cpu_seconds_total`. What
it takes while nothing is asked is measured first and taken off. AppModels are made in a namespace and deleted
afterwards; the CustomResourceDefinition must be there. Prints one JSON object: milliseconds of processor time for each
kind of request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmroute.kube.abort import Abort
from shmroute.kube.connection import Connection, path_of
from shmroute.resources.registry import APPMODELS
from shmroute.sources.kubernetes.api import ResourceApi
from shmroute.sources.kubernetes.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmroute.kube.connection import Stream

__all__ = ["Meter", "main", "measure"]

LABEL: Final = "shmroute-cost"
TIMEOUT_SECONDS: Final = 30.0
WATCH_SECONDS: Final = 600.0
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Meter:
    """The processor seconds used by a server, minus those of an idle server."""

    def __init__(self, read: Callable[[], float], idle_seconds: float) -> None:
        self._read = read
        before, began = read(), time.monotonic()
        time.sleep(idle_seconds)
        self._idle = (read() - before) / (time.monotonic() - began)

    def milliseconds(self, work: Callable[[], int]) -> float:
        """Return the milliseconds of processor time for each of as many requests as `work` says that it made."""
        before, began = self._read(), time.monotonic()
        count = work()
        taken = self._read() - before - self._idle * (time.monotonic() - began)
        return round(max(0.0, taken) / count * 1_000, 4)


def measure(connection: Connection, meter: Meter, namespace: str, count: int, watchers: int) -> dict[str, float]:
    """Measure each kind of request, `count` times; events to `watchers` watches."""
    api = ResourceApi(connection, APPMODELS, namespace, f"{LABEL}={LABEL}", Timing())
    abort = Abort()
    found: dict[str, float] = {}

    def repeat(ask: Callable[[], object], times: int) -> Callable[[], int]:
        def work() -> int:
            for _ in range(times):
                ask()
            return times

        return work

    def read(stream: Stream) -> None:
        with stream:
            while stream.read():
                pass

    def watch(initial_events: bool = False) -> None:
        revision = "" if initial_events else newest
        stream = api.watch(
            revision, 1.0, answer_seconds=10.0, silence_seconds=10.0, abort=abort, initial_events=initial_events
        )
        read(stream)

    def probe(quorum: bool) -> Callable[[], object]:
        return lambda: api.revision(quorum=quorum, timeout_seconds=TIMEOUT_SECONDS, abort=abort)

    with _objects(connection, namespace, count) as change:
        newest = str(api.revision(quorum=True, timeout_seconds=TIMEOUT_SECONDS, abort=abort))
        found["cache probe"] = meter.milliseconds(repeat(probe(quorum=False), count))
        found["quorum probe"] = meter.milliseconds(repeat(probe(quorum=True), count))
        few = max(1, count // 50)
        found["peek"] = meter.milliseconds(repeat(watch, few))
        found["list from the cache"] = meter.milliseconds(repeat(lambda: api.page("0", "", abort=abort), few))
        found["list from the storage"] = meter.milliseconds(repeat(lambda: api.page("", "", abort=abort), few))
        found["list of metadata"] = meter.milliseconds(repeat(lambda: api.identities("0", abort=abort), few))
        found["streaming list"] = meter.milliseconds(repeat(lambda: watch(initial_events=True), few))
        found["bytes of a list"] = len(api.page("0", "", abort=abort))
        alone = meter.milliseconds(repeat(change, count))
        with _watches(api, newest, watchers):
            idle = meter.milliseconds(repeat(lambda: time.sleep(0.1), 50))
            found["idle watch, a second"] = round(idle * 10 / watchers, 4)
            seen = meter.milliseconds(repeat(change, count))
        found["write of an object"] = alone
        found["event to one watcher"] = round(max(0.0, seen - alone) / watchers, 4)
    return found


@contextlib.contextmanager
def _objects(connection: Connection, namespace: str, count: int) -> Iterator[Callable[[], None]]:
    """Yield AppModels of our own; gives a function that changes one."""
    path = path_of(*APPMODELS.api_path, "namespaces", namespace, APPMODELS.plural)
    prefix = f"{LABEL}-{secrets.token_hex(3)}"
    names = [f"{prefix}-{number}" for number in range(count)]
    version = 0

    def apply(name: str) -> None:
        nonlocal version
        version += 1
        body = {
            "apiVersion": APPMODELS.api_version,
            "kind": APPMODELS.kind,
            "metadata": {"name": name, "labels": {LABEL: LABEL}},
            "spec": {"app": name, "version": f"v{version}", "models": [{"name": name, "version": f"v{version}"}]},
        }
        connection.request(
            "PATCH",
            f"{path}/{name}",
            {"fieldManager": LABEL, "force": "true"},
            json.dumps(body).encode(),
            "application/apply-patch+yaml",
        )

    try:
        for name in names:
            apply(name)
        yield lambda: apply(names[version % len(names)])
    finally:
        for name in names:
            connection.request("DELETE", f"{path}/{name}")


@contextlib.contextmanager
def _watches(api: ResourceApi, revision: str, count: int) -> Iterator[None]:
    """Open `count` watches, each read in a thread of its own."""
    abort = Abort()

    def follow(stream: Stream) -> None:
        with contextlib.suppress(Exception), stream:
            while stream.read():
                pass

    streams = [
        api.watch(revision, WATCH_SECONDS, answer_seconds=10.0, silence_seconds=WATCH_SECONDS, abort=abort)
        for _ in range(count)
    ]
    threads = [threading.Thread(target=follow, args=(stream,), daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        abort.set()
        for thread in threads:
            thread.join(5.0)


def of_process(pid: int) -> float:
    """Return the processor seconds of a process, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def of_metrics(connection: Connection) -> float:
    """Return the processor seconds of the server by its own metrics."""
    body = connection.request("GET", "/metrics", max_bytes=1 << 28).data.decode()
    found = re.search(r"^process_cpu_seconds_total (\S+)$", body, re.MULTILINE)
    if found is None:
        raise SystemExit("the server's /metrics has no process_cpu_seconds_total")
    return float(found[1])


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apiserver_cost", description=__doc__)
    parser.add_argument("--kubeconfig")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--count", type=int, default=500, help="requests of each kind")
    parser.add_argument("--watchers", type=int, default=20)
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pid", type=int, help="the server's process on this machine")
    source.add_argument("--metrics", action="store_true", help="read the server's /metrics")
    options = parser.parse_args(arguments)
    with contextlib.closing(Connection(options.kubeconfig)) as connection:
        read = (lambda: of_process(options.pid)) if options.pid else (lambda: of_metrics(connection))
        meter = Meter(read, options.idle_seconds)
        found = measure(connection, meter, options.namespace, options.count, options.watchers)
    print(json.dumps({"milliseconds of processor time": found}, indent=1))


if __name__ == "__main__":
    main()
