"""Keep one watcher process running: start it, restart it when it dies or freezes, end it.

`run` and `keep` call `turn` whenever a child has ended and about once a second. This module reads the area's heartbeat
and never its rows. It has no thread and waits only for the watcher's end in `stop`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from shmroute.backoff import Backoff
from shmroute.supervise.heartbeat_check import CHECK_SECONDS, HeartbeatCheck
from shmroute.supervise.linux import spawn
from shmroute.supervise.signals import Signals

_log = logging.getLogger(__name__)

BACKOFF_FIRST_SECONDS: Final = 0.5
BACKOFF_LIMIT_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
"""Seconds for which a watcher must run before its next restart waits only `BACKOFF_FIRST_SECONDS` again."""

STOP_SECONDS: Final = 2.0
"""Seconds between SIGTERM and SIGKILL. A watcher ends within one second of SIGTERM."""

CONFIGURATION: Final = 2
"""Exit code of a watcher that cannot use its options; a restart with the same options would end the same way."""


class Restarter:
    """Runs `shmroute watch` with `arguments` until `stop`.

    Args:
        area: the area the watcher writes.
        arguments: the options of `shmroute watch`; it inherits the environment variables of this process.
        signals: the signals that this process blocks; they are not blocked in the watcher.
        lifeline: the watched end of the pipe. The watcher watches it too, so it ends even if this process was killed.
    """

    def __init__(self, area: str, arguments: Sequence[str], signals: Signals, lifeline: int) -> None:
        self._area = area
        self._command = [sys.executable, "-m", "shmroute", "watch", *arguments, "--area", area]
        self._command += ["--lifeline", str(lifeline), "--keeper", str(os.getpid())]
        self._mask = signals.former_mask
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None
        self._check: HeartbeatCheck | None = None
        self._check_at = self._start_at = time.monotonic()
        self._backoff = Backoff(BACKOFF_FIRST_SECONDS, BACKOFF_LIMIT_SECONDS, HEALTHY_SECONDS)
        self.started_ns = 0
        """Monotonic time at which the current watcher was started, in nanoseconds."""
        self.last_code: int | None = None
        """Exit code of the last watcher that ended, negative for a signal; None while the first one runs."""

    @property
    def pid(self) -> int | None:
        """Process id of the current watcher; None between two watchers."""
        return self._process.pid if self._process else None

    @property
    def due_seconds(self) -> float:
        """Seconds within which `turn` must be called again."""
        return max(0.0, (self._check_at if self._process else self._start_at) - time.monotonic())

    def turn(self) -> None:
        """Start the watcher if its start is due; if it has ended or frozen, plan its restart."""
        now = time.monotonic()
        process = self._process
        if process is None:
            if now >= self._start_at:
                self._start(now)
            return
        code = process.poll()
        if code is not None:
            self._ended(code, f"has ended with {code}", now)
        elif now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            if self._check is not None and self._check.look():
                process.kill()
                self._ended(process.wait(), "has frozen and was killed", now)

    def stop(self) -> None:
        """End the watcher and wait for its end, at most a few seconds."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the watcher (pid %d) does not end: killing it", process.pid)
            process.kill()
            process.wait()
        self._process = None

    def _start(self, now: float) -> None:
        self.started_ns = time.monotonic_ns()
        environment = {name: value for name, value in os.environ.items() if name != "SHMROUTE_AREA"}
        process = spawn(
            self._command, mask=self._mask, environment=environment, inherited=(self._lifeline,), own_group=True
        )
        self._process = process
        self._check = HeartbeatCheck(self._area, process.pid, self.started_ns)
        self._check_at = now + CHECK_SECONDS
        if self.last_code is not None:
            _log.warning("the watcher is started again (pid %d)", process.pid)

    def _ended(self, code: int, what: str, now: float) -> None:
        assert self._process is not None  # noqa: S101 - the caller's condition
        pid, self._process = self._process.pid, None
        self.last_code = code
        self._start_at = now + self._backoff.failed()
        _log.error("the watcher (pid %d) %s", pid, what)
