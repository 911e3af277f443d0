"""Forked children of a test: each runs a function of the test, and ends with the test at the latest.

    with Forks() as forks:
        child = forks.start(work, argument)
        child.pipe.recv()
        child.kill()

A child that ends with an exception fails `finish`, its traceback on standard error. `killed_at` forks a child and kills
it at a chosen line of the code under test.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import shmroute.shm

Pipe = connection.Connection

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1

END_SECONDS: Final = 60.0
"""Longest wait of `finish`, in seconds."""

_STEP_SECONDS: Final = 0.001

_SHARED_MEMORY_CODE: Final = str(Path(shmroute.shm.__file__).parent)


class Child:
    """One forked child; `pipe` leads to the pipe its function was given."""

    def __init__(self, pid: int, pipe: Pipe) -> None:
        self.pid = pid
        self.pipe = pipe
        self._status: int | None = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; SIGKILL is waited for."""
        if self._status is None:
            os.kill(self.pid, number)
            if number == signal.SIGKILL:
                self._wait()

    def finish(self, seconds: float = END_SECONDS) -> None:
        """Wait for its end.

        Raises:
            AssertionError: it has not ended in time, or not with 0.
        """
        deadline = time.monotonic() + seconds
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
            elif time.monotonic() > deadline:
                raise AssertionError(f"child {self.pid} has not ended in {seconds} s")
            else:
                time.sleep(_STEP_SECONDS)
        assert self._status == 0, f"child {self.pid} ended with status {self._status}"

    def _wait(self) -> None:
        self._status = os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """Kill it if it still runs, stopped or not."""
        self.kill()
        self.pipe.close()


class Forks:
    """The children started within a block; at its end they are killed."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.end()

    def start(self, work: Callable[..., object], *arguments: Any) -> Child:
        """Fork a child that calls `work(pipe, *arguments)` and ends."""
        ours, theirs = connection.Pipe()
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                die_with(parent)
                ours.close()
                work(theirs, *arguments)
                code = 0
            except BaseException:  # noqa: BLE001 - nothing of the parent must run in the child
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        theirs.close()
        child = Child(pid, ours)
        self._children.append(child)
        return child


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def killed_at(line: int, work: Callable[[], object]) -> bool:
    """Do `work` in a forked child, which is SIGKILLed just before it executes that many lines of `shmroute.shm`.

    Returns:
        False if it came to its end before.

    Raises:
        AssertionError: it ended with an exception.
    """
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            die_with(parent)
            gc.disable()
            left = line

            def trace(frame: FrameType, event: str, argument: object) -> Any:
                nonlocal left
                if not frame.f_code.co_filename.startswith(_SHARED_MEMORY_CODE):
                    return None
                if event == "line":
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            work()
            sys.settrace(None)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of the parent must run in the child
            sys.settrace(None)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), f"the child ended with status {status}"
    return status != 0
