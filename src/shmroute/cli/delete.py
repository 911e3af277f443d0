"""`shmroute delete`: delete AppModels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shmroute.cli import options

if TYPE_CHECKING:
    from shmroute.kube.write import Written


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@options.filename
@options.namespace("Namespace of the NAMEs, and of manifests that name none.")
@options.cluster
@click.option("--ignore-not-found", is_flag=True, help="End with 0 if an AppModel is not there.")
def command(
    names: tuple[str, ...],
    files: tuple[str, ...],
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    ignore_not_found: bool,
) -> None:
    """Delete AppModels by their NAMEs (metadata.name), or those that manifests name.

    Ends with 5 if one of them is not there. One that a finalizer holds is served until it is gone.
    """
    from shmroute.kube.connection import Connection
    from shmroute.kube.kubeconfig import check_namespace
    from shmroute.kube.server_side_apply import Outcome
    from shmroute.kube.write import delete_appmodels, find_keys
    from shmroute.manifests import files as manifests
    from shmroute.resources.key import ObjectKey

    if bool(names) == bool(files):
        raise click.UsageError("give either NAMEs or -f FILE")
    if namespace is not None:
        check_namespace(namespace, "-n")
    connection = Connection(kubeconfig, context)
    where = namespace or connection.namespace
    keys = find_keys(manifests.read(files), namespace=where) if files else [ObjectKey(where, name) for name in names]
    written = delete_appmodels(connection, keys, report=_report)
    if not ignore_not_found and any(one.outcome is Outcome.NOT_FOUND for one in written):
        raise SystemExit(5)


def _report(written: Written) -> None:
    held = f": held by {', '.join(written.finalizers)}, and served until it is gone" if written.finalizers else ""
    click.echo(f"appmodel.iidp.com/{written.key.name} {written.outcome}{held}", err=written.outcome == "not found")
