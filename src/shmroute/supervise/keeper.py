"""Keeps one watcher process running: starts it, starts it again when it dies or freezes, ends it.

Used by `shmroute run` and by the server hooks in `shmroute.contrib`. It reads the area's heartbeat and never its rows.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from shmroute.errors import ShmrouteError
from shmroute.shm.control import ControlReader
from shmroute.shm.publisher import Publisher

__all__ = ["Keeper"]

_log = logging.getLogger(__name__)

FROZEN_SECONDS: Final = 5.0
"""A heartbeat comes every second: five missed ones are no hiccup."""

BACKOFF_FIRST_SECONDS: Final = 0.5
BACKOFF_LIMIT_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
"""A watcher that has lived so long is started again as if it had never failed."""

TAKEOVER_SECONDS: Final = 1.2
"""Within this a watcher that stands by has taken the area over."""

STOP_SECONDS: Final = 2.0
"""A watcher ends within a second of SIGTERM; after twice that it is killed."""

_POLL_SECONDS: Final = 0.2


class Keeper:
    """Runs `shmroute watch` with `arguments` until `stop`.

    Args:
        area: the area the watcher writes.
        arguments: the options of `shmroute watch`.
        lifeline: a descriptor the watcher watches too, so that it ends even if its keeper was killed.
    """

    def __init__(self, area: str, arguments: Sequence[str], lifeline: int | None = None) -> None:
        self._area = area
        self._command = [sys.executable, "-m", "shmroute", "watch", *arguments, "--area", area]
        self._inherited: tuple[int, ...] = ()
        if lifeline is not None:
            self._command += ["--lifeline", str(lifeline)]
            self._inherited = (lifeline,)
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The present watcher's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the watcher, and keep it."""
        self._thread.start()

    def stop(self) -> None:
        """End the watcher and wait for it, a few seconds at most."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS * 2 + 1)

    def remove_area(self, grace_seconds: float = 0.0) -> None:
        """Take the area's memory away, unless another watcher has taken it over within `grace_seconds`."""
        time.sleep(grace_seconds)
        try:
            publisher = Publisher(self._area)
        except (ShmrouteError, OSError):
            return
        publisher.close(remove=True)

    def _keep(self) -> None:
        backoff = BACKOFF_FIRST_SECONDS
        while not self._stopped.is_set():
            started = time.monotonic()
            reason = self._watch_one()
            if self._stopped.is_set():
                return
            if time.monotonic() - started >= HEALTHY_SECONDS:
                backoff = BACKOFF_FIRST_SECONDS
            delay = backoff * (1 + random.random())  # noqa: S311 - spreading restarts, no secret
            _log.error("the watcher %s; starting it again in %.1f s", reason, delay)
            self.restarts += 1
            backoff = min(backoff * 2, BACKOFF_LIMIT_SECONDS)
            self._stopped.wait(delay)

    def _watch_one(self) -> str:
        """Run one watcher to its end. Returns why it ended."""
        started_ns = time.monotonic_ns()
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            pass_fds=self._inherited,
            process_group=0,
            env={key: value for key, value in os.environ.items() if key != "SHMROUTE_AREA"},
        )
        self._process = process
        try:
            while not self._stopped.is_set():
                try:
                    code = process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if self._frozen(process.pid, started_ns):
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                        return f"(pid {process.pid}) has frozen and was killed"
                else:
                    return f"(pid {process.pid}) has ended with {code}"
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return "was stopped"
        finally:
            self._process = None

    def _frozen(self, pid: int, started_ns: int) -> bool:
        """Whether our watcher holds the area and its heart has stopped. One that stands by is left alone."""
        try:
            control = ControlReader(self._area)
        except (FileNotFoundError, ShmrouteError):
            return False
        heartbeat_ns = control.heartbeat_ns
        silent = time.monotonic_ns() - max(heartbeat_ns, started_ns)
        return control.writer_pid == pid and silent > FROZEN_SECONDS * 1e9
