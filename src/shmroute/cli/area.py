"""`shmroute area`: the areas of this machine."""

from __future__ import annotations

import time
from typing import Any

import click

from shmroute.cli import options
from shmroute.cli.output import bytes_text, printable, show


@click.group()
def command() -> None:
    """List areas, or remove one that is no longer needed."""


@command.command("ls")
@options.output("table", "json", "yaml", "name")
def list_areas(output: str) -> None:
    """List the areas in the shared folder (/dev/shm, or SHMROUTE_DIR)."""
    from shmroute.shm.names import DIRECTORY, area_names

    items = [_item(name) for name in area_names()]
    show(items, output, "area", "area state generation memory watcher")
    if not items and output == "table":
        click.echo(f"No areas in {DIRECTORY}.", err=True)


@command.command("rm")
@click.argument("name")
def remove(name: str) -> None:
    """Remove the shared memory of area NAME.

    Refused while a watcher writes it or stands by for it. Workers that have it open keep the last state in memory, and
    find the next area of that name by themselves.
    """
    from shmroute.errors import AreaBusy, ShmrouteError
    from shmroute.shm.names import area_names
    from shmroute.supervise.cleanup import remove_unused_area

    if name not in area_names():
        click.echo(f"error: there is no area {printable(name)!r}; `shmroute area ls` lists them", err=True)
        raise SystemExit(5)
    try:
        removed = remove_unused_area(name)
    except AreaBusy as error:
        raise ShmrouteError(f"{error}: end that watcher first") from error
    if not removed:
        raise ShmrouteError(f"area {name!r} was not removed: a watcher stands by for it")
    click.echo(f"area {name} removed")


def _item(name: str) -> dict[str, Any]:
    from shmroute.errors import AreaUnreadable, NoAccess, NotReady
    from shmroute.shm.names import control_name
    from shmroute.shm.posix import area_bytes
    from shmroute.watcher.report import age_words, status_of
    from shmroute.watcher.status import ENDED, FROZEN_SECONDS

    size = area_bytes(name)
    item: dict[str, Any] = {"area": name, "bytes": size, "memory": bytes_text(size), "generation": 0}
    try:
        control, status = status_of(name)
    except NotReady:
        return {**item, "state": "incomplete", "watcher": f"{control_name(name)} is missing"}
    except AreaUnreadable as error:
        return {**item, "state": "unreadable", "watcher": error.problem}
    except NoAccess as error:
        return {**item, "state": "no access", "watcher": error.reason}
    heartbeat = (time.monotonic_ns() - control.heartbeat_ns) / 1e9
    ended = status is not None and status.role == ENDED
    state = "live" if heartbeat < FROZEN_SECONDS and not ended else "no watcher"
    watcher = f"pid {control.writer_pid}, heartbeat {age_words(heartbeat)} ago"
    return {**item, "state": state, "generation": control.generation, "watcher": watcher}
