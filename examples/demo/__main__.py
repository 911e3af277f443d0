"""The options of the demo."""

from __future__ import annotations

import signal
import sys

import click

from shmroute.errors import ShmrouteError


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Processes of the server.")
@click.option(
    "--models", type=click.IntRange(500, 1_000_000), default=20_000, show_default=True, help="Models in the folder."
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option("--folder", help="Write the manifests to this folder instead of a temporary one.")
def main(workers: int, models: int, keep: bool, folder: str | None) -> None:
    """Show a watcher, a gunicorn server, a model that moves, a rolling restart and a killed watcher.

    Needs no cluster. Everything runs on loopback and ends by itself. On a terminal a table shows the workers live.
    """
    from examples.demo.play import play
    from examples.demo.view import view

    try:
        play(view(), workers=workers, models=models, keep=keep, folder=folder)
    except ShmrouteError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
