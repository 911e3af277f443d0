"""`shmroute run`: a server's command with a watcher beside it."""

from __future__ import annotations

import sys
from typing import Any

import click

from shmroute.cli import options
from shmroute.cli.logs import log_options
from shmroute.cli.watch_arguments import watch_arguments
from shmroute.cli.watch_options import watch_options


@click.command(context_settings={"allow_interspersed_args": False})
@watch_options
@log_options
@options.option(
    "--wait",
    "wait_seconds",
    type=options.Seconds(),
    default=30.0,
    help="Seconds to wait for the first snapshot before the command starts.",
)
@click.argument("command", nargs=-1, required=True, metavar="-- CMD...")
def command(area: str, wait_seconds: float, command: tuple[str, ...], **_: Any) -> None:
    """Run CMD with a watcher beside it, and end with its exit code.

    Starts the watcher, waits for the first snapshot, runs CMD with SHMROUTE_AREA set, forwards signals to it, starts a
    dead or frozen watcher again, and leaves nothing behind. Fit to be process 1 of a container. CMD must stay in the
    foreground: what it leaves running when it ends is ended too.

    Two of them on one machine share an area if they watch the same source; otherwise give each its own --area.
    """
    from shmroute.supervise.linux import require_linux
    from shmroute.supervise.run import run

    require_linux("shmroute run")
    sys.exit(run(area, watch_arguments(click.get_current_context()), command, wait_seconds))
