"""`shmroute resolve`: looks models up in the area, as a worker does."""

from __future__ import annotations

from typing import Any, Final

import click

from shmroute.cli import options, output
from shmroute.errors import MetadataNotJson, ModelNotFound, NoEndpoints
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

ROUTE_COLUMNS: Final = {
    "model": "model",
    "version": "version",
    "app": "app",
    "app-version": "app_version",
    "namespace": "namespace",
}
"""Columns of a route: header -> field of `route_item`."""


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@options.namespace("The route in that namespace.")
@options.area
@click.option(
    "--wait",
    type=options.Seconds(),
    default=0.0,
    envvar="SHMROUTE_WAIT",
    help="Seconds to wait for the first snapshot.",
)
@click.option(
    "--max-age", type=options.Seconds(), envvar="SHMROUTE_MAX_AGE", help="Refuse routes older than so many seconds."
)
@options.output("table", "wide", "json", "yaml", "name")
def command(
    models: tuple[str, ...],
    namespace: str | None,
    area: str,
    wait: float,
    max_age: float | None,
    output: str,
) -> None:
    """Say which app serves each MODEL.

    Ends with 5 if one of them is not served, with 6 if the routes are older than --max-age, with 7 if there are
    none yet.
    """
    with Reader(area) as reader:
        if wait:
            reader.wait_ready(wait)
        found: list[Route] = []
        missing: ModelNotFound | None = None
        for model in models:
            try:
                found.append(reader.resolve(model, namespace=namespace, max_age=max_age))
            except ModelNotFound as error:
                click.echo(f"error: {error}", err=True)
                missing = error
        items = [item_of(route) for route in found]
    if len(models) == 1 and items and output in ("json", "yaml"):
        click.echo(_document(items[0], output))
    else:
        show(items, output)
    if missing is not None:
        raise SystemExit(5)


def route_item(route: Route) -> dict[str, Any]:
    """Return the fields of a route that `shmroute get models` shows too."""
    return {
        "model": route.model,
        "version": route.version,
        "app": route.app,
        "app_version": route.app_version,
        "namespace": route.namespace,
        "appmodel": route.appmodel,
    }


def item_of(route: Route) -> dict[str, Any]:
    """Return a route with its endpoints and metadata, of builtin types."""
    endpoints_state = "known"
    try:
        route.pick()
    except NoEndpoints as error:
        endpoints_state = error.reason
    own = route.metadata_version == route.version
    return {
        **route_item(route),
        "endpoints": [str(endpoint) for endpoint in route.endpoints],
        "endpoints_state": endpoints_state,
        "metadata": _last_metadata(route) if own else None,
        "last_metadata": _last_metadata(route),
        "metadata_version": route.metadata_version,
        "metadata_state": route.metadata_state,
    }


def _last_metadata(route: Route) -> Any:
    """Return the value of `metadata_version`, as text if it is not JSON."""
    try:
        return route.last_metadata
    except MetadataNotJson:
        return (route.last_metadata_bytes or b"").decode(errors="replace")


def show(items: list[dict[str, Any]], form: str) -> None:
    """Print routes. Where an app has no address, its column says why."""
    if form in ("table", "wide"):
        items = [{**item, "endpoints": item["endpoints"] or item["endpoints_state"]} for item in items]
    output.show(
        items,
        form,
        ROUTE_COLUMNS,
        {"appmodel": "appmodel", "endpoints": "endpoints", "metadata": "metadata_state"},
        "model",
    )


_document = output.document
