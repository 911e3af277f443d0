"""The jobs of a process that measures one side of `benchmarks.former`: a line of JSON asks, a line of JSON answers.

Runs with the modules of this release or of the former one, and so imports only what both have.
"""

import importlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import msgspec
from tests.generate import rows

from shmroute import Reader
from shmroute.rows import Kind

try:
    from shmroute.shm.writing.publisher import Publisher
except ModuleNotFoundError:
    from shmroute.shm.publisher import Publisher  # type: ignore[import-not-found, no-redef]

MODELS_PER_APP = 10

state: dict[str, Any] = {}


def change_of(app: str, stamp: int) -> dict[tuple[Kind, str], bytes | None]:
    """Return the rows of one app with a new version: those of its ten models and its own."""
    table = state["table"]
    (fields,) = msgspec.msgpack.decode(table[Kind.APP, app])
    version = f"v{stamp}"
    changes: dict[tuple[Kind, str], bytes | None] = {
        (Kind.APP, app): msgspec.msgpack.encode([[fields[0], version, *fields[2:]]])
    }
    for model, _ in fields[5]:
        route = msgspec.msgpack.decode(table[Kind.MODEL, model])
        changes[Kind.MODEL, model] = msgspec.msgpack.encode([*route[:3], version, *route[4:]])
    return changes


def build(area: str, count: int) -> float:
    """Publish a base of `count` models in a new area, and return the seconds. Removes the area of the last call."""
    if state.get("count") != count:
        state["table"] = dict(rows(count // MODELS_PER_APP, MODELS_PER_APP, endpoints=2))
        state["apps"] = [key for kind, key in state["table"] if kind == Kind.APP]
        state["count"] = count
    remove()
    publisher = state["publisher"] = Publisher(area)
    state["stamp"] = 0
    started = time.perf_counter()
    publisher.replace(state["table"])
    return time.perf_counter() - started


def publish(changes: int) -> list[float]:
    """Publish changed apps, one a generation, and return the CPU seconds of each."""
    publisher = state["publisher"]
    dice = random.Random(state["stamp"])
    taken = []
    for _ in range(changes):
        while publisher.rebuilding:
            publisher.maintain(1.0)
        state["stamp"] += 1
        change = change_of(dice.choice(state["apps"]), state["stamp"])
        started = time.thread_time()
        publisher.publish(change)
        taken.append(time.thread_time() - started)
    return taken


def warm(count: int) -> None:
    """Look up `count` models in a reader of this process."""
    reader = state["reader"] = Reader(state["publisher"].area)
    state["warm"] = [key for kind, key in state["table"] if kind == Kind.MODEL][:count]
    for name in state["warm"]:
        reader.resolve(name)


def refresh(changes: int) -> list[float]:
    """Publish changed apps that the reader has looked up, refresh it each time, and return its CPU seconds."""
    reader, publisher, table = state["reader"], state["publisher"], state["table"]
    apps = len(state["warm"]) // MODELS_PER_APP
    taken = []
    for _ in range(changes):
        while publisher.rebuilding:
            publisher.maintain(1.0)
        first = state["stamp"] % apps * MODELS_PER_APP
        state["stamp"] += 1
        change: dict[tuple[Kind, str], bytes | None] = {}
        for name in state["warm"][first : first + MODELS_PER_APP]:
            route = msgspec.msgpack.decode(table[Kind.MODEL, name])
            change[Kind.MODEL, name] = msgspec.msgpack.encode([*route[:3], f"v{state['stamp']}", *route[4:]])
        publisher.publish(change)
        started = time.thread_time()
        reader.generation  # noqa: B018 - goes to the newest generation
        taken.append(time.thread_time() - started)
    return taken


def names() -> str:
    """Write the names of all models into a file that goes with the process, and return its path."""
    file = state["names"] = tempfile.NamedTemporaryFile(prefix="shmroute-bench-", dir="/dev/shm")  # noqa: SIM115
    file.write(msgspec.msgpack.encode([key.encode() for kind, key in state["table"] if kind == Kind.MODEL]))
    file.flush()
    return str(file.name)


def remove() -> None:
    """Remove the area."""
    if "reader" in state:
        state.pop("reader").close()
    if "publisher" in state:
        state.pop("publisher").close(remove=True)
    if "names" in state:
        state.pop("names").close()


def measure(module: str, function: str, *arguments: object) -> list[Any]:
    """Measure a step of this side's own benchmarks, and return its rows."""
    step = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    rows: list[Any] = msgspec.to_builtins(step(*arguments))
    return rows


JOBS: dict[str, Callable[..., Any]] = {
    job.__name__: job for job in (build, publish, warm, refresh, names, remove, measure)
}

if __name__ == "__main__":
    answers = sys.stdout
    sys.stdout = sys.stderr  # a step prints its progress
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answers.write(json.dumps(JOBS[name](*arguments)) + "\n")
        answers.flush()
