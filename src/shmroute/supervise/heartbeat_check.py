"""Detect a frozen watcher by its heartbeat and its CPU time. Used by the watcher's parent.

It counts checks, not seconds: after the whole pod was paused, or a laptop slept, a watcher that merely had no time to
run does not count as frozen.
"""

from __future__ import annotations

from typing import Final

from shmroute.shm.control import ControlReader, find_control
from shmroute.supervise.linux import state_of

CHECK_SECONDS: Final = 1.0
"""Seconds between two checks, the same as between two heartbeats."""

FROZEN_CHECKS: Final = 5
"""Checks without heartbeat or CPU use before the watcher counts as frozen."""

BUSY_CHECKS: Final = 120
"""Checks without heartbeat before a watcher that uses the CPU counts as frozen: it may be busy with a large table."""


class HeartbeatCheck:
    """Checks the process `pid`, which was started at `started_ns` (monotonic) to write `area`."""

    def __init__(self, area: str, pid: int, started_ns: int) -> None:
        self._area = area
        self._pid = pid
        self._started_ns = started_ns
        self._heartbeat_ns = self._cpu_ticks = 0
        self._silent = self._idle = self._stopped = 0

    def look(self) -> bool:
        """Check once; call this every `CHECK_SECONDS`. Returns whether the watcher is frozen.

        A watcher on standby, or one that does not write the area yet, is frozen only if it was stopped (SIGSTOP).
        """
        state = state_of(self._pid)
        self._stopped = self._stopped + 1 if state is not None and state.letter == "T" else 0
        heartbeat_ns = self._own_heartbeat_ns()
        cpu_ticks = state.cpu_ticks if state is not None else 0
        silent = heartbeat_ns != 0 and heartbeat_ns == self._heartbeat_ns
        self._silent = self._silent + 1 if silent else 0
        self._idle = self._idle + 1 if silent and cpu_ticks == self._cpu_ticks else 0
        self._heartbeat_ns, self._cpu_ticks = heartbeat_ns, cpu_ticks
        return max(self._stopped, self._idle) >= FROZEN_CHECKS or self._silent >= BUSY_CHECKS

    def _own_heartbeat_ns(self) -> int:
        """Return the area's heartbeat in monotonic nanoseconds if this watcher writes the area, else 0."""
        control = find_control(self._area)
        return control.heartbeat_ns if control and is_writer(control, self._pid, self._started_ns) else 0


def is_writer(control: ControlReader, pid: int | None, started_ns: int) -> bool:
    """Return whether the area's writer is the process `pid` that was started at `started_ns`.

    The start time is compared too, since containers that share an area may use the same process id.
    """
    return control.writer_pid == pid and control.writer_started_ns >= started_ns
