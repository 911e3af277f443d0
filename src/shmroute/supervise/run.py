"""The parent of a server's command: watcher first, then the command, and nothing left behind.

Called by `shmroute run`. One thread, one loop: it takes the next signal, reaps whoever has ended, and looks after the
watcher. Whatever the command orphans becomes a child of this process, whether it is process 1 of a container or not.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Final

from shmroute.errors import AreaUnreadable, ConfigError, NotReady, ShmrouteError
from shmroute.shm.control import ControlReader
from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.heartbeat_check import is_writer
from shmroute.supervise.lifeline import Lifeline
from shmroute.supervise.linux import adopt_orphans, children, environment_of, finished, spawn
from shmroute.supervise.restarter import CONFIGURATION, Keeper
from shmroute.supervise.signals import Signals, Taken
from shmroute.worker.reader import Reader

__all__ = ["NOT_EXECUTABLE", "NOT_FOUND", "run"]

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
"""What servers act on goes to the command as it came."""

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""As a shell says it."""

_STEP_SECONDS: Final = 0.02
"""How often the area is looked at before the command starts."""

OLD_ROUTES_SECONDS: Final = 5.0
"""Routes that an earlier watcher left are enough to start on; but a fresh list is worth waiting so long for."""

ACCEPT_SECONDS: Final = 10.0
"""A watcher that finds its area taken says whether that is all right once it has started, which takes a second or two
on a busy machine."""

LIVING_SECONDS: Final = 3.0
"""A heart beats every second: one that has beaten within this belongs to the living."""

PARTING_SECONDS: Final = 0.5
"""What ends because the command has (a resource tracker of `multiprocessing`, say) does so within this, untold."""

LEFTOVER_SECONDS: Final = 10.0
"""What the command left running is told to end, and killed after this: Kubernetes gives a pod 30 s in all."""

GIVE_UP_SECONDS: Final = 2.0
"""A killed process that is still there after this hangs in the kernel."""


def run(
    area: str,
    watch_arguments: Sequence[str],
    command: Sequence[str],
    wait_seconds: float,
    *,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run `command` beside a watcher of `area`.

    Waits up to `wait_seconds` for the first snapshot, and starts the command then in any case: its look-ups raise
    `NotReady` until there is one.

    Returns:
        The command's exit code, 128 + n if signal n ended it; 126 or 127 if it could not be started.

    Raises:
        ConfigError: the watcher cannot use its options, or the area; it has said why.
        NoAccess: the area is another user's.
    """
    signals = Signals(_FORWARDED)
    adopt_orphans()
    lifeline = Lifeline()
    keeper = Keeper(area, [*watch_arguments, "--refuse-other"], signals, lifeline.watched)
    steps = _Run(area, keeper, signals)
    try:
        code = steps.wait_ready(wait_seconds)
        if code is None:
            code = steps.start(command, {**environment, "SHMROUTE_AREA": area}, lifeline.held)
        return steps.wait_command() if code is None else code
    finally:
        steps.end_leftovers()
        keeper.stop()
        remove_area(area)


class _Run:
    """The steps of `run`, in order."""

    def __init__(self, area: str, keeper: Keeper, signals: Signals) -> None:
        self._area = area
        self._keeper = keeper
        self._signals = signals
        self._main = 0
        """Process id of the command, or of the process it has handed its work to."""
        self._codes: dict[int, int] = {}
        """Exit codes of processes that were reaped here, by process id."""
        self._ending = False

    # --- before the command --------------------------------------------------------------------------------

    def wait_ready(self, seconds: float) -> int | None:
        """Wait for the first snapshot. Returns an exit code if the command shall not start."""
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
        """Take a signal, look after the watcher. Returns an exit code if that was the end, else 0."""
        self._keeper.turn()
        taken = self._signals.take(_STEP_SECONDS)
        if taken is not None and taken.number in (*_ENDING, signal.SIGHUP):
            return 128 + taken.number
        self._reap()
        if self._keeper.last_code == CONFIGURATION:
            raise ConfigError("the watcher cannot start, so the command was not started")
        return 0

    def _has_routes(self, reader: Reader) -> bool:
        try:
            reader.attach()
        except (NotReady, AreaUnreadable):
            return False
        return True

    def _is_fresh(self) -> bool:
        """Whether a watcher that lives has published a complete list of its own."""
        control = self._control()
        if control is None or not control.synced:
            return False
        return time.monotonic_ns() - control.heartbeat_ns < LIVING_SECONDS * 1e9

    def _wait_accepted(self) -> int | None:
        """Where another watcher writes the area, wait until ours has looked whose routes these are and stands by.

        It does not where they come from another source than its own: it ends with a configuration error then.
        """
        now_ns = time.monotonic_ns()
        deadline = time.monotonic() + ACCEPT_SECONDS
        while time.monotonic() < deadline:
            control = self._control()
            if control is not None:
                ours = is_writer(control, self._keeper.pid, self._keeper.started_ns)
                if ours or control.awaited_ns > now_ns:
                    break
            if code := self._turn_before_command():
                return code
        return None

    def _control(self) -> ControlReader | None:
        try:
            return ControlReader(self._area)
        except (FileNotFoundError, ShmrouteError):
            return None

    # --- the command ---------------------------------------------------------------------------------------

    def start(self, command: Sequence[str], environment: Mapping[str, str], held: int) -> int | None:
        """Start the command, which holds the lifeline. Returns an exit code if that failed."""
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
        process.returncode = 0  # it is reaped here, not by Popen
        return None

    def wait_command(self) -> int:
        """Forward signals until the command has ended. Returns its exit code."""
        while True:
            taken = self._signals.take(self._keeper.due_seconds)
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
            self._keeper.turn()

    def _forward(self, taken: Taken) -> None:
        """Pass a signal on to the command; one of the terminal's it has got already."""
        self._ending = self._ending or taken.number in _ENDING
        if not taken.from_terminal:
            os.kill(self._main, taken.number)

    def _successor(self) -> int:
        """The new master that a gunicorn has started (USR2) before it ended; 0 if there is none."""
        if self._ending:
            return 0
        mark = f"GUNICORN_PID={self._main}".encode()
        return min((pid for pid in children() if mark in environment_of(pid)), default=0)

    def _reap(self) -> None:
        """Reap whoever has ended; the watcher is the keeper's to reap."""
        for pid in finished():
            if pid == self._keeper.pid:
                self._keeper.turn()
            else:
                _, status = os.waitpid(pid, 0)
                self._codes[pid] = os.waitstatus_to_exitcode(status)

    # --- the end -------------------------------------------------------------------------------------------

    def end_leftovers(self) -> None:
        """End what the command has left running: SIGTERM first, SIGKILL after a while, or when asked again."""
        tell_at = time.monotonic() + PARTING_SECONDS
        kill_at = tell_at + LEFTOVER_SECONDS
        told: set[int] = set()
        while True:
            self._reap()
            left = children() - {self._keeper.pid}
            now = time.monotonic()
            if not left or now > kill_at + GIVE_UP_SECONDS:
                return
            if now >= tell_at:
                for pid in left if now >= kill_at else left - told:
                    if pid not in told:
                        _log.warning("the command has left pid %d running: ending it", pid)
                    os.kill(pid, signal.SIGKILL if now >= kill_at else signal.SIGTERM)
                told |= left
            taken = self._signals.take(_STEP_SECONDS)
            if taken is not None and taken.number in _ENDING:
                tell_at = kill_at = min(kill_at, now)
