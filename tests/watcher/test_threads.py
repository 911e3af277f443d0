"""Helper threads: their end is noticed, and they are restarted or end the watcher."""

from __future__ import annotations

import ctypes
import itertools
import os
import selectors
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from shmroute.kube.connection import Connection
from shmroute.metadata.folder_store import FolderStore
from shmroute.metadata.loader import MetadataLoader
from shmroute.resources.registry import APPMODELS
from shmroute.sources.base import Changed, Replaced, Sink
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.sources.threads import GIVE_UP_SECONDS, HEALTHY_SECONDS, SupervisedThreads, ThreadStatus
from shmroute.supervise.lifeline import call_at_end
from shmroute.watcher.checkpoint import Checkpoint, Identity
from shmroute.watcher.http import serve
from shmroute.watcher.metadata_feed import MetadataFeed
from tests.apiserver import ApiServer, app_model
from tests.sources.kubernetes.following import LIVELY, fast_settings
from tests.watcher.running import SETTINGS, WAIT_SECONDS, Running, Told, appmodel, reading, running, wait_for


class Target:
    """Records each start; fails while there are failures left, then runs until the end."""

    def __init__(self, *failures: BaseException | None) -> None:
        self.failures = list(failures)
        self.starts = 0
        self.stop = threading.Event()

    def __call__(self) -> None:
        self.starts += 1
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure
            return
        assert self.stop.wait(WAIT_SECONDS)


class Supervising:
    """Threads on a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.threads = SupervisedThreads(lambda: self.now)

    def turn(self, seconds: float) -> None:
        self.now += seconds
        self.threads.check()

    def status(self) -> ThreadStatus:
        [status] = self.threads.status()
        return status

    def wait_ended(self) -> None:
        wait_for(lambda: not self.status().alive)


@contextmanager
def supervising(target: Target) -> Iterator[Supervising]:
    it = Supervising()
    try:
        yield it
    finally:
        target.stop.set()
        it.threads.join(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("a defect"), "RuntimeError: a defect"),
        (SystemExit(3), "SystemExit: 3"),
        (None, "it returned before it was to stop"),
    ],
)
def test_a_thread_that_ends_is_restarted(failure: BaseException | None, reason: str) -> None:
    target = Target(failure)
    with supervising(target) as it:
        it.threads.start("reader", target, restartable=True)
        it.wait_ended()
        it.turn(0.5)
        assert it.status() == ThreadStatus("reader", alive=False, restarts=0, problem=reason)
        it.turn(0.5)
        assert target.starts == 1, "not before its delay"
        it.turn(0.5)
        wait_for(lambda: target.starts == 2)
        assert it.status() == ThreadStatus("reader", alive=True, restarts=1, problem=reason)
        it.turn(HEALTHY_SECONDS)
        assert it.status().problem == ""
        assert it.threads.lost == ""


def test_thread_that_ends_by_the_stop_has_no_problem() -> None:
    target = Target()
    with supervising(target) as it:
        it.threads.start("reader", target, restartable=True)
        target.stop.set()
        it.threads.join(WAIT_SECONDS)
        assert it.status() == ThreadStatus("reader", alive=False, restarts=0, problem="")


def test_delays_grow_and_stay_under_ten_seconds() -> None:
    target = Target(*[OSError("again")] * 6)
    with supervising(target) as it:
        it.threads.start("reader", target, restartable=True)
        delays = []
        for starts in range(2, 8):
            it.wait_ended()
            it.turn(0.0)
            before = it.now
            while target.starts < starts:
                it.turn(0.5)
                wait_for(lambda starts=starts: not it.status().alive or target.starts == starts)  # type: ignore[misc]
                assert it.now < before + 60
            delays.append(it.now - before)
        assert delays == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
        assert it.threads.lost == ""


def test_the_end_of_a_non_restartable_thread_is_final() -> None:
    target = Target(RuntimeError("a defect"))
    with supervising(target) as it:
        it.threads.start("source", target, restartable=False)
        it.wait_ended()
        it.turn(0.0)
        assert it.threads.lost == "source: RuntimeError: a defect"
        it.turn(100.0)
        assert target.starts == 1


@pytest.mark.parametrize("restartable", [True, False])
def test_refused_threads_are_tried_again(monkeypatch: pytest.MonkeyPatch, restartable: bool) -> None:
    target = Target()
    with supervising(target) as it:
        start: Callable[[threading.Thread], None] = threading.Thread.start

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        it.threads.start("source", target, restartable=restartable)
        for _ in range(9):
            it.turn(1.0)
        assert it.status().problem == "no thread can be started: can't start new thread"
        assert it.threads.lost == ""
        monkeypatch.setattr(threading.Thread, "start", start)
        it.turn(1.0)
        wait_for(lambda: target.starts == 1)
        assert it.status().alive


def test_source_that_gets_no_thread_for_long_ends_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    it = Supervising()
    it.threads.start("source", Target(), restartable=False)
    for _ in range(int(GIVE_UP_SECONDS) + 2):
        it.turn(1.0)
    assert it.threads.lost == "source: no thread can be started: can't start new thread"


# --- in a watcher ------------------------------------------------------------------------------------------


WAITS = {
    threading.Condition.wait.__code__,
    selectors.EpollSelector.select.__code__,
    socket.SocketIO.readinto.__code__,
    call_at_end.__code__,
}
"""Functions in which threads wait. An exception between two other instructions could leave a lock locked, which no
defect of the thread's own code does."""


