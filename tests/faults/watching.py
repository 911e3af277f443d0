"""`shmroute watch` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import bound
from tests.watcher.running import WAIT_SECONDS


@contextmanager
def watch_process(area: str, *options: str | Path, log_level: str = "error") -> Iterator[subprocess.Popen[bytes]]:
    """Run `shmroute watch` with these options, and end it at the end of the block."""
    command = [sys.executable, "-m", "shmroute", "watch", "--area", area, "--log-level", log_level, *options]
    process = subprocess.Popen(bound(command))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)
