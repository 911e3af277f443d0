"""The command `shmroute`: answers go to standard output, everything else to standard error.

One module per command; it is imported when the command is called, so that `shmroute resolve` starts quickly.
Commands share `options` and `output`; those that start a watcher also `watch_options`, `watch_arguments` and `logs`.
`row_views` and `follow` belong to `get`. The hidden command `keep` is for hooks of servers.

Exit codes: 0 ok, 1 failure, 2 usage, 5 not found, 6 stale, 7 not ready. Never 3 or 4, at which gunicorn up to 23 stops
the whole server if a child of it ends so.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

import click

from shmroute import errors

__all__ = ["main"]

COMMANDS: Final = {
    "apply": "Write AppModels to a cluster by server-side apply.",
    "area": "List or remove areas of this machine.",
    "audit": "Compare the watcher's objects with its server now.",
    "check": "Validate manifests and tables files without a cluster.",
    "completion": "Print the completion of this command for bash, zsh or fish.",
    "crd": "Print or install the CustomResourceDefinition.",
    "delete": "Delete AppModels from a cluster.",
    "doctor": "Check what a watcher and its workers need here.",
    "events": "Show what changed when.",
    "explain": "Explain why a model is answered as it is.",
    "get": "List what the area holds: models, apps, endpoints, metadata, tables, conflicts, invalid objects, workers.",
    "rbac": "Print the rights that a watcher needs.",
    "resolve": "Look models up in the area, as a worker does.",
    "run": "Run a server's command with a watcher beside it.",
    "status": "Show the watcher's state and the age of the routes.",
    "wait": "Wait until the area holds a first snapshot.",
    "watch": "Follow AppModels and publish routes for the workers of this pod.",
}
"""Name and short help of each command; its code is `shmroute.cli.<name>:command`."""

_HIDDEN: Final = ("keep",)
"""Commands that only shmroute calls."""

_EXIT_CODES: Final[tuple[tuple[type[errors.ShmrouteError], int], ...]] = (
    (errors.ConfigError, 2),
    (errors.InvalidObject, 1),
    (errors.ModelNotFound, 5),
    (errors.AppNotFound, 5),
    (errors.TableNotFound, 5),
    (errors.StaleRoutes, 6),
    (errors.NotReady, 7),
)


def exit_code(error: errors.ShmrouteError) -> int:
    """Return the exit code for `error`, so that a script can tell what to do."""
    if isinstance(error, errors.ApiError) and error.status == 404:
        return 5
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


class _Commands(click.Group):
    """Imports a command's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS and cmd_name not in _HIDDEN:
            return None
        module = __import__(f"shmroute.cli.{cmd_name}", fromlist=["command"])
        command: click.Command = module.command
        _show_variables(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


def _show_variables(command: click.Command) -> None:
    """Make `--help` show the environment variable of each option."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            parameter.show_envvar = True
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _show_variables(each)


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "show_default": True,
        # What names no variable of its own has SHMROUTE_<COMMAND>_<OPTION>.
        "auto_envvar_prefix": "SHMROUTE",
    },
)
@click.version_option(package_name="shmroute", message="%(prog)s %(version)s", allow_from_autoenv=False)
def group() -> None:
    """Model -> app -> pod address, for every worker process of a pod.

    One watcher per pod (`shmroute watch`) keeps a snapshot of the AppModels in shared memory; workers look models up
    with `from shmroute import resolve`. Each option can be given as an environment variable too.
    """


def _report(error: errors.ShmrouteError) -> None:
    """Write the error and its notes: as a log line where the command logs, else as plain text."""
    from shmroute.cli.logs import is_configured
    from shmroute.cli.output import printable

    lines = [printable(str(error)), *map(printable, getattr(error, "__notes__", ()))]
    if isinstance(error, errors.NotReady):
        from shmroute.watcher.report import waiting_for

        table = error.table if isinstance(error, errors.TableNotReady) else ""
        lines += filter(None, [printable(waiting_for(error.area, table))])
    if is_configured():
        logging.getLogger("shmroute").error("%s", "; ".join(lines))
        return
    click.echo("\n".join([f"error: {lines[0]}", *lines[1:]]), err=True)


def _open_standard_streams() -> None:
    """Open the null device in place of each standard stream that was closed at the start.

    Python has None for such a stream, and the system gives its number to the next file or socket.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - it stays open


def main() -> None:
    """Run a command; turn errors into one line and an exit code."""
    _open_standard_streams()
    try:
        code = group.main(prog_name="shmroute", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except errors.ShmrouteError as error:
        _report(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