def kill(name: str, others: set[threading.Thread]) -> None:
    """Raise SystemExit in the thread of that name that is none of `others`, when its wait ends."""

    def hit() -> bool:
        frames = sys._current_frames()
        new = set(threading.enumerate()) - others
        idents = [each.ident for each in new if each.name == name and each.ident in frames]
        if not idents or frames[idents[-1]].f_code not in WAITS or _starts_a_thread(frames[idents[-1]]):
            return False
        exception = ctypes.py_object(SystemExit)
        return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(idents[-1]), exception) == 1)

    wait_for(hit)


def _starts_a_thread(frame: FrameType | None) -> bool:
    """Whether it waits for a new thread to begin: an exception there may end the new one half made."""
    while frame is not None and frame.f_code is not threading.Thread.start.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.mark.parametrize("name", ["metadata", "metadata reader", "checkpoint", "handler Quiet"])
def test_a_killed_helper_thread_is_restarted_and_routes_follow(area: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "one_m").write_bytes(b"1")
    others = set(threading.enumerate())
    feed = MetadataFeed(MetadataLoader(FolderStore(tmp_path)))
    checkpoint = Checkpoint(tmp_path / "checkpoint", Identity(area, SETTINGS))
    with running(area, metadata=feed, checkpoint=checkpoint, handlers=[Quiet()]) as it:
        it.source.put(Replaced(APPMODELS.name, (appmodel("one"),)))
        it.source.in_step()
        kill(name, others)

        def restarted() -> bool:
            it.source.put(Changed(APPMODELS.name, appmodel("one", version=str(time.monotonic_ns()))))
            return any(status.restarts for status in it.watcher.status.threads)

        wait_for(restarted, 30.0)
        [status] = [status for status in it.watcher.status.threads if status.restarts]
        assert status.problem
        it.source.put(Changed(APPMODELS.name, appmodel("two")))
        with reading(area) as reader:
            wait_for(lambda: reader.get("two") is not None)
        wait_for(lambda: all(status.alive for status in it.watcher.status.threads))
        assert not it.watcher.failed


HELPERS = {
    *("metadata", "checkpoint", "handler Quiet", "http", "lifeline"),
    *("appmodels watch", "appmodels probe", "appmodels time"),
}


@pytest.mark.fault(42)
@pytest.mark.parametrize("at_once", [8, pytest.param(1, marks=pytest.mark.long)])
def test_every_killed_helper_thread_is_reported_and_restarted(area: str, tmp_path: Path, at_once: int) -> None:
    (tmp_path / "one_m").write_bytes(b"1")
    others = set(threading.enumerate())
    watched, held = os.pipe()
    with ApiServer(settings=fast_settings()) as api:
        connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))
        it = Running(
            area,
            KubernetesSource(connection, APPMODELS, namespace=None, timing=LIVELY),
            metadata=MetadataFeed(MetadataLoader(FolderStore(tmp_path))),
            checkpoint=Checkpoint(tmp_path / "checkpoint", Identity(area, SETTINGS)),
            handlers=[Quiet()],
        )
        it.watcher.supervise("lifeline", lambda: call_at_end(watched, it.watcher.stop))
        server = serve(it.watcher, "127.0.0.1:0")
        it.thread.start()
        versions = map(str, itertools.count())
        try:
            api.apply(app_model("one", {"one": "first"}))
            with reading(area) as reader:
                wait_for(lambda: reader.get("one") is not None)
                wait_for(lambda: {status.name for status in it.watcher.status.threads} >= HELPERS)
                for names in chunks(sorted(HELPERS), at_once):
                    for name in names:
                        kill(name, others)
                    api.apply(app_model("one", {"one": next(versions)}))  # it ends the wait of the watch
                    for name in names:
                        wait_for(lambda name=name: status_of(it, name).restarts == 1)  # type: ignore[misc]
                        assert "SystemExit" in status_of(it, name).problem
                        assert f'shmroute_thread_restarts_total{{thread="{name}"}} 1.0' in metrics(server.port)
                    version = next(versions)
                    api.apply(app_model("one", {"one": version}))
                    wait_for(lambda version=version: reader.resolve("one").version == version)  # type: ignore[misc]
            wait_for(lambda: all(status.alive for status in it.watcher.status.threads))
            assert not it.watcher.failed
            os.close(held)
            it.thread.join(WAIT_SECONDS)
            assert not it.thread.is_alive(), "the lifeline's new thread ends the watcher"
        finally:
            server.close()
            it.stop()
            connection.close()
    os.close(watched)


def chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def status_of(it: Running, name: str) -> ThreadStatus:
    [status] = [status for status in it.watcher.status.threads if status.name == name]
    return status


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


class Quiet:
    def on_add(self, appmodel: object) -> None: ...
    def on_update(self, old: object, new: object) -> None: ...
    def on_delete(self, appmodel: object) -> None: ...


class Looping(Told):
    def run(self, sink: Sink, stop: threading.Event) -> None:
        while not stop.wait(0.01):
            pass


def test_killed_source_thread_ends_the_watcher(area: str) -> None:
    others = set(threading.enumerate())
    it = Running(area, Looping())
    it.thread.start()
    kill(f"source {APPMODELS.name}", others)
    it.thread.join(WAIT_SECONDS)
    assert not it.thread.is_alive()
    assert it.watcher.failed
