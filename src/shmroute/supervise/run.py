"""The parent of a server's command: watcher first, then the command, and nothing left behind.

Called by `shmroute run`. As process 1 of a container it also reaps what others orphan.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

from shmroute.client import Reader
from shmroute.errors import NotReady
from shmroute.supervise.keeper import TAKEOVER_SECONDS, Keeper
from shmroute.supervise.lifeline import Lifeline

__all__ = ["run"]

_log = logging.getLogger(__name__)

_FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
"""What servers act on (gunicorn's whole set) goes to the command as it came."""

_FROM_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
"""On a terminal these reach the command by themselves, as it is in our process group."""

_REAP_PAUSE_SECONDS: Final = 0.05

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""As a shell says it."""


def run(
    area: str,
    watch_arguments: Sequence[str],
    command: Sequence[str],
    wait_seconds: float,
    *,
    shared: bool,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run `command` beside a watcher of `area`.

    `shared` says that other watchers may stand by for the area, which is left to them then.

    Waits up to `wait_seconds` for the first snapshot, and starts the command then in any case: its look-ups raise
    `NotReady` until there is one.

    Returns:
        The command's exit code, 128 + n if signal n ended it; 126 or 127 if it could not be started.
    """
    lifeline = Lifeline()
    keeper = Keeper(area, watch_arguments, lifeline.watched)
    own_signals = _FROM_TERMINAL if os.isatty(0) else ()
    received: list[int] = []
    former = {number: signal.signal(number, lambda got, _: received.append(got)) for number in _FORWARDED}
    try:
        keeper.start()
        _wait_ready(area, wait_seconds, received)
        if any(number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) for number in received):
            return 128 + received[0]
        try:
            process = subprocess.Popen(command, env={**environment, "SHMROUTE_AREA": area}, pass_fds=(lifeline.held,))
        except FileNotFoundError:
            _log.error("%s: command not found", command[0])
            return NOT_FOUND
        except OSError as error:
            _log.error("%s cannot be started: %s", command[0], error)
            return NOT_EXECUTABLE

        def forward(number: int, _: FrameType | None) -> None:
            if number not in own_signals:
                process.send_signal(number)

        for number in _FORWARDED:
            signal.signal(number, forward)
        for early in received:
            process.send_signal(early)
        return _wait(process, keeper)
    finally:
        keeper.stop()
        keeper.remove_area(TAKEOVER_SECONDS if shared else 0.0)
        for number, handler in former.items():
            signal.signal(number, handler)


def _wait_ready(area: str, seconds: float, received: list[int]) -> None:
    deadline = time.monotonic() + seconds
    with Reader(area) as reader:
        while not received:
            try:
                reader.wait_ready(min(0.1, max(0.0, deadline - time.monotonic())))
            except NotReady:
                if time.monotonic() >= deadline:
                    _log.warning("no snapshot within %g s: the command starts without one", seconds)
                    return
            else:
                return


def _wait(process: subprocess.Popen[bytes], keeper: Keeper) -> int:
    """The command's exit code; as process 1, what others orphan is reaped meanwhile."""
    code = _reap_until(process, keeper) if os.getpid() == 1 else process.wait()
    return code if code >= 0 else 128 - code


def _reap_until(process: subprocess.Popen[bytes], keeper: Keeper) -> int:
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if found is None or found.si_pid == keeper.pid:  # the keeper waits for the watcher itself
            time.sleep(_REAP_PAUSE_SECONDS)
        elif found.si_pid == process.pid:
            return process.wait()
        else:
            os.waitpid(found.si_pid, os.WNOHANG)
