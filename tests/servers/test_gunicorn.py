"""The hooks of `shmroute.contrib.gunicorn` in a real gunicorn."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.processes import children, is_running
from tests.servers.page import command
from tests.servers.serving import ATTEMPTS, WORKERS, Load, Server, descendants, example, serve
from tests.supervise.running import Manifests, memory_of, writer


@contextmanager
def gunicorn(folder: Path, area: str, manifests: Manifests, *options: str, app: str = "wsgi") -> Iterator[Server]:
    """Run gunicorn with the example's configuration file and 4 workers."""
    port = free_port()
    target = "app:app" if app == "flask" else "app:application"
    words = ["gunicorn", "--config", "gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", *options, target]
    with serve(words, example(folder, app, "gunicorn"), area, manifests, port=port) as server:
        yield server


def test_workers_see_changes_and_a_restart_fails_no_request(
    tmp_path: Path, area: str, manifests: Manifests, pause_seconds: float
) -> None:
    with gunicorn(tmp_path, area, manifests) as server:
        restart_under_load(server, manifests, pause_seconds)
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("app", "options"),
    [
        ("django", ("--preload", "--max-requests", "50")),
        ("wsgi", ("--worker-class", "gevent")),
        pytest.param("django", ("--worker-class", "gevent"), marks=pytest.mark.long),
        pytest.param("flask", ("--worker-class", "gthread", "--threads", "4"), marks=pytest.mark.long),
    ],
    ids=["django-preload", "gevent", "django-gevent", "gthread"],
)
def test_each_worker_class_sees_changes_and_restarts_cleanly(
    tmp_path: Path, area: str, manifests: Manifests, app: str, options: tuple[str, ...], pause_seconds: float
) -> None:
    with gunicorn(tmp_path, area, manifests, *options, app=app) as server:
        restart_under_load(server, manifests, pause_seconds)
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(("number", "attempts"), [(1, 1), (2, ATTEMPTS)], ids=["asgi", "uvicorn"])
def test_asgi_workers_see_changes_and_restart_without_a_failed_request(
    tmp_path: Path, area: str, manifests: Manifests, number: int, attempts: int, pause_seconds: float
) -> None:
    port = free_port()
    folder = example(tmp_path, "starlette", "gunicorn", port=port)
    with serve(command("gunicorn", port, number), folder, area, manifests, port=port) as server:
        restart_under_load(server, manifests, pause_seconds, attempts)
        assert server.end(signal.SIGTERM) == 0


def restart_under_load(server: Server, manifests: Manifests, pause_seconds: float, attempts: int = 1) -> None:
    """Restart the workers (HUP) and change a route under load: no request fails, and all new workers see the change."""
    former = server.workers("iiot")
    watcher = writer(server.area)
    with Load(server.port, pause_seconds, attempts=attempts) as load:
        load.goes_on("iiot")
        server.send(signal.SIGHUP)
        server.until(lambda: not any(map(is_running, former)), "end of the former workers")
        manifests.write("iiot2")
        load.goes_on("iiot2")
    assert not load.failures, load.failures[0]
    assert not former & server.workers("iiot2")
    assert writer(server.area) == watcher, "the watcher outlives the workers"


def test_binary_upgrade_fails_no_request_and_passes_on_the_area(
    tmp_path: Path, area: str, manifests: Manifests, pause_seconds: float
) -> None:
    with gunicorn(tmp_path, area, manifests, "--pid", "pid") as server:
        former = server.workers("iiot")
        watcher = writer(area)
        with Load(server.port, pause_seconds) as load:
            load.goes_on("iiot")
            server.send(signal.SIGUSR2)
            new = int(
                server.until(lambda: (tmp_path / "pid.2").exists() and (tmp_path / "pid.2").read_text(), "new master")
            )
            server.until(lambda: "standing by" in server.log, "a second watcher")
            server.until(lambda: len(children(new)) == WORKERS + 1, "new workers")
            left = descendants(new) | {new}
            server.send(signal.SIGTERM)
            assert server.process.wait(30) == 0
            server.until(lambda: writer(area) != watcher, "taking over")
            manifests.write("iiot2")
            load.goes_on("iiot2")
        assert not load.failures, load.failures[0]
        assert not former & server.workers("iiot2")
        os.kill(new, signal.SIGTERM)
        server.gone(left)


def test_watcher_ends_with_the_last_worker_of_a_killed_arbiter(tmp_path: Path, area: str, manifests: Manifests) -> None:
    with gunicorn(tmp_path, area, manifests, "--timeout", "2") as server:
        workers = server.workers("iiot")
        left = descendants(server.process.pid)
        server.send(signal.SIGKILL)
        server.process.wait()
        server.until(lambda: not any(map(is_running, workers)), "end of the workers")
        server.gone(left)


def test_a_dead_watcher_is_restarted_beside_the_server(tmp_path: Path, area: str, manifests: Manifests) -> None:
    with gunicorn(tmp_path, area, manifests) as server:
        os.kill(writer(area), signal.SIGKILL)
        manifests.write("iiot2")
        server.workers("iiot2")
        assert server.end(signal.SIGINT) == 0


def test_watcher_survives_its_killed_restarter_and_ends_with_the_server(
    tmp_path: Path, area: str, manifests: Manifests
) -> None:
    with gunicorn(tmp_path, area, manifests) as server:
        watcher = writer(area)
        keeper = next(pid for pid in children(server.process.pid) if watcher in children(pid))
        os.kill(keeper, signal.SIGKILL)
        server.until(lambda: not is_running(keeper), "end of the keeper")
        manifests.write("iiot2")
        server.workers("iiot2")
        server.send(signal.SIGTERM)
        assert server.process.wait(30) == 0
        server.gone({watcher})


@pytest.mark.fault(39)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give rights up")
def test_workers_without_root_follow_to_the_next_segment(tmp_path: Path, area: str, manifests: Manifests) -> None:
    # Preloaded, as a worker of another user cannot import from a folder of root's.
    with gunicorn(tmp_path, area, manifests, "--preload", "--user", "65534", "--group", "65534") as server:
        server.workers("iiot")
        manifests.write("iiot2", models=12_000)  # far more than the first segment holds
        server.workers("iiot2")
        shared = [path for path in memory_of(area) if path.suffix != ".lock"]  # the lock is its owner's alone
        assert {path.stat().st_gid for path in shared} == {65534}
        assert not any(stat.S_IMODE(path.stat().st_mode) & 0o007 for path in memory_of(area))
        assert server.end(signal.SIGTERM) == 0


def test_workers_waiting_for_routes_can_be_terminated(tmp_path: Path, area: str, manifests: Manifests) -> None:
    manifests.path.rename(tmp_path / "elsewhere")
    port = free_port()
    words = ["gunicorn", "--config", "gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "app:application"]
    with serve(words, example(tmp_path, "wsgi", "gunicorn"), area, manifests, port=port, answering=False) as server:
        server.until(lambda: len(children(server.process.pid)) == 5, "4 workers and a keeper")
        assert server.end(signal.SIGTERM) == 0
        assert "Worker exiting" in server.log
        assert "graceful" not in server.log
