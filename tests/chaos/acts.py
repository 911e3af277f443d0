"""The faults. Each act injects one fault into the stage and removes it; the schedule draws how long it lasts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.chaos.stage import Stage

Act = Callable[[Stage], None]

SHARED_MEMORY: Final = Path("/dev/shm")


def _wait(stage: Stage, low: float, high: float) -> None:
    """Let time pass, with changes going on."""
    end = time.monotonic() + stage.dice.uniform(low, high)
    while time.monotonic() < end:
        stage.world.change()
        time.sleep(0.01)


def _signal(pid: int, number: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def calm(stage: Stage) -> None:
    _wait(stage, 0.5, 2)


def storm(stage: Stage) -> None:
    stage.world.storm(stage.dice.randrange(100, 600))


def kill_watcher(stage: Stage) -> None:
    _signal(stage.writer_pid, signal.SIGKILL)
    _wait(stage, 0.1, 3)


def kill_watchers_in_a_row(stage: Stage) -> None:
    for _ in range(3):
        _signal(stage.writer_pid, signal.SIGKILL)
        _wait(stage, 0.05, 0.5)


def freeze_watcher(stage: Stage) -> None:
    pid = stage.writer_pid
    _signal(pid, signal.SIGSTOP)
    _wait(stage, 0.5, 8)
    _signal(pid, signal.SIGCONT)


def kill_standby(stage: Stage) -> None:
    stage.standby.kill()
    _wait(stage, 0.1, 1)


def kill_worker(stage: Stage) -> None:
    if workers := stage.worker_pids:
        _signal(stage.dice.choice(workers), signal.SIGKILL)
    _wait(stage, 0.1, 1)


def freeze_worker(stage: Stage) -> None:
    if workers := stage.worker_pids:
        pid = stage.dice.choice(workers)
        _signal(pid, signal.SIGSTOP)
        _wait(stage, 0.5, 5)
        _signal(pid, signal.SIGCONT)


def reload_server(stage: Stage) -> None:
    stage.server.send_signal(signal.SIGHUP)
    _wait(stage, 0.5, 2)


def refuse_connections(stage: Stage) -> None:
    stage.api.faults.refuse()
    _wait(stage, 0.5, 8)
    stage.api.faults.accept()


def too_many_requests(stage: Stage) -> None:
    with stage.api.faults.too_many_requests(times=stage.dice.randrange(1, 6), retry_after=1):
        stage.api.faults.cut_streams()
        _wait(stage, 0.5, 4)


def unavailable(stage: Stage) -> None:
    with stage.api.faults.unavailable(times=stage.dice.randrange(1, 6)):
        stage.api.faults.cut_streams(reset=True)
        _wait(stage, 0.5, 4)


def cut_streams(stage: Stage) -> None:
    for _ in range(stage.dice.randrange(1, 5)):
        stage.api.faults.cut_streams(reset=stage.dice.random() < 0.5)
        _wait(stage, 0.05, 0.5)


def end_streams_at_once(stage: Stage) -> None:
    with stage.api.faults.end_at_once(times=None):
        stage.api.faults.end_streams()
        _wait(stage, 0.5, 4)


def swallow_events(stage: Stage) -> None:
    with stage.api.faults.silence():
        _wait(stage, 0.5, 5)


def drop_one_event(stage: Stage) -> None:
    stage.api.faults.drop_event(times=1)
    _wait(stage, 0.2, 1)


def garbage(stage: Stage) -> None:
    faults = stage.api.faults
    injections = (
        faults.inject_garbage,
        faults.inject_blank_line,
        faults.inject_half_line,
        faults.inject_bad_utf8,
        faults.inject_unknown_type,
        faults.inject_error,
    )
    stage.dice.choice(injections)()
    _wait(stage, 0.2, 1)


def gone(stage: Stage) -> None:
    stage.api.faults.compact()
    with stage.api.faults.gone(times=2, http=stage.dice.random() < 0.5):
        stage.api.faults.cut_streams()
        _wait(stage, 0.5, 3)


def broken_lists(stage: Stage) -> None:
    with stage.api.faults.refuse_streaming_lists(), stage.api.faults.cut_body(after_bytes=500):
        stage.api.faults.compact()
        stage.api.faults.cut_streams()
        _wait(stage, 0.5, 3)


def rewind(stage: Stage) -> None:
    """Restore the server from a backup: objects newer than the backup are gone."""
    stage.api.faults.rewind(stage.backup, end_streams=stage.dice.random() < 0.5)
    stage.world.write_values()
    _wait(stage, 0.5, 3)


def rotate_token(stage: Stage) -> None:
    with stage.api.faults.unauthorized(times=stage.dice.randrange(1, 4)):
        stage.api.faults.cut_streams()
        _wait(stage, 0.5, 3)


def freeze_redis(stage: Stage) -> None:
    os.kill(stage.redis.pid, signal.SIGSTOP)
    end = time.monotonic() + stage.dice.uniform(0.5, 6)
    while time.monotonic() < end:
        time.sleep(0.05)
    os.kill(stage.redis.pid, signal.SIGCONT)


def lose_redis(stage: Stage) -> None:
    stage.redis.kill()
    time.sleep(stage.dice.uniform(0.2, 3))
    stage.redis.start()
    stage.world.write_values()


def fill_shared_memory(stage: Stage) -> None:
    """Fill /dev/shm. Call this only in a /dev/shm of our own: see `__main__`."""
    if os.environ.get("SHMROUTE_CHAOS_OWN_SHM") != "1":
        return
    filler = SHARED_MEMORY / "chaos-filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # unbuffered: closing writes no more
        while True:
            file.write(b"x" * 65536)
    _wait(stage, 0.5, 4)
    filler.unlink()


ACTS: Final[tuple[Act, ...]] = (
    calm,
    storm,
    kill_watcher,
    kill_watchers_in_a_row,
    freeze_watcher,
    kill_standby,
    kill_worker,
    freeze_worker,
    reload_server,
    refuse_connections,
    too_many_requests,
    unavailable,
    cut_streams,
    end_streams_at_once,
    swallow_events,
    drop_one_event,
    garbage,
    gone,
    broken_lists,
    rewind,
    rotate_token,
    freeze_redis,
    lose_redis,
    fill_shared_memory,
)
