"""The options of a watcher, shared by `shmroute watch`, `shmroute run` and `shmroute keep`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import click

from shmroute.cli import options
from shmroute.cli.options import option
from shmroute.errors import ConfigError
from shmroute.metadata.loader import MetadataLimits
from shmroute.sources.kubernetes.timing import PROBE_SECONDS, PROBE_SECONDS_MAX, PROBE_SECONDS_MIN
from shmroute.watcher.options import DEFAULT_SLICE_SELECTOR, check_probe_seconds
from shmroute.watcher.room import SHARE_PERCENT

F = TypeVar("F", bound=Callable[..., Any])


_OF_A_SERVICE: Final = re.compile(r"SHMROUTE.*_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_.*)")
"""Matches variables that Kubernetes sets in every pod for a Service whose name begins with shmroute."""

_SIMILARITY: Final = 0.8
"""Least ratio of difflib, of the names behind SHMROUTE_: one letter too many, missing or changed in five."""


def misspelt_variables(command: click.Command, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that no option reads and that resembles an option's variable, and the latter."""
    known = {str(each.envvar).removeprefix("SHMROUTE_") for each in command.params if each.envvar}
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
    for each in reversed(_OPTIONS):
        function = each(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    options.area,
    options.all_namespaces,
    option(
        "-n",
        "--namespace",
        "namespaces",
        multiple=True,
        callback=namespaces,
        help="Namespace to watch; repeatable, or several separated by commas. "
        "[default: that of the kubeconfig's context or of the pod]",
    ),
    option(
        "-l",
        "--selector",
        help="Label selector of the AppModels.  [default: iidp=iidp in a cluster, everything in a folder]",
    ),
    options.cluster,
    option("--manifests", help="Watch a folder of manifests instead of a cluster."),
    option(
        "--resync",
        "resync_seconds",
        type=options.Seconds(min=1.0),
        default=300.0,
        help="Seconds between handing every object to the handlers again; asks the API server nothing.",
    ),
    option(
        "--handler",
        "handlers",
        multiple=True,
        metavar="[TABLE=]MODULE:NAME",
        help="Call this object's on_add, on_update and on_delete for each AppModel, or for each object of a declared "
        "table, and at each resync; repeat for several (in the variable: separated by spaces).",
    ),
    option(
        "--probe-seconds",
        default=f"{PROBE_SECONDS:g}",
        callback=probe_seconds,
        help=f"Longest time between two probes of the API server and the watch, in seconds: "
        f"{PROBE_SECONDS_MIN:g} to {PROBE_SECONDS_MAX:g}, or off.",
    ),
    option("--endpoints/--no-endpoints", default=True, help="Follow EndpointSlices too."),
    option(
        "--slice-selector",
        default=DEFAULT_SLICE_SELECTOR,
        help="Label selector of the EndpointSlices, which carry the labels of their Service.",
    ),
    option(
        "--port",
        envvar="SHMROUTE_ENDPOINT_PORT",  # SHMROUTE_PORT is what Kubernetes sets for a Service named shmroute
        default="",
        help="Name or number of the apps' port, where an AppModel does not say.",
    ),
    option(
        "--ip-family",
        type=click.Choice(("ipv4", "ipv6", "both")),
        default="ipv4",
        help="Family by which a pod with addresses of both is reached; both: each of its addresses counts.",
    ),
    option(
        "--special-addresses",
        is_flag=True,
        help="Take loopback, link-local and multicast addresses of EndpointSlices too; a folder's are always taken.",
    ),
    options.tables,
    options.table,
    options.redis,
    option("--metadata", help="Folder with the models' metadata, one file a key."),
    options.metadata_key,
    option(
        "--metadata-limit",
        type=click.IntRange(min=1),
        default=MetadataLimits().value_bytes,
        help="Largest value that is kept, in bytes; larger ones are only listed.",
    ),
    option(
        "--share",
        type=click.FloatRange(min=0.1, max=100.0),
        default=SHARE_PERCENT,
        help="Percentage of what the area may hold for the objects of one namespace, where several of a cluster are "
        "watched; the youngest beyond it are set aside. 100 sets no limit.",
    ),
    option("--checkpoint", help="Keep the routes in this file too, for a start while the API server is away."),
    option("--group", help="Group that may read the area too (mode 0640)."),
    option(
        "--listen",
        help="HOST:PORT or :PORT for /healthz, /readyz, /metrics and the status page; :PORT takes IPv4 and IPv6.",
    ),
    option(
        "--status-page",
        type=click.Choice(("loopback", "all", "off")),
        default="loopback",
        help="Who may see the status page and /api on that port; loopback includes `kubectl port-forward`.",
    ),
    option("--show-values", is_flag=True, help="Show metadata values on the status page and in /api."),
)
