"""Supervises helper threads: notices when one ends unexpectedly, and restarts it.

The watcher's owner and each source have a set of them: they start the threads and call `check` about once a second. A
thread has failed if it raises anything, or returns before it was to stop. A restartable thread is restarted after a
delay that grows. A source cannot be restarted, as it may have delivered half of a list: then `lost` gives the reason,
and the watcher ends so that its own supervisor restarts it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

_log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 1.0
"""Longest time between two calls of `check`: an end is seen well within 5 s."""

FIRST_DELAY_SECONDS: Final = 1.0
"""Delay before the first restart; doubled for each further restart."""

LONGEST_DELAY_SECONDS: Final = 8.0
"""Longest delay before a restart. A thread must be back within 30 s: this delay and one heartbeat leave a margin."""

GIVE_UP_SECONDS: Final = 30.0
"""Time for which the system may refuse a new thread (process limit, no memory) before the watcher ends."""

HEALTHY_SECONDS: Final = 60.0
"""Running time after which a restarted thread counts as healthy: its delays start again at `FIRST_DELAY_SECONDS`."""

MAX_REPORTED: Final = 200
"""Longest error text kept in a status, in characters."""


class ThreadStatus(msgspec.Struct, frozen=True):
    """One of the helper threads."""

    name: str
    alive: bool
    restarts: int
    problem: str
    """Reason of the thread's last end; "" if it never ended, or has been healthy since."""


class _Supervised(msgspec.Struct):
    name: str
    target: Callable[[], None]
    restartable: bool
    thread: threading.Thread | None = None
    problem: str = ""
    """Reason of the thread's last end; "" if it never ended, or has been healthy since."""
    end: str = ""
    """How the thread ended. Only `check` makes a problem of it: nothing checks after a stop, which ends threads too."""
    handled: bool = False
    """Whether `check` has noticed the thread's end."""
    restarts: int = 0
    started: float = 0.0
    due: float = 0.0
    delay: float = FIRST_DELAY_SECONDS
    refused_since: float = 0.0


class SupervisedThreads:
    """A set of named daemon threads. Only the owner uses `check`, `lost` and `join`; any thread uses the rest.

    Args:
        clock: monotonic seconds; tests inject one.
        ended: called by `check` with the name of a thread that has ended and will be restarted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, ended: Callable[[str], object] = str) -> None:
        self._clock = clock
        self._ended_call = ended
        self._lock = threading.Lock()
        """Guards the lists, and that a thread is started once."""
        self._threads: list[_Supervised] = []
        self._released: list[_Supervised] = []
        self.lost = ""
        """Reason why the watcher must end: a thread that cannot be restarted has ended. "" while all is well."""

    def start(self, name: str, target: Callable[[], None], *, restartable: bool) -> None:
        """Run `target` in a thread. `target` must return only when the watcher stops. If the system refuses the thread,
        `check` tries again."""
        it = _Supervised(name, target, restartable)
        with self._lock:
            self._start(it)
            self._threads.append(it)

    def check(self) -> None:
        """Notice threads that have ended, and restart those that are due. Never waits. Called every second."""
        with self._lock:
            self._check(self._clock())

    def _check(self, now: float) -> None:
        for it in self._threads:
            if it.thread is not None and it.thread.is_alive():
                if it.problem and now - it.started >= HEALTHY_SECONDS:
                    it.problem, it.delay = "", FIRST_DELAY_SECONDS
                continue
            if it.thread is not None and not it.handled:
                self._ended(it, now)
            elif now >= it.due and not self.lost:
                it.restarts += it.thread is not None
                self._start(it)

    def release(self, name: str) -> None:
        """Stop supervising the thread of this name, which is about to end. `join` still waits for it."""
        with self._lock:
            self._released += [it for it in self._threads if it.name == name]
            self._threads = [it for it in self._threads if it.name != name]
            self._released = [it for it in self._released if it.thread is not None and it.thread.is_alive()]

    def status(self) -> tuple[ThreadStatus, ...]:
        """Return for each thread whether it runs, how often it was restarted, and why it ended last."""
        return tuple(
            ThreadStatus(it.name, it.thread is not None and it.thread.is_alive(), it.restarts, it.problem)
            for it in list(self._threads)
        )

    def join(self, seconds: float) -> None:
        """Wait for all threads to end, at most `seconds` in all."""
        deadline = time.monotonic() + seconds
        for it in (*self._threads, *self._released):
            if it.thread is not None:
                it.thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, it: _Supervised) -> None:
        thread = threading.Thread(target=self._run, args=(it,), name=it.name, daemon=True)
        it.started = self._clock()
        try:
            thread.start()
        except RuntimeError as error:  # "can't start new thread"
            it.problem = f"no thread can be started: {error}"
            it.due = it.started + FIRST_DELAY_SECONDS
            it.refused_since = it.refused_since or it.started
            if it.started - it.refused_since >= GIVE_UP_SECONDS and not it.restartable:
                self.lost = f"{it.name}: {it.problem}"
        else:
            it.thread, it.handled, it.refused_since = thread, False, 0.0

    def _run(self, it: _Supervised) -> None:
        it.end = "it was killed"
        try:
            it.target()
        except BaseException as error:  # noqa: BLE001 - any error must be reported
            it.end = f"{type(error).__name__}: {error}"[:MAX_REPORTED]
            _log.exception("thread %r has failed", it.name)
        else:
            it.end = "it returned before it was to stop"

    def _ended(self, it: _Supervised, now: float) -> None:
        it.handled = True
        it.problem = it.end
        if not it.restartable:
            self.lost = f"{it.name}: {it.problem}"
            return
        self._ended_call(it.name)
        it.due = now + it.delay
        _log.error("thread %r has ended: %s; it is started again in %.0f s", it.name, it.problem, it.delay)
        it.delay = min(it.delay * 2, LONGEST_DELAY_SECONDS)
