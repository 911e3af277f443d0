"""Whether a watcher is frozen, as its parent sees it: from looks at the heartbeat and at the process.

Looks count, not the time between them: after the whole pod was paused, or the laptop slept, nobody is taken for frozen
who merely had no time.
"""

from __future__ import annotations

from typing import Final

from shmroute.errors import ShmrouteError
from shmroute.shm.control import ControlReader
from shmroute.supervise.linux import state_of

__all__ = ["LOOK_SECONDS", "Pulse", "is_writer"]

LOOK_SECONDS: Final = 1.0
"""Between two looks, the same as between two heartbeats."""

FROZEN_LOOKS: Final = 5
"""So many looks without a heartbeat and without any use of the processor are no hiccup."""

BUSY_LOOKS: Final = 120
"""A watcher whose heart is silent while it computes is at work on a large table; after so many looks it never ends."""


class Pulse:
    """The pulse of process `pid`, which was started at `started_ns` (monotonic) to write `area`."""

    def __init__(self, area: str, pid: int, started_ns: int) -> None:
        self._area = area
        self._pid = pid
        self._started_ns = started_ns
        self._heartbeat_ns = self._cpu_ticks = 0
        self._silent = self._idle = self._stopped = 0

    def look(self) -> bool:
        """Look once, every `LOOK_SECONDS`. Returns whether the watcher is frozen.

        One that stands by, or has not come to take the area yet, is frozen only if it was stopped (SIGSTOP).
        """
        state = state_of(self._pid)
        self._stopped = self._stopped + 1 if state is not None and state.letter == "T" else 0
        heartbeat_ns = self._own_heartbeat_ns()
        cpu_ticks = state.cpu_ticks if state is not None else 0
        silent = heartbeat_ns != 0 and heartbeat_ns == self._heartbeat_ns
        self._silent = self._silent + 1 if silent else 0
        self._idle = self._idle + 1 if silent and cpu_ticks == self._cpu_ticks else 0
        self._heartbeat_ns, self._cpu_ticks = heartbeat_ns, cpu_ticks
        return max(self._stopped, self._idle) >= FROZEN_LOOKS or self._silent >= BUSY_LOOKS

    def _own_heartbeat_ns(self) -> int:
        """The area's heartbeat if it is this watcher's, else 0."""
        try:
            control = ControlReader(self._area)
        except (FileNotFoundError, ShmrouteError):
            return 0
        return control.heartbeat_ns if is_writer(control, self._pid, self._started_ns) else 0


def is_writer(control: ControlReader, pid: int | None, started_ns: int) -> bool:
    """Whether the area's writer is the process `pid` that was started at `started_ns`.

    Process ids do not compare across containers that share an area, so the start must fit too.
    """
    return control.writer_pid == pid and control.writer_started_ns >= started_ns
