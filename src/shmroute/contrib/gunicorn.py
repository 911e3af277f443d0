"""Hooks for gunicorn: a watcher that lives as long as the server's last worker.

In `gunicorn.conf.py`:

    from shmroute.contrib.gunicorn import on_exit, post_fork, when_ready

The watcher's options are environment variables (`SHMROUTE_MANIFESTS`, `SHMROUTE_NAMESPACE` and so on, as listed by
`shmroute watch --help`). The watcher is started after the bind and before the first worker, in a process group of
its own; workers wait up to `SHMROUTE_WAIT` seconds (10 unless set) for the first snapshot.

State lives in this module, not in the configuration file, which SIGHUP runs anew. During a binary upgrade (USR2) the
new master's watcher stands by and takes the area over.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import Any, Final

from shmroute.client import attach
from shmroute.errors import ShmrouteError
from shmroute.supervise.lifeline import Lifeline

__all__ = ["on_exit", "post_fork", "when_ready"]

DEFAULT_WAIT_SECONDS: Final = "10"

_keepers: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""The keeper this process started, by this process's id: a forked worker has none."""


def when_ready(server: Any) -> None:
    """Start the watcher. Called by the arbiter once it listens."""
    if os.getpid() in _keepers:
        return
    area = os.environ.setdefault("SHMROUTE_AREA", f"gunicorn-{os.getpid()}")
    os.environ.setdefault("SHMROUTE_WAIT", DEFAULT_WAIT_SECONDS)
    lifeline = Lifeline()
    _keepers[os.getpid()] = subprocess.Popen(
        [sys.executable, "-m", "shmroute", "keep", "--area", area, "--lifeline", str(lifeline.watched)],
        stdin=subprocess.DEVNULL,
        pass_fds=(lifeline.watched,),
        process_group=0,
    )
    lifeline.close_watched()
    server.log.info("shmroute: watcher of area %s started", area)


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """Attach in the worker before its first request, if there is a snapshot already."""
    with suppress(ShmrouteError):
        attach()


def on_exit(server: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """End the watcher. Where this never runs (SIGKILL), the lifeline does."""
    keeper = _keepers.pop(os.getpid(), None)
    if keeper is not None:
        keeper.terminate()
