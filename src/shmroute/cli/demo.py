"""`shmroute demo`: the main job on this machine."""

from __future__ import annotations

import click


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, envvar="SHMROUTE_DEMO_WORKERS")
@click.option(
    "--models", type=click.IntRange(500, 1_000_000), default=20_000, show_default=True, envvar="SHMROUTE_DEMO_MODELS"
)
@click.option("--keep", is_flag=True, envvar="SHMROUTE_DEMO_KEEP", help="Leave everything running until Ctrl-C.")
@click.option(
    "--folder", envvar="SHMROUTE_DEMO_FOLDER", help="Write the manifests there instead of a temporary folder."
)
def command(workers: int, models: int, keep: bool, folder: str | None) -> None:
    """Show the main job: a watcher, a gunicorn server, a model that moves, a rolling restart, a killed watcher.

    Needs no cluster; everything runs on loopback and ends by itself. On a terminal a table of the workers is alive.
    """
    from shmroute.demo.play import play
    from shmroute.demo.view import view

    play(view(), workers=workers, models=models, keep=keep, folder=folder)
