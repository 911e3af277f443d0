"""`shmroute demo`: the main job on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--models", type=click.IntRange(500, 1_000_000), default=20_000, show_default=True)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option("--folder", help="Write the manifests there instead of a temporary folder.")
def command(workers: int, models: int, keep: bool, folder: str | None) -> None:
    """Show the main job: a watcher, a gunicorn server, a model that moves, a rolling restart.

    Needs no cluster; everything runs on loopback and ends by itself.
    """
    from shmroute.demo.play import play

    play(_say(), workers=workers, models=models, keep=keep, folder=folder)


def _say() -> Callable[[str], None]:
    """Coloured lines on a terminal, plain ones elsewhere."""
    if not sys.stdout.isatty():
        return lambda line: click.echo(line)
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=True)

    def say(line: str) -> None:
        head, separator, rest = line.partition(" ")
        console.print(Text(f"{head}{separator}", style="bold cyan"), Text(rest), sep="")

    return say
