"""Run a server's command beside a watcher: start both, restart the watcher, leave no process and no memory behind.

Called by `shmroute run`. One thread runs one loop: it takes the next signal, reaps children that have ended, and checks
the watcher. Orphans of the command become children of this process, even if it is not process 1 of a container.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Final

from shmroute.errors import AreaUnreadable, ConfigError, NotReady
from shmroute.shm.control import find_control
from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.heartbeat_check import is_writer
from shmroute.supervise.lifeline import Lifeline
from shmroute.supervise.linux import adopt_orphans, children, environment_of, finished, send, spawn
from shmroute.supervise.restarter import CONFIGURATION, Restarter
from shmroute.supervise.signals import Signals, Taken
from shmroute.worker.reader import Reader

_log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_FORWARDED: Final = (
    *_ENDING,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGALRM,
)
"""Signals that servers act on; they are forwarded to the command unchanged."""

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""Exit codes of a shell for a command that cannot be executed."""

_STEP_SECONDS: Final = 0.02
"""Seconds between two checks of the area before the command starts."""

OLD_ROUTES_SECONDS: Final = 5.0
"""Longest wait for a fresh list, in seconds, if an earlier watcher left routes; then the command starts with those."""

ACCEPT_SECONDS: Final = 10.0
"""Longest wait, in seconds, until a watcher whose area is taken goes on standby or refuses. Its start takes 1 to 2 s on
a busy machine."""

LIVE_HEARTBEAT_SECONDS: Final = 3.0
"""Maximum age of a live watcher's heartbeat, in seconds; it is written every second."""

ENDING_SECONDS: Final = 0.5
"""Seconds in which children of the command may end by themselves, as a resource tracker of `multiprocessing` does."""

LEFTOVER_SECONDS: Final = 10.0
"""Seconds between SIGTERM and SIGKILL for processes that the command left. Kubernetes gives a pod 30 s in all."""

GIVE_UP_SECONDS: Final = 2.0
"""Longest wait for the end of killed processes, in seconds; one that still exists then hangs in the kernel."""


