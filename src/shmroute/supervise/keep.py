"""The child of a server that starts its watcher by hooks: keeps the watcher running, and ends with the server.

Called by `shmroute keep`, which `beside` starts. A process of its own, as the server neither says when a child dies
nor calls a hook when it is killed.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.lifeline import has_ended
from shmroute.supervise.restarter import Keeper
from shmroute.supervise.signals import Signals

__all__ = ["keep"]

_LIFELINE_SECONDS: Final = 0.25
"""How often the lifeline is looked at: the watcher must be gone within 2 s of the server's last worker."""


def keep(area: str, watch_arguments: Sequence[str], lifeline: int) -> None:
    """Keep a watcher of `area` running until SIGTERM, SIGINT, or the lifeline's end."""
    signals = Signals((signal.SIGTERM, signal.SIGINT))
    keeper = Keeper(area, watch_arguments, signals, lifeline)
    try:
        while not has_ended(lifeline):
            keeper.turn()
            taken = signals.take(min(keeper.due_seconds, _LIFELINE_SECONDS))
            if taken is not None and taken.number != signal.SIGCHLD:
                break
    finally:
        keeper.stop()
        remove_area(area)
