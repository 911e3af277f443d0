"""The options on a command line that are passed on to the watcher: for `shmroute run` and `shmroute keep`."""

from __future__ import annotations

import click
from click.core import ParameterSource

from shmroute.cli import watch


def watch_arguments(context: click.Context) -> list[str]:
    """Return the options of `shmroute watch` given on this command's line, without area and lifeline.

    Options from environment variables are not included: they are in the watcher's environment too, and a Redis URL
    may hold a password, which does not belong in a list of processes.
    """
    names = {parameter.name for parameter in watch.command.params} - {"area", "lifeline", "keeper"}
    arguments: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in names or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(value, tuple):
            arguments += [text for each in value for text in (parameter.opts[-1], str(each))]
        elif isinstance(value, bool):
            arguments += (parameter.opts if value else parameter.secondary_opts)[-1:]
        else:
            arguments += [parameter.opts[-1], str(value)]
    return arguments
