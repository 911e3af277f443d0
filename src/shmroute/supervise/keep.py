"""Keep a watcher running as a child of a server that has hooks, and end with the server.

Called by `shmroute keep`, which `hooks` starts. It is a separate process, since the server neither reports the death
of such a child nor calls a hook when it is killed itself.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.lifeline import has_ended
from shmroute.supervise.restarter import Restarter
from shmroute.supervise.signals import Signals

_LIFELINE_SECONDS: Final = 0.25
"""Seconds between two checks of the lifeline: the watcher must end within 2 s of the server's last worker."""


def keep(area: str, watch_arguments: Sequence[str], lifeline: int) -> None:
    """Keep a watcher of `area` running until SIGTERM, SIGINT or the end of the lifeline."""
    signals = Signals((signal.SIGTERM, signal.SIGINT))
    restarter = Restarter(area, watch_arguments, signals, lifeline)
    try:
        while not has_ended(lifeline):
            restarter.turn()
            taken = signals.take(min(restarter.due_seconds, _LIFELINE_SECONDS))
            if taken is not None and taken.number != signal.SIGCHLD:
                break
    finally:
        restarter.stop()
        remove_area(area)
