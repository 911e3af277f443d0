"""Bounds on memory and threads of this process, for a fuzzer that runs for any time."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Final

GROWTH_BYTES: Final = 64 * 1024 * 1024
"""Maximum growth of resident memory after the first examples, in bytes."""

WARM_EXAMPLES: Final = 20
"""Number of examples before the first measurement: caches and pools are filled by then."""


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Bounds:
    """Resident memory and threads, compared with those after the first examples."""

    def __init__(self, spare_threads: int) -> None:
        self._spare_threads = spare_threads
        self._examples = 0
        self._bytes = self._threads = 0

    def check(self) -> None:
        """Check time and memory after each example."""
        self._examples += 1
        if self._examples == WARM_EXAMPLES:
            gc.collect()
            self._bytes, self._threads = resident_bytes(), threading.active_count()
        elif self._examples > WARM_EXAMPLES:
            grown = resident_bytes() - self._bytes
            assert grown < GROWTH_BYTES, f"{grown} bytes more than after {WARM_EXAMPLES} examples"
            alive = threading.active_count()
            assert alive <= self._threads + self._spare_threads, [thread.name for thread in threading.enumerate()]
