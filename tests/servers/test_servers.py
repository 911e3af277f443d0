"""Servers that `shmroute run` or their own hooks give a watcher, as docs/servers.md has a newcomer do it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from shmroute.supervise.linux import state_of
from tests.ports import free_port
from tests.processes import children, is_running
from tests.servers.page import command
from tests.servers.serving import (
    ATTEMPTS,
    SERVER_SECONDS,
    WORKERS,
    Load,
    ask,
    descendants,
    example,
    serve,
)
from tests.supervise.running import Manifests, writer


class Kind(NamedTuple):
    """One server on the page."""

    heading: str
    examples: tuple[str, ...]
    number: int = 0
    options: tuple[str, ...] = ()
    touch: str = ""
    """The file that restarts the workers when it is touched, instead of HUP."""
    attempts: int = ATTEMPTS
    """The server drops idle connections when a worker ends, so its clients retry: see docs/servers.md."""


LONG_AGO_SECONDS = 3600.0
"""The age of the file to touch: uWSGI compares its times in whole seconds, and a test may touch it within one."""


UVICORN = "uvicorn: Starlette, FastAPI"

KINDS = {
    "uvicorn": Kind(UVICORN, ("starlette",), options=("--timeout-worker-healthcheck", "50")),
    "granian": Kind("Granian", ("starlette",), 1, ("--respawn-interval", "0.2")),
    "uwsgi": Kind("uWSGI", ("uwsgi", "wsgi"), touch="restart", attempts=1),
    "hypercorn": Kind("Hypercorn", ("starlette",)),
}


SLOW_KINDS = {
    "granian-hooks": Kind("Granian", ("granian", "starlette")),
}
"""Servers that restart slowly: Granian takes 3.5 s for each worker by default."""


@pytest.mark.parametrize(
    "kind",
    [*KINDS.values(), *(pytest.param(kind, marks=pytest.mark.long) for kind in SLOW_KINDS.values())],
    ids=[*KINDS, *SLOW_KINDS],
)
def test_workers_see_changes_and_a_restart_fails_no_request(
    kind: Kind, tmp_path: Path, area: str, manifests: Manifests, pause_seconds: float
) -> None:
    port = free_port()
    folder = example(tmp_path, *kind.examples, port=port)
    if kind.touch:
        (folder / kind.touch).touch()
        before = time.time() - LONG_AGO_SECONDS
        os.utime(folder / kind.touch, (before, before))
    words = command(kind.heading, port, kind.number)
    shares_socket = kind.heading != "Granian"
    with serve([*words, *kind.options], folder, area, manifests, port=port, shares_socket=shares_socket) as server:
        former = server.workers("iiot")
        watcher = writer(area)
        with (
            Load(port, pause_seconds, attempts=kind.attempts) as load,
            Load(port, pause_seconds, keeping=True, attempts=kind.attempts) as keeping,
        ):
            load.goes_on("iiot")
            keeping.goes_on("iiot")
            if kind.touch:
                (folder / kind.touch).touch()
            else:
                server.send(signal.SIGHUP)
            server.until(lambda: not any(map(is_running, former)), "end of the former workers")
            manifests.write("iiot2")
            load.goes_on("iiot2")
            keeping.goes_on("iiot2")
        assert not load.failures, load.failures[0]
        assert not keeping.failures, keeping.failures[0]
        assert not former & server.workers("iiot2")
        assert writer(area) == watcher
        server.end(signal.SIGTERM)


def test_the_hooks_of_granian_end_the_watcher_with_the_server(tmp_path: Path, area: str, manifests: Manifests) -> None:
    port = free_port()
    folder = example(tmp_path, "granian", "starlette", port=port)
    with serve(command("Granian", port), folder, area, manifests, port=port, shares_socket=False) as server:
        server.workers("iiot")
        manifests.write("iiot2")
        server.workers("iiot2")
        server.end(signal.SIGTERM)


def test_watcher_ends_with_the_last_worker_of_a_killed_granian(tmp_path: Path, area: str, manifests: Manifests) -> None:
    port = free_port()
    folder = example(tmp_path, "granian", "starlette", port=port)
    with serve(command("Granian", port), folder, area, manifests, port=port, shares_socket=False) as server:
        workers = server.workers("iiot")
        left = descendants(server.process.pid)
        server.send(signal.SIGKILL)
        server.process.wait()
        assert is_running(writer(area)), "workers that still serve have their watcher"
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        server.gone(left)


def test_workers_whose_server_was_killed_do_not_outlive_shmroute_run(
    tmp_path: Path, area: str, manifests: Manifests
) -> None:
    port = free_port()
    folder = example(tmp_path, "starlette", port=port)
    with serve(command(UVICORN, port), folder, area, manifests, port=port) as server:
        workers = server.workers("iiot")
        left = descendants(server.process.pid)
        os.kill(parent_of(workers), signal.SIGKILL)
        assert server.process.wait(SERVER_SECONDS) == 128 + signal.SIGKILL
        server.gone(left)


def test_a_server_that_replaced_its_process_keeps_running_under_run(
    tmp_path: Path, area: str, manifests: Manifests, pause_seconds: float
) -> None:
    port = free_port()
    words = ["shmroute", "run", "--", "gunicorn", "--workers", "4", "--bind", f"127.0.0.1:{port}", "app:app"]
    with serve(words, example(tmp_path, "flask"), area, manifests, port=port) as server:
        former = server.workers("iiot")
        old = parent_of(former)
        with Load(port, pause_seconds) as load:
            load.goes_on("iiot")
            server.send(signal.SIGUSR2)
            new = next(iter(server.until(lambda: children(old) - former, "a new master")))
            server.until(lambda: len(children(new)) == WORKERS, "new workers")
            os.kill(old, signal.SIGTERM)
            server.until(lambda: not is_running(old), "end of the old master")
            manifests.write("iiot2")
            load.goes_on("iiot2")
        assert not load.failures, load.failures[0]
        assert not former & server.workers("iiot2")
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.long
def test_django_is_served_by_asgi_too(tmp_path: Path, area: str, manifests: Manifests) -> None:
    port = free_port()
    words = [*command(UVICORN, port)[:-1], "app:asgi_application"]
    with serve(words, example(tmp_path, "django"), area, manifests, port=port) as server:
        server.workers("iiot")
        manifests.write("iiot2")
        server.workers("iiot2")
        assert ask(port, "no_such_model")[0] == 404
        server.end(signal.SIGTERM)


def parent_of(workers: set[int]) -> int:
    """Return the common parent of these processes."""
    parents = {state.parent for worker in workers if (state := state_of(worker))}
    (parent,) = parents
    return parent
