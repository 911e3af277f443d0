"""`shmroute apply`: write AppModels, and their metadata before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from shmroute.cli import options


@click.command()
@click.argument("app", required=False)
@options.filename
@click.option("--version", "app_version", help="The app's version.")
@click.option("--model", "models", multiple=True, metavar="NAME=VERSION", help="A model of the app; repeat for each.")
@click.option("--name", help="The AppModel's name; the app's in lower case by default.")
@options.namespace("Namespace of the AppModel, or of manifests that name none.")
@options.cluster
@click.option(
    "--metadata",
    help="Metadata to write first: a JSON file {model: value}, or a folder with a file for each key or model.",
)
@options.redis
@options.metadata_key
def command(
    app: str | None,
    files: tuple[str, ...],
    app_version: str | None,
    models: tuple[str, ...],
    name: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    metadata: str | None,
    redis: str | None,
    metadata_key: str,
) -> None:
    """Create or update AppModels by server-side apply, as field manager appmodels-manager, forced.

    \b
    shmroute apply -f appmodels.yaml
    shmroute apply newSdkApp --version v1 --model model1=v-1 --model model2=v-2

    Everything is validated before anything is sent. The label iidp=iidp is added. With --metadata the values are
    written before the AppModel, so that nobody meets the new version with the old value.
    """
    from shmroute.kube.connection import Connection
    from shmroute.kube.write import apply_appmodels, appmodel_manifest
    from shmroute.manifests import files as manifests

    given: Sequence[manifests.Document | Mapping[str, Any]]
    if bool(files) == (app is not None):
        raise click.UsageError("give either -f FILE or APP with --version and --model")
    if app is None:
        if app_version or models or name:
            raise click.UsageError("--version, --model and --name go with APP, not with -f")
        given = manifests.read(files)
    else:
        if not app_version or not models:
            raise click.UsageError("APP needs --version and at least one --model NAME=VERSION")
        pairs = [_pair(model) for model in models]
        given = [appmodel_manifest(app, app_version, pairs, name=name)]
    before_send = _metadata_writer(metadata, redis, metadata_key) if metadata else None
    apply_appmodels(
        Connection(kubeconfig, context),
        given,
        namespace=namespace,
        before_send=before_send,
        report=lambda written: click.echo(f"appmodel.iidp.com/{written.key.name} {written.outcome}"),
    )


def _pair(model: str) -> tuple[str, str]:
    name, separator, version = model.rpartition("=")
    if not separator or not name or not version:
        raise click.UsageError(f"--model {model!r}: write NAME=VERSION")
    return name, version


def _metadata_writer(path: str, redis: str | None, metadata_key: str) -> Callable[[Sequence[Any]], None]:
    from shmroute.metadata.redis_store import RedisStore
    from shmroute.metadata.template import KeyTemplate
    from shmroute.metadata.write import MetadataFiles, check_metadata, write_metadata

    if not redis:
        raise click.UsageError("--metadata needs --redis")
    template = KeyTemplate(metadata_key)
    files = MetadataFiles(path)
    store = RedisStore(redis)

    def write(appmodels: Sequence[Any]) -> None:
        values = [(appmodel, files.values(appmodel, template)) for appmodel in appmodels]
        for appmodel, found in values:
            check_metadata(appmodel, found)
        for model in files.unused({model.name for appmodel in appmodels for model in appmodel.models}):
            click.echo(f"warning: {path} has a value for {model!r}, which no AppModel names", err=True)
        for appmodel, found in values:
            write_metadata(store, appmodel, found, template)

    return write
