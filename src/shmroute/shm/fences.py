"""Memory fences for plain Python, which has none of its own.

CPython loads and stores an aligned word through a memoryview with a single instruction of the processor. x86-64 keeps
loads in order among themselves and stores among themselves; other processors do not. Taking and releasing a lock is a
full barrier on every processor that CPython runs on. The native look-up uses C's atomics instead.
"""

from __future__ import annotations

import os
import threading
from typing import Final

LOADS_IN_ORDER: Final = os.uname().machine in ("x86_64", "amd64", "i686", "i386")


def fence() -> None:
    """Make all earlier loads and stores visible to other processes before all later ones."""
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
    lock.release()


if LOADS_IN_ORDER:

    def fence_loads() -> None:
        """Keep earlier loads before later ones. This processor does so by itself."""
else:
    fence_loads = fence
