"""`shmroute crd`: the CustomResourceDefinition."""

from __future__ import annotations

import click

from shmroute.cli import options


@click.group()
def command() -> None:
    """Print or install the CustomResourceDefinition of AppModel."""


@command.command("print")
def show() -> None:
    """Print the YAML."""
    from shmroute.kube.crd import crd_yaml

    click.echo(crd_yaml(), nl=False)


@command.command()
@options.cluster
@click.option("--timeout", type=options.Seconds(), default=30.0, help="Seconds to wait for Established.")
def install(kubeconfig: str | None, context: str | None, timeout: float) -> None:
    """Install or update it in a cluster, and wait until it is served. Doing so twice changes nothing."""
    from shmroute.kube.connection import Connection
    from shmroute.kube.crd import install_crd

    outcome = install_crd(Connection(kubeconfig, context), timeout_seconds=timeout)
    click.echo(f"customresourcedefinition.apiextensions.k8s.io/appmodels.iidp.com {outcome}")
