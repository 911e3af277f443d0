"""A pipe whose end comes when the last process that holds its other side has gone, however it died.

The side that is held is never written to. The kernel closes it with its last holder, so no hook has to run: this is
what tells a watcher that a SIGKILLed server's last worker is gone.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

__all__ = ["Lifeline", "call_at_end", "has_ended"]


class Lifeline:
    """Both ends of the pipe, in the process that starts server and watcher.

    `watched` goes to the watcher (or its keeper), `held` to every process the watcher shall outlive. Neither survives
    an exec by itself.
    """

    def __init__(self) -> None:
        self.watched, self.held = os.pipe()

    def close_watched(self) -> None:
        """Leave watching to the child that has inherited it."""
        os.close(self.watched)

    def release(self) -> None:
        """Hold on no longer, in this process."""
        os.close(self.held)


def has_ended(watched: int) -> bool:
    """Whether the last holder has gone."""
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    return bool(poll.poll(0))


def call_at_end(watched: int, action: Callable[[], None]) -> threading.Thread:
    """Call `action` once, from a thread of its own, when the last holder has gone."""

    def wait() -> None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        action()

    thread = threading.Thread(target=wait, name="lifeline", daemon=True)
    thread.start()
    return thread
