"""`shmroute resolve`: looks models up in the area, as a worker does."""

from __future__ import annotations

from typing import Any, Final

import click

from shmroute.cli import options
from shmroute.cli.output import document, show
from shmroute.errors import MetadataNotJson, ModelNotFound, NoEndpoints
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

ROUTE_COLUMNS: Final = "model version app app_version namespace"
"""Columns of a route: fields of `route_item`."""

_ROUTE_FIELDS: Final = ("model", "version", "app", "app_version", "namespace", "appmodel")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@options.namespace("Namespace whose route is meant.")
@options.area
@options.option("--wait", type=options.Seconds(), default=0.0, help="Seconds to wait for the first snapshot.")
@options.max_age
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
        click.echo(document(items[0], output))
    else:
        _show(items, output)
    if missing is not None:
        raise SystemExit(5)


def route_item(route: Route) -> dict[str, Any]:
    """Return the fields of a route that `shmroute get models` shows too."""
    return {field: getattr(route, field) for field in _ROUTE_FIELDS}


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


def _show(items: list[dict[str, Any]], form: str) -> None:
    """Print routes. Where an app has no address, its column says why."""
    if form in ("table", "wide"):
        items = [{**item, "endpoints": item["endpoints"] or item["endpoints_state"]} for item in items]
    show(items, form, "model", ROUTE_COLUMNS, "appmodel endpoints metadata=metadata_state")
