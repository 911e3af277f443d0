"""`shmroute keep`: a watcher, kept running until its lifeline ends. Started by the hooks in `shmroute.contrib`."""

from __future__ import annotations

from typing import Any

import click

from shmroute.cli.logs import log_options
from shmroute.cli.watch_arguments import watch_arguments
from shmroute.cli.watch_options import watch_options


@click.command(hidden=True)
@watch_options
@log_options
@click.option("--lifeline", type=int, required=True, help="The watched side of the pipe.")
def command(area: str, lifeline: int, **_: Any) -> None:
    """Keep a watcher running until nobody holds the other side of the lifeline, or SIGTERM."""
    from shmroute.supervise.keep import keep

    keep(area, watch_arguments(click.get_current_context()), lifeline)
