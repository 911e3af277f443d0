"""`shmroute wait`: wait for the first snapshot; a start-up probe."""

from __future__ import annotations

import click

from shmroute.cli import options
from shmroute.worker.reader import Reader


@click.command()
@options.area
@click.option("--timeout", type=options.Seconds(), default=30.0, envvar="SHMROUTE_WAIT", help="Seconds to wait for it.")
def command(area: str, timeout: float) -> None:
    """Wait until the area holds a first snapshot. Ends with 7 if there is none in time."""
    with Reader(area) as reader:
        reader.wait_ready(timeout)
