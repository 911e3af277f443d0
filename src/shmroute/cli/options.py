"""Options that several commands share, each also readable from an environment variable `SHMROUTE_*`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from shmroute.worker.environment import DEFAULT_AREA

__all__ = ["Seconds", "all_namespaces", "area", "cluster", "filename", "namespace", "namespaces", "output"]

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


def area(function: F) -> F:
    """Add the option `--area`."""
    return click.option(
        "--area",
        envvar="SHMROUTE_AREA",
        default=DEFAULT_AREA,
        show_default=True,
        help="Name of the shared-memory area.",
    )(function)


def output(*forms: str) -> Callable[[F], F]:
    """Add the option `-o`, with the forms that a command knows; the first is the default."""
    return click.option(
        "-o",
        "--output",
        envvar="SHMROUTE_OUTPUT",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        help="Form of the answer.",
    )


def all_namespaces(function: F) -> F:
    """Add the option `-A`."""
    return click.option(
        "-A",
        "--all-namespaces",
        is_flag=True,
        envvar="SHMROUTE_ALL_NAMESPACES",
        help="All namespaces.",
    )(function)


def namespaces(function: F) -> F:
    """Add the options `-n` and `-A`."""
    return namespace("One namespace.")(all_namespaces(function))


def namespace(text: str) -> Callable[[F], F]:
    """Add the option `-n` and refuse a second one: click would silently ignore the first."""
    return click.option(
        "-n",
        "--namespace",
        envvar="SHMROUTE_NAMESPACE",
        metavar="TEXT",
        multiple=True,
        callback=_only_one,
        help=text,
    )


def _only_one(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> str | None:
    if len(value) > 1:
        raise click.BadParameter("give one namespace, or -A for all", context, parameter)
    return value[0] if value else None


def cluster(function: F) -> F:
    """Add the options `--kubeconfig` and `--context`."""
    function = click.option(
        "--context",
        envvar="SHMROUTE_CONTEXT",
        help="Context of the kubeconfig; its current one by default.",
    )(function)
    return click.option(
        "--kubeconfig",
        envvar="SHMROUTE_KUBECONFIG",
        help="Path of a kubeconfig; by default KUBECONFIG, ~/.kube/config, or the pod's service account.",
    )(function)


def filename(function: F) -> F:
    """Add the option `-f`."""
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        envvar="SHMROUTE_FILENAME",
        help="YAML or JSON file with one or more AppModels, or a folder of them; - for standard input.",
    )(function)


def one_namespace(namespace: str | None, all_namespaces: bool) -> str | None:
    """Return the namespace to restrict an answer to; None for all."""
    if namespace and all_namespaces:
        raise click.UsageError("-n and -A exclude each other")
    return namespace
