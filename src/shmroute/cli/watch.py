"""`shmroute watch`: the watcher process."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any, Final

import click

from shmroute.cli.logs import log_options
from shmroute.cli.watch_options import misspelt_variables, watch_options

_log = logging.getLogger(__name__)

EXIT_SECONDS: Final = 2.0
"""Longest time from the end of the lifeline to the end of the parent: the kernel closes the files of a killed process
first and gives its children another parent later."""

STEP_SECONDS: Final = 0.01


@click.command()
@watch_options
@log_options
@click.option("--lifeline", type=int, hidden=True, help="End when nobody holds the other side of this pipe.")
@click.option("--keeper", type=int, hidden=True, help="Process id of whoever takes the area away after this one.")
@click.option("--refuse-other", is_flag=True, hidden=True, help="Do not stand by for a watcher of another source.")
def command(
    lifeline: int | None,
    keeper: int | None,
    listen: str | None,
    status_page: Any,
    show_values: bool,
    **chosen: Any,
) -> None:
    """Follow AppModels and publish routes for the workers of this pod.

    From a cluster (the pod's service account, or a kubeconfig), or from a folder of manifests (--manifests). A second
    watcher of the same area stands by and takes over when the first is gone. SIGTERM and Ctrl-C end it within a second;
    the routes stay in shared memory for whoever comes next.
    """
    from shmroute.supervise.cleanup import remove_area
    from shmroute.supervise.lifeline import call_at_end
    from shmroute.watcher.build import build
    from shmroute.watcher.options import WatchOptions

    for name, meant in misspelt_variables(click.get_current_context().command, os.environ):
        _log.warning("the environment variable %s is not read by anything: is %s meant?", name, meant)
    watcher = build(WatchOptions(**chosen))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    signal.signal(signal.SIGUSR1, lambda *_: watcher.audit())
    if listen is not None:
        from shmroute.watcher.http import serve

        serve(watcher, listen, status_page, show_values=show_values)
    ended = threading.Event()

    def end() -> None:
        ended.set()
        watcher.stop()

    if lifeline is not None:
        watcher.supervise("lifeline", lambda: call_at_end(lifeline, end))
    watcher.run()
    if keeper is not None and _is_gone(keeper, EXIT_SECONDS if ended.is_set() else 0.0):
        remove_area(watcher.area)  # it was killed, and nobody else is left to do it
    if watcher.failed:
        raise SystemExit(1)


def _is_gone(parent: int, seconds: float) -> bool:
    """Whether this process has lost its parent, or loses it within `seconds`."""
    deadline = time.monotonic() + seconds
    while os.getppid() == parent:
        if time.monotonic() >= deadline:
            return False
        time.sleep(STEP_SECONDS)
    return True
