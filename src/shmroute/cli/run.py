"""`shmroute run`: a server's command with a watcher beside it."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from shmroute.cli.logs import log_options
from shmroute.cli.watching import watch_arguments, watch_options


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@watch_options
@log_options
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0.0),
    default=30.0,
    show_default=True,
    envvar="SHMROUTE_WAIT",
    help="Seconds to wait for the first snapshot before the command starts.",
)
@click.argument("command", nargs=-1, required=True, metavar="-- CMD...")
def command(wait_seconds: float, command: tuple[str, ...], **chosen: Any) -> None:
    """Run CMD with a watcher beside it, and end with its exit code.

    Starts the watcher, waits for the first snapshot, runs CMD with SHMROUTE_AREA set, forwards signals to it, starts a
    dead or frozen watcher again, and leaves nothing behind. Fit to be process 1 of a container.
    """
    from shmroute.supervise.run import run

    context = click.get_current_context()
    given = context.get_parameter_source("area") is not click.core.ParameterSource.DEFAULT
    area = chosen["area"] if given else f"run-{os.getpid()}"
    sys.exit(run(area, watch_arguments(context), command, wait_seconds, shared=given))