def run(
    area: str,
    watch_arguments: Sequence[str],
    command: Sequence[str],
    wait_seconds: float,
    *,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run `command` beside a watcher of `area`.

    Waits up to `wait_seconds` for the first snapshot, then starts the command even without one: look-ups raise
    `NotReady` until there is a snapshot.

    Returns:
        The command's exit code, 128 + n if signal n ended it; 126 or 127 if it could not be started.

    Raises:
        ConfigError: the watcher cannot use its options or the area. Its log says why.
        NoAccess: the area belongs to another user.
    """
    signals = Signals(_FORWARDED)
    adopt_orphans()
    lifeline = Lifeline()
    restarter = Restarter(area, [*watch_arguments, "--refuse-other"], signals, lifeline.watched)
    steps = _Run(area, restarter, signals)
    try:
        code = steps.wait_ready(wait_seconds)
        if code is None:
            code = steps.start(command, {**environment, "SHMROUTE_AREA": area}, lifeline.held)
        return steps.wait_command() if code is None else code
    finally:
        steps.end_leftovers()
        restarter.stop()
        remove_area(area)


class _Run:
    """The steps of `run`, in order."""

    def __init__(self, area: str, restarter: Restarter, signals: Signals) -> None:
        self._area = area
        self._restarter = restarter
        self._signals = signals
        self._main = 0
        """Process id of the command, or of the process that took over from it."""
        self._codes: dict[int, int] = {}
        """Exit codes of reaped processes, by process id."""
        self._ending = False

    # --- before the command --------------------------------------------------------------------------------

    def wait_ready(self, seconds: float) -> int | None:
        """Wait for the first snapshot. Return an exit code if the command must not start, else None."""
        started = time.monotonic()
        with Reader(self._area) as reader:
            while True:
                if code := self._turn_before_command():
                    return code
                waited = time.monotonic() - started
                if self._has_routes(reader):
                    if self._is_fresh():
                        return self._wait_accepted()
                    if waited >= min(seconds, OLD_ROUTES_SECONDS):
                        _log.warning("no fresh list yet: the command starts on what an earlier watcher left")
                        return self._wait_accepted()
                elif waited >= seconds:
                    _log.warning("no routes after %.0f s: the command starts without any", waited)
                    return None

    def _turn_before_command(self) -> int:
        """Take one signal and check the watcher. Return an exit code if `run` must end, else 0."""
        self._restarter.turn()
        taken = self._signals.take(_STEP_SECONDS)
        if taken is not None and taken.number in (*_ENDING, signal.SIGHUP):
            return 128 + taken.number
        self._reap()
        if self._restarter.last_code == CONFIGURATION:
            raise ConfigError("the watcher cannot start (its log says why), so the command was not started")
        return 0

    def _has_routes(self, reader: Reader) -> bool:
        try:
            reader.attach()
        except (NotReady, AreaUnreadable):
            return False
        return True

    def _is_fresh(self) -> bool:
        """Return whether a live watcher has published its own complete list."""
        control = find_control(self._area)
        if control is None or not control.synced:
            return False
        return time.monotonic_ns() - control.heartbeat_ns < LIVE_HEARTBEAT_SECONDS * 1e9

    def _wait_accepted(self) -> int | None:
        """If another watcher writes the area, wait until ours has compared the sources and is on standby.

        If the area's routes come from another source than its own, our watcher ends with a configuration error.
        """
        now_ns = time.monotonic_ns()
        deadline = time.monotonic() + ACCEPT_SECONDS
        while time.monotonic() < deadline:
            control = find_control(self._area)
            if control is not None:
                ours = is_writer(control, self._restarter.pid, self._restarter.started_ns)
                if ours or control.awaited_ns > now_ns:
                    break
            if code := self._turn_before_command():
                return code
        return None

    # --- the command ---------------------------------------------------------------------------------------

    def start(self, command: Sequence[str], environment: Mapping[str, str], held: int) -> int | None:
        """Start the command, which holds the lifeline. Return an exit code if it cannot be started, else None."""
        try:
            process = spawn(
                command,
                mask=self._signals.former_mask,
                environment=environment,
                inherited=(held,),
                with_parent=True,
            )
        except FileNotFoundError:
            _log.error("%s: command not found", command[0])
            return NOT_FOUND
        except OSError as error:
            _log.error("%s cannot be started: %s", command[0], error.strerror or error)
            return NOT_EXECUTABLE
        self._main = process.pid
        process.returncode = 0  # reaped here, not by Popen
        return None

    def wait_command(self) -> int:
        """Forward signals until the command ends; return its exit code."""
        while True:
            taken = self._signals.take(self._restarter.due_seconds)
            if taken is not None and taken.number != signal.SIGCHLD:
                self._forward(taken)
            self._reap()
            code = self._codes.get(self._main)
            if code is not None:
                successor = self._successor()
                if not successor:
                    return code if code >= 0 else 128 - code
                _log.info("the command (pid %d) has handed over to pid %d", self._main, successor)
                self._main = successor
            self._codes.clear()
            self._restarter.turn()

    def _forward(self, taken: Taken) -> None:
        """Forward a signal to the command, unless the terminal has sent it to the command too."""
        self._ending = self._ending or taken.number in _ENDING
        if not taken.from_terminal:
            send(self._main, taken.number)

    def _successor(self) -> int:
        """Return the process id of gunicorn's new master, started on USR2 before the old one ended; 0 if none."""
        if self._ending:
            return 0
        mark = f"GUNICORN_PID={self._main}".encode()
        return min((pid for pid in children() if mark in environment_of(pid)), default=0)

    def _reap(self) -> None:
        """Reap children that have ended; the restarter reaps the watcher."""
        for pid in finished():
            if pid == self._restarter.pid:
                self._restarter.turn()
            else:
                _, status = os.waitpid(pid, 0)
                self._codes[pid] = os.waitstatus_to_exitcode(status)

    # --- the end -------------------------------------------------------------------------------------------

    def end_leftovers(self) -> None:
        """End processes that the command left: SIGTERM first, SIGKILL after `LEFTOVER_SECONDS` or at another signal.

        A process of another user, which the kernel does not let this one signal, is logged and left running.
        """
        tell_at = time.monotonic() + ENDING_SECONDS
        kill_at = tell_at + LEFTOVER_SECONDS
        asked: set[int] = set()
        refused: set[int] = set()
        while True:
            self._reap()
            left = children() - {self._restarter.pid} - refused
            now = time.monotonic()
            if not left or now > kill_at + GIVE_UP_SECONDS:
                return
            if now >= tell_at:
                for pid in left if now >= kill_at else left - asked:
                    if pid not in asked:
                        _log.warning("the command has left pid %d running: ending it", pid)
                    if not send(pid, signal.SIGKILL if now >= kill_at else signal.SIGTERM):
                        refused.add(pid)
                asked |= left
            taken = self._signals.take(_STEP_SECONDS)
            if taken is not None and taken.number in _ENDING:
                tell_at = kill_at = min(kill_at, now)
