"""The options of a watcher, shared by `shmroute watch` and `shmroute run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from shmroute.cli import options
from shmroute.metadata.loader import MetadataLimits
from shmroute.metadata.template import DEFAULT_TEMPLATE
from shmroute.watcher.options import DEFAULT_SLICE_SELECTOR, WatchOptions

__all__ = ["watch_arguments", "watch_options"]

F = TypeVar("F", bound=Callable[..., Any])


def watch_options(function: F) -> F:
    """All options of `shmroute.watcher.assemble.WatchOptions`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def watch_arguments(context: click.Context) -> list[str]:
    """The options of `shmroute watch` that were given to this command, as its arguments; the area left out."""
    arguments: list[str] = []
    names = set(WatchOptions.__struct_fields__) - {"area"} | {"log_level", "log_format"}
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name not in names or value in (None, "", ()) or not isinstance(parameter, click.Option):
            continue
        if isinstance(value, bool):
            flags = parameter.opts if value else parameter.secondary_opts
            arguments += flags[-1:]
        else:
            for item in value if isinstance(value, tuple) else (value,):
                arguments += [parameter.opts[-1], str(item)]
    return arguments


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    options.area,
    options.namespaces,
    click.option(
        "-l",
        "--selector",
        envvar="SHMROUTE_SELECTOR",
        help="Label selector of the AppModels.  [default: iidp=iidp in a cluster, everything in a folder]",
    ),
    options.cluster,
    click.option(
        "--manifests",
        envvar="SHMROUTE_MANIFESTS",
        help="Watch a folder of manifests instead of a cluster.",
    ),
    click.option(
        "--resync",
        "resync_seconds",
        type=click.FloatRange(min=1.0),
        envvar="SHMROUTE_RESYNC",
        default=300.0,
        show_default=True,
        help="Seconds between handing every object to the handlers again; asks the API server nothing.",
    ),
    click.option(
        "--endpoints/--no-endpoints",
        envvar="SHMROUTE_ENDPOINTS",
        default=True,
        show_default=True,
        help="Follow EndpointSlices too.",
    ),
    click.option(
        "--slice-selector",
        envvar="SHMROUTE_SLICE_SELECTOR",
        default=DEFAULT_SLICE_SELECTOR,
        show_default=True,
        help="Label selector of the EndpointSlices, which carry the labels of their Service.",
    ),
    click.option(
        "--port",
        envvar="SHMROUTE_ENDPOINT_PORT",  # SHMROUTE_PORT is what Kubernetes sets for a Service named shmroute
        default="",
        help="Name or number of the apps' port, where an AppModel does not say.",
    ),
    click.option(
        "--redis",
        envvar="SHMROUTE_REDIS",
        help="Redis server with the models' metadata: redis://, rediss:// or unix:// URL.",
    ),
    click.option("--metadata", envvar="SHMROUTE_METADATA", help="Folder with the models' metadata, one file a key."),
    click.option(
        "--metadata-key",
        envvar="SHMROUTE_METADATA_KEY",
        default=DEFAULT_TEMPLATE,
        show_default=True,
        help="How a model's key is made, of {namespace}, {app}, {model} and {version}.",
    ),
    click.option(
        "--metadata-limit",
        type=click.IntRange(min=1),
        envvar="SHMROUTE_METADATA_LIMIT",
        default=MetadataLimits().value_bytes,
        show_default=True,
        help="Bytes; larger values are listed and not kept.",
    ),
    click.option(
        "--checkpoint",
        envvar="SHMROUTE_CHECKPOINT",
        help="Keep the routes in this file too, for a start while the API server is away.",
    ),
    click.option("--group", envvar="SHMROUTE_GROUP", help="Group that may read the area too (mode 0640)."),
)
