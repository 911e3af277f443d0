"""A test fails if it leaves something behind: processes, shared memory, or changes to the test process itself
(signals, environment, current folder).

    with nothing_left():
        ...

Used around every test (`tests/conftest.py`). Processes that are found are killed, and everything else is restored, so
that the next test starts clean.

Several test processes may run at once: pytest-xdist's workers, a second run, a demo. Each counts only its own things:

* processes: its children, and those with its mark in their environment;
* shared memory: areas that `new_area` has named for this process. Shared memory under any other name does not tell who
  made it. Such names count when no other shmroute or test process runs, and once more at the end of a whole run
  (`strays`), when all of its processes have ended.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes import (
    adopt_orphans,
    adopts_orphans,
    ancestors,
    children,
    command_line,
    is_running,
    marked,
    running,
)

SHARED_MEMORY = Path(os.environ.get("SHMROUTE_DIR") or "/dev/shm")

MARK = "SHMROUTE_TEST_RUNNING"
"""Environment variable of every process of a test, which identifies it even after its parent has ended."""

GRACE_SECONDS = 3.0
"""Longest wait for processes that are ending, or that notice within 2 s that their server has ended, in seconds."""

_STEP_SECONDS = 0.01

_KEPT_BY_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Helpers of the standard library that live as long as the process that needed them first."""

_KEPT_THREADS = ("asyncio_", "pytest_timeout ")
"""Names of threads that belong to the test process itself."""

_WATCHED_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
"""Signals that programs handle. SIGALRM belongs to pytest-timeout."""

_CHANGED_BY_PYTEST = (MARK, "PYTEST_CURRENT_TEST")

_numbers = itertools.count()
_TOKEN = secrets.token_hex(3)
"""Distinguishes this process from an earlier one with its id, whose shared memory may still exist."""


def new_area() -> str:
    """Return the name of an area that no other test has, in no other run either."""
    return f"{_own_areas()}{next(_numbers)}"


def _own_areas() -> str:
    return f"test-{os.getpid()}-{_TOKEN}-"


def remove_area(area: str) -> None:
    """Take an area's shared memory away, all of it."""
    for path in SHARED_MEMORY.glob(f"shmroute-{area}*"):
        if path.name == f"shmroute-{area}" or path.name.startswith(f"shmroute-{area}."):
            path.unlink(missing_ok=True)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if what runs inside leaves something behind.

    Raises:
        AssertionError: naming it.
    """
    mark = f"{os.getpid()}-{next(_numbers)}"
    threads_before = {thread.name for thread in threading.enumerate()}
    running_before = running()
    signals_before = _signals()
    segments_before = segments()
    folder_before = Path.cwd()
    environment_before = _environment()
    outer = os.environ.get(MARK)
    os.environ[MARK] = mark
    try:
        yield
    finally:
        if outer is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = outer
        left = _restore_signals(signals_before)
        left += _restore_environment(environment_before)
        left += _restore_folder(folder_before)
        if adopts_orphans():
            adopt_orphans(False)
            left.append("the test run adopts orphans (PR_SET_CHILD_SUBREAPER)")
        left += _end_processes(running_before, mark)
        left += _wait_for_threads(threads_before)
        left += _find_segments(segments_before)
    assert not left, "left behind: " + "; ".join(left)


class _Signals(NamedTuple):
    blocked: set[signal.Signals]
    handlers: dict[signal.Signals, Any]


def _signals() -> _Signals:
    blocked = {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}
    return _Signals(blocked, {number: signal.getsignal(number) for number in _WATCHED_SIGNALS})


def _restore_signals(before: _Signals) -> list[str]:
    after = _signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)
    left = [f"{number.name} blocked" for number in sorted(after.blocked - before.blocked)]
    left += [f"{number.name} unblocked" for number in sorted(before.blocked - after.blocked)]
    for number, handler in before.handlers.items():
        if after.handlers[number] != handler:
            signal.signal(number, handler)
            left.append(f"a handler of {number.name}")
    return left


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _CHANGED_BY_PYTEST}


def _restore_environment(before: dict[str, str]) -> list[str]:
    after = _environment()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    return [f"the environment variable {name}" for name in changed]


def _restore_folder(before: Path) -> list[str]:
    after = Path.cwd()
    if after == before:
        return []
    os.chdir(before)
    return [f"the current folder {after}"]


def _end_processes(before: set[int], mark: str) -> list[str]:
    deadline = time.monotonic() + GRACE_SECONDS
    while found := _processes(before, mark):
        if time.monotonic() >= deadline:
            break
        time.sleep(_STEP_SECONDS)
    left = [f"process {pid} ({command_line(pid)})" for pid in sorted(found)]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(map(is_running, found)) and time.monotonic() < deadline + GRACE_SECONDS:
        time.sleep(_STEP_SECONDS)
    return left


def _wait_for_threads(before: set[str]) -> list[str]:
    """Name the threads that do not end: one that draws lots or logs would disturb a later test.

    A name that was there before may belong to a new thread, which something wider than the test has started again.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while found := sorted(_threads() - before):
        if time.monotonic() >= deadline:
            break
        time.sleep(_STEP_SECONDS)
    return [f"thread {name!r}" for name in found]


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(_KEPT_THREADS)}


def _processes(before: set[int], mark: str) -> set[int]:
    new = running() - before
    if not new:
        return set()
    found = (children(os.getpid()) & new) | marked(new, MARK, mark)
    return {pid for pid in found if not any(helper in command_line(pid) for helper in _KEPT_BY_PYTHON)}


def segments() -> set[Path]:
    """Return the files of all areas."""
    # Twice a test: pathlib's glob takes several times as long.
    return {SHARED_MEMORY / name for name in os.listdir(SHARED_MEMORY) if name.startswith("shmroute-")}  # noqa: PTH208


def strays(before: set[Path]) -> list[str]:
    """Return what a whole test run has left behind: shared memory new since `before`, unless others may have made
    it."""
    return _outside_own_areas(segments() - before)


def _find_segments(before: set[Path]) -> list[str]:
    new = segments() - before
    own = {path for path in new if path.name.startswith(f"shmroute-{_own_areas()}")}
    for path in own:
        path.unlink(missing_ok=True)
    found = [str(path) for path in sorted(own)]
    if "PYTEST_XDIST_WORKER" in os.environ:
        return found  # the run's other workers make shared memory, too
    return found + _outside_own_areas(new - own)


def _outside_own_areas(new: set[Path]) -> list[str]:
    found = {path for path in new if not path.name.startswith("shmroute-test-")}
    return [] if not found or _others_at_work() else [str(path) for path in sorted(found)]


def _others_at_work(among: set[int] | None = None) -> bool:
    """Whether another shmroute or test process runs `among` these ids, by default among all: shared memory does not
    tell who made it.
    """
    ours = {os.getpid(), *ancestors(os.getpid())}
    lines = (command_line(pid) for pid in (running() if among is None else among) - ours)
    return any(word in line for line in lines for word in ("shmroute", "pytest", "benchmarks", "tests."))
