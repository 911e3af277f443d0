"""Starts `shmroute keep` beside a server that has hooks. Called by `shmroute.contrib`, in the server's main process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from shmroute.supervise.lifeline import Lifeline
from shmroute.worker import environment

__all__ = ["start", "stop"]

STOP_SECONDS: Final = 5.0
"""A keeper takes at most 2 s for its watcher and as good as none for the area."""

_keepers: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""The keeper this process has started, by this process's id: a forked worker has none."""


def start() -> str:
    """Start a keeper, unless this process has one already.

    The watcher's options are environment variables. It ends when this process and all that are forked from it have
    gone, or at `stop`.

    Returns:
        The area, which is `SHMROUTE_AREA` or "default".
    """
    area = environment.area()
    if os.getpid() not in _keepers:
        lifeline = Lifeline()
        _keepers[os.getpid()] = subprocess.Popen(
            [sys.executable, "-m", "shmroute", "keep", "--area", area, "--lifeline", str(lifeline.watched)],
            stdin=subprocess.DEVNULL,
            pass_fds=(lifeline.watched,),
            process_group=0,
        )
        lifeline.close_watched()
    return area


def stop() -> None:
    """End the keeper this process has started, with its watcher and the area, and wait for it."""
    keeper = _keepers.pop(os.getpid(), None)
    if keeper is None:
        return
    keeper.terminate()
    try:
        keeper.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
