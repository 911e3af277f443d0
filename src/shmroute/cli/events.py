"""`shmroute events`: prints the event log."""

from __future__ import annotations

import time
from itertools import filterfalse
from typing import Final

import click

from shmroute.cli import options
from shmroute.cli.output import document, fitted, printable
from shmroute.watcher.events import in_words, is_routine, parse_period, read, time_in_words
from shmroute.watcher.report import status_of

_INDENT: Final = len("00:00:00  ")


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_period(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("model", required=False)
@options.option("--since", callback=_seconds, metavar="TIME", help="Only the last TIME: 90s, 10m, 2h, 1d.")
@options.area
@options.output("table", "json", "yaml")
def command(model: str | None, since: float | None, area: str, output: str) -> None:
    """Show what changed when, the newest last. Times are UTC.

    With MODEL only its routes, metadata and conflicts, and the endpoints of the AppModels that have served it. The log
    holds the newest 1,024 events; a large change is shown by its first rows and a count. It outlives the watcher.
    -o json also has the steps of a source between its start and its watch.
    """
    status_of(area)  # raises where there is no area
    found = read(area, time.time() - since if since is not None else 0.0, model)
    if output != "table":
        click.echo(document({"items": found}, output))
        return
    for event in filterfalse(is_routine, found):
        click.echo(fitted(f"{time_in_words(event['time'])}  {printable(in_words(event))}", _INDENT))
    if not found:
        click.echo("No events.", err=True)
