"""Options that several commands share, and how an option gets its environment variable `SHMROUTE_*`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from shmroute.metadata.template import DEFAULT_TEMPLATE
from shmroute.worker.environment import DEFAULT_AREA

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A finite number of seconds, not below `min`. Refuses "nan" and "inf", which would never be reached."""

    def __init__(self, min: float = 0.0) -> None:  # noqa: A002 - click's name for it
        super().__init__(min=min)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raises `click.BadParameter`."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Make an option that has the environment variable of its name: `--max-age` has `SHMROUTE_MAX_AGE`."""
    long = next(name for name in names if name.startswith("--")).partition("/")[0]
    variable = f"SHMROUTE_{long[2:].replace('-', '_').upper()}"
    return click.option(*names, **{"envvar": variable, **attributes})


area = option("--area", default=DEFAULT_AREA, help="Name of the shared-memory area.")
all_namespaces = option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
filename = option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    help="YAML or JSON file with one or more AppModels, or a folder of them; - for standard input.",
)
table = option(
    "--table",
    multiple=True,
    metavar="NAME=RESOURCE",
    help="A table of whole objects, as in flags=configmaps.v1; repeat for several.",
)
tables = option("--tables", metavar="FILE", help="File that declares tables of any resource; see docs/tables.md.")
redis = option("--redis", help="Redis server with the models' metadata: redis://, rediss:// or unix:// URL.")
metadata_key = option(
    "--metadata-key",
    default=DEFAULT_TEMPLATE,
    help="How a model's key is made, of {namespace}, {app}, {model} and {version}.",
)
max_age = option("--max-age", type=Seconds(), help="End with 6 if the routes are older than this, in seconds.")


def output(*forms: str) -> Callable[[F], F]:
    """Make the option `-o`, with the forms that a command knows; the first is the default."""
    return option("-o", "--output", type=click.Choice(forms), default=forms[0], help="Form of the answer.")


def namespace(text: str) -> Callable[[F], F]:
    """Make the option `-n`, which refuses a second one: click would silently ignore the first."""
    return option("-n", "--namespace", metavar="TEXT", multiple=True, callback=_only_one, help=text)


def _only_one(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> str | None:
    if len(value) > 1:
        raise click.BadParameter("give one namespace, or -A for all", context, parameter)
    return value[0] if value else None


def namespaces(function: F) -> F:
    """Add the options `-n` and `-A`."""
    return namespace("One namespace.")(all_namespaces(function))


def cluster(function: F) -> F:
    """Add the options `--kubeconfig` and `--context`."""
    context = option("--context", help="Context of the kubeconfig; its current one by default.")
    text = "Path of a kubeconfig; by default KUBECONFIG, ~/.kube/config, or the pod's service account."
    return option("--kubeconfig", help=text)(context(function))


def one_namespace(namespace: str | None, all_namespaces: bool) -> str | None:
    """Return the namespace to restrict an answer to; None for all."""
    if namespace and all_namespaces:
        raise click.UsageError("-n and -A exclude each other")
    return namespace
