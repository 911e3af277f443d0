"""Memory fences for plain Python, which has none of its own.

CPython's loads and stores of aligned words through a memoryview are single instructions of the processor. x86-64 keeps
loads in order among themselves and stores among themselves; other processors do not. Taking and releasing a lock is a
full barrier on every processor that CPython runs on. The native look-up uses C's atomics instead.
"""

from __future__ import annotations

import os
import threading
from typing import Final

__all__ = ["fence", "fence_loads"]

_LOADS_IN_ORDER: Final = os.uname().machine in ("x86_64", "amd64", "i686", "i386")


def fence() -> None:
    """Order all loads and stores before against all after, as other processes see them."""
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
    lock.release()


if _LOADS_IN_ORDER:

    def fence_loads() -> None:
        """Order the loads before against those after: nothing to do on this processor."""
else:
    fence_loads = fence
