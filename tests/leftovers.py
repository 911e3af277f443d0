"""What a test leaves behind fails it: processes, shared memory other than that of the `area` fixture, and changes to
the test run's own process (signals, environment, current folder).

    with nothing_left():
        ...

Used around every test (`tests/conftest.py`). Processes that are found are killed and the rest is set back, so that the
next test starts clean: where the signals of the run itself are blocked, it cannot be ended, nor can what it starts.
Several test runs may go on at once, and a demo beside them: their things are neither touched nor counted.
"""

from __future__ import annotations

import itertools
import os
import signal
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

SHARED_MEMORY = Path("/dev/shm")

MARK = "SHMROUTE_TEST_RUNNING"
"""In the environment of everything a test executes: its processes are known by it even when their parent has gone."""

GRACE_SECONDS = 3.0
"""For processes that were told to end, or notice by themselves that their server has gone (within 2 s)."""

_STEP_SECONDS = 0.01

_KEPT_BY_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Helpers of the standard library that live as long as the process that needed them first."""

_WATCHED_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
"""Those that programs handle. SIGALRM is pytest-timeout's."""

_CHANGED_BY_PYTEST = (MARK, "PYTEST_CURRENT_TEST")

_numbers = itertools.count()


def new_area() -> str:
    """The name of an area that no other test has, in no other run either."""
    return f"test-{os.getpid()}-{next(_numbers)}"


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
    running_before = running()
    signals_before = _signals()
    segments_before = _segments()
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


def _processes(before: set[int], mark: str) -> set[int]:
    new = running() - before
    found = (children(os.getpid()) & new) | marked(new, MARK, mark)
    return {pid for pid in found if not any(helper in command_line(pid) for helper in _KEPT_BY_PYTHON)}


def _segments() -> set[Path]:
    return set(SHARED_MEMORY.glob("shmroute-*"))


def _find_segments(before: set[Path]) -> list[str]:
    """New ones, outside the areas of the `area` fixture, here or in another run."""
    found = {path for path in _segments() - before if not path.name.startswith("shmroute-test-")}
    if not found or _others_at_work():
        return []
    return [str(path) for path in sorted(found)]


def _others_at_work() -> bool:
    """Whether shared memory may come from somebody else: a segment does not tell who made it."""
    ours = {os.getpid(), *ancestors(os.getpid())}
    lines = (command_line(pid) for pid in running() - ours)
    return any(word in line for line in lines for word in ("shmroute", "pytest", "benchmarks", "tests."))
