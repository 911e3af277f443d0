"""Start `shmroute keep` beside a server that has hooks. Called by `shmroute.contrib`, in the server's main process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from shmroute.supervise.lifeline import Lifeline
from shmroute.supervise.linux import require_linux
from shmroute.worker import environment

STOP_SECONDS: Final = 5.0
"""Seconds between SIGTERM and SIGKILL for `shmroute keep`, which ends its watcher within 2 s."""

_keepers: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""The `shmroute keep` that this process has started, by this process's id: a forked worker has started none."""


def start(group: str = "") -> str:
    """Start `shmroute keep`, unless this process has started it already.

    The watcher takes its options from environment variables. It ends when this process and all its forks have ended, or
    at `stop`.

    Args:
        group: name or number of the group that may read the area, for workers that run as another user.
            `SHMROUTE_GROUP` overrides it.

    Returns:
        The area, which is `SHMROUTE_AREA` or "default".

    Raises:
        ConfigError: this is not Linux.
    """
    require_linux("a server's hook")
    area = environment.area()
    if os.getpid() not in _keepers:
        lifeline = Lifeline()
        _keepers[os.getpid()] = subprocess.Popen(
            [sys.executable, "-m", "shmroute", "keep", "--area", area, "--lifeline", str(lifeline.watched)],
            stdin=subprocess.DEVNULL,
            env={"SHMROUTE_GROUP": group, **os.environ} if group else None,
            pass_fds=(lifeline.watched,),
            process_group=0,
        )
        lifeline.close_watched()
    return area


def stop() -> None:
    """End the `shmroute keep` of this process, with its watcher and the area, and wait for its end."""
    keeper = _keepers.pop(os.getpid(), None)
    if keeper is None:
        return
    keeper.terminate()
    try:
        keeper.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
