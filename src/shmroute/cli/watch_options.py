"""The options of a watcher, shared by `shmroute watch`, `shmroute run` and `shmroute keep`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import click

from shmroute.cli import options
from shmroute.errors import ConfigError
from shmroute.metadata.loader import MetadataLimits
from shmroute.metadata.template import DEFAULT_TEMPLATE
from shmroute.watcher.options import (
    DEFAULT_SLICE_SELECTOR,
    PROBE_SECONDS,
    PROBE_SECONDS_MAX,
    PROBE_SECONDS_MIN,
    SHARE_PERCENT,
    check_probe_seconds,
)

__all__ = ["misspelt_variables", "watch_options"]

F = TypeVar("F", bound=Callable[..., Any])


_OF_A_SERVICE: Final = re.compile(r"SHMROUTE.*_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_.*)")
"""Matches variables that Kubernetes sets in every pod for a Service whose name begins with shmroute."""

_SIMILARITY: Final = 0.8
"""Least ratio of difflib, of the names behind SHMROUTE_: one letter too many, missing or changed in five."""


def misspelt_variables(command: click.Command, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that no option reads and that resembles an option's variable, and the latter."""
    known = {str(option.envvar).removeprefix("SHMROUTE_") for option in command.params if option.envvar}
    for name in sorted(names):
        rest = name.removeprefix("SHMROUTE_")
        if rest == name or rest in known or _OF_A_SERVICE.fullmatch(name):
            continue
        for near in get_close_matches(rest, sorted(known), 1, _SIMILARITY):
            yield name, f"SHMROUTE_{near}"


def probe_seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """Return the probe period of the option's text; 0 for none."""
    try:
        return 0.0 if value == "off" else check_probe_seconds(float(value))
    except (ValueError, ConfigError) as error:
        limits = f"from {PROBE_SECONDS_MIN:g} to {PROBE_SECONDS_MAX:g}"
        raise click.BadParameter(f"{value!r} is not a number {limits}, or off") from error


def namespaces(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names; one value may hold several, separated by commas."""
    return tuple(name for value in values for name in value.split(","))


def watch_options(function: F) -> F:
    """Add all options of `shmroute.watcher.options.WatchOptions` that users give, and `--listen`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    options.area,
    options.all_namespaces,
    click.option(
        "-n",
        "--namespace",
        "namespaces",
        multiple=True,
        envvar="SHMROUTE_NAMESPACE",
        callback=namespaces,
        help="Namespace to watch; repeatable, or several separated by commas. "
        "[default: that of the kubeconfig's context or of the pod]",
    ),
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
        type=options.Seconds(min=1.0),
        envvar="SHMROUTE_RESYNC",
        default=300.0,
        show_default=True,
        help="Seconds between handing every object to the handlers again; asks the API server nothing.",
    ),
    click.option(
        "--handler",
        "handlers",
        multiple=True,
        metavar="[TABLE=]MODULE:NAME",
        envvar="SHMROUTE_HANDLER",
        help="Call this object's on_add, on_update and on_delete for each AppModel, or for each object of a declared "
        "table, and at each resync; repeat for several (in the variable: separated by spaces).",
    ),
    click.option(
        "--probe-seconds",
        envvar="SHMROUTE_PROBE_SECONDS",
        default=f"{PROBE_SECONDS:g}",
        callback=probe_seconds,
        show_default=True,
        help=f"Longest time between two looks at whether API server and watch are alive, "
        f"{PROBE_SECONDS_MIN:g} to {PROBE_SECONDS_MAX:g}, or off.",
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
        "--ip-family",
        envvar="SHMROUTE_IP_FAMILY",
        type=click.Choice(("ipv4", "ipv6", "both")),
        default="ipv4",
        show_default=True,
        help="Family by which a pod with addresses of both is reached; both: each of its addresses counts.",
    ),
    click.option(
        "--special-addresses",
        envvar="SHMROUTE_SPECIAL_ADDRESSES",
        is_flag=True,
        help="Take loopback, link-local and multicast addresses of EndpointSlices too; a folder's are always taken.",
    ),
    click.option(
        "--tables",
        envvar="SHMROUTE_TABLES",
        metavar="FILE",
        help="File that declares tables of any resource; see docs/tables.md.",
    ),
    click.option(
        "--table",
        multiple=True,
        envvar="SHMROUTE_TABLE",
        metavar="NAME=RESOURCE",
        help="A table of whole objects, as in flags=configmaps.v1; repeat for several.",
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
        "--share",
        type=click.FloatRange(min=0.1, max=100.0),
        envvar="SHMROUTE_SHARE",
        default=SHARE_PERCENT,
        show_default=True,
        help="Percentage of what the area may hold for the objects of one namespace, where several of a cluster are "
        "watched; the youngest beyond it are set aside. 100 sets no limit.",
    ),
    click.option(
        "--checkpoint",
        envvar="SHMROUTE_CHECKPOINT",
        help="Keep the routes in this file too, for a start while the API server is away.",
    ),
    click.option("--group", envvar="SHMROUTE_GROUP", help="Group that may read the area too (mode 0640)."),
    click.option(
        "--listen",
        envvar="SHMROUTE_LISTEN",
        help="HOST:PORT or :PORT for /healthz, /readyz, /metrics and the status page; :PORT takes IPv4 and IPv6.",
    ),
    click.option(
        "--status-page",
        envvar="SHMROUTE_STATUS_PAGE",
        type=click.Choice(("loopback", "all", "off")),
        default="loopback",
        show_default=True,
        help="Who may see the status page and /api on that port; loopback includes `kubectl port-forward`.",
    ),
    click.option(
        "--show-values",
        is_flag=True,
        envvar="SHMROUTE_SHOW_VALUES",
        help="Show metadata values on the status page and in /api.",
    ),
)
