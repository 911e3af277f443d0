"""`shmroute keep`: a watcher, kept running until its lifeline ends. Started by the hooks in `shmroute.contrib`."""

from __future__ import annotations

import signal
import threading
from typing import Any

import click

from shmroute.cli.logs import log_options
from shmroute.cli.watching import watch_arguments, watch_options


@click.command(hidden=True)
@watch_options
@log_options
@click.option("--lifeline", type=int, required=True, help="The watched side of the pipe.")
def command(lifeline: int, **chosen: Any) -> None:
    """Keep a watcher running until nobody holds the other side of the lifeline, or SIGTERM."""
    from shmroute.supervise.keeper import TAKEOVER_SECONDS, Keeper
    from shmroute.supervise.lifeline import call_at_end

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    keeper = Keeper(chosen["area"], watch_arguments(click.get_current_context()), lifeline)
    keeper.start()
    call_at_end(lifeline, ended.set)
    while not ended.wait(1.0):
        pass
    keeper.stop()
    keeper.remove_area(TAKEOVER_SECONDS)
