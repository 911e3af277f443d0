"""A pipe that signals the death of the last process that holds its write end, however that process died.

Nobody writes to it. The kernel closes the write end with its last holder, so no hook has to run: a watcher notices the
end of a SIGKILLed server's last worker.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

LOOK_MILLISECONDS: Final = 1_000
"""Longest single wait: no thread waits for ever."""


class Lifeline:
    """Both ends of the pipe, in the process that starts server and watcher.

    `watched`, the read end, goes to the watcher (or its parent); `held`, the write end, to every process that the
    watcher must outlive. Both are closed at an exec unless they are passed on.
    """

    def __init__(self) -> None:
        self.watched, self.held = os.pipe()

    def close_watched(self) -> None:
        """Close the watched end in this process; the child that inherited it watches."""
        os.close(self.watched)

    def release(self) -> None:
        """Close the held end in this process."""
        os.close(self.held)


def has_ended(watched: int) -> bool:
    """Return whether the last holder has ended."""
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    return bool(poll.poll(0))


def call_at_end(watched: int, action: Callable[[], None]) -> None:
    """Wait until the last holder has ended, then call `action`."""
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    while not poll.poll(LOOK_MILLISECONDS):
        pass
    action()
