"""Receive signals one at a time in a loop, instead of in handlers that interrupt it.

`sigtimedwait` also tells whether a signal came from a process or from the terminal, which sends it to the server too.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

_SI_USER: Final = 0
"""Largest `si_code` of a signal that a process has sent; the kernel's own codes are greater (sigaction(2))."""


class Taken(NamedTuple):
    """A received signal."""

    number: int
    from_terminal: bool
    """True if the kernel sent it to the whole foreground group (Ctrl-C, a hang-up, a new window size)."""


class Signals:
    """Blocks `numbers` and SIGCHLD in this process, and returns them from `take`.

    A signal that was ignored when the process started (`nohup`, a shell's background job) stays ignored. Children
    inherit the blocked mask unless they are started with `former_mask` (see `linux.spawn`).
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        handled = {number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._taken = handled | {signal.SIGCHLD}
        self.former_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)

    def take(self, seconds: float) -> Taken | None:
        """Return the next signal; None if there is none within `seconds`."""
        if sys.platform != "linux":  # `require_linux` has refused to begin
            return None
        info = signal.sigtimedwait(self._taken, max(0.0, seconds))
        return Taken(info.si_signo, info.si_code > _SI_USER) if info else None
