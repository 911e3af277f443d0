"""`shmroute explain`: the reasons for a look-up's answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from shmroute.cli import options
from shmroute.cli.output import document, fitted, printable
from shmroute.errors import AreaUnavailable, InvalidObject, ModelNotFound
from shmroute.manifests import files
from shmroute.resources.registry import APPMODELS
from shmroute.rows import InvalidRow, Kind
from shmroute.shm.reader import RowReader
from shmroute.watcher.events import last_served
from shmroute.watcher.explain import explain, find_route
from shmroute.watcher.report import age_words, counted, health, onlooker, report, settings_text
from shmroute.worker.routes import Route

_INDENT: Final = 4

_MAX_NEAR: Final = 3
"""Maximum number of similar names that are suggested."""


@click.command()
@click.argument("model")
@options.namespace("Namespace whose route is meant.")
@options.area
@options.output("table", "json", "yaml")
def command(model: str, namespace: str | None, area: str, output: str) -> None:
    """Explain why MODEL is answered as it is.

    Shows which AppModel serves it and which others claim it, the versions, the state of the metadata and the source of
    the endpoints. Ends with 5 if no app serves the model, and shows what may be the reason.
    """
    with onlooker(area) as reader:
        about = report(reader)
    rows = RowReader(area)
    route = find_route(rows, model, namespace)
    if route is None:
        for line in _why_not(rows, model, namespace, about):
            click.echo(fitted(printable(line), _INDENT), err=True)
        raise ModelNotFound(model, namespace)
    facts = explain(rows, route, about)
    facts["file"] = _file_of(route, about["source"])
    if output == "table":
        for line in _lines(facts):
            click.echo(fitted(printable(line), _INDENT))
    else:
        click.echo(document(facts, output))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['model']} {facts['version']} is served by app {facts['app']} {facts['app_version']}"
    yield f"  because AppModel {facts['appmodel']} claims it{' in ' + facts['file'] if facts['file'] else ''}"
    if facts["waiting_appmodels"]:
        waiting = ", ".join(facts["waiting_appmodels"])
        yield f"  and {facts['claim']}; these would follow, in this order: {waiting}"
    if facts["other_namespaces"]:
        yield f"  other namespaces: {'; '.join(facts['other_namespaces'])}"
    if facts["deleting"]:
        yield f"  that AppModel is being deleted since {facts['deleting']}, and is served until it is gone"
    if len(facts["app_named_by"]) > 1:
        yield f"  app {facts['app']} is named by several AppModels: {', '.join(facts['app_named_by'])}"
    metadata = facts["metadata"]
    if metadata is None:
        yield "metadata: the watcher reads none"
    else:
        reason = f" ({metadata['reason']})" if metadata["reason"] else ""
        value = f"{metadata['bytes']} bytes of version {metadata['version']}" if metadata["version"] else "no value"
        state = f"{metadata['state']} for {age_words(metadata['for_seconds'])}"
        yield f"metadata: {state}{reason}, wanted version {metadata['wanted']}, {value}"
        if metadata["key"]:
            yield f"  key {metadata['key']} of {metadata['store']}"
    endpoints = facts["endpoints"]
    yield f"endpoints: Service {endpoints['service'] or 'unknown'}, {endpoints['state']}"
    if endpoints["advice"]:
        yield f"  {endpoints['advice']}"
    for name, label in (("ready", "ready"), ("not_ready", "not ready")):
        if endpoints[name]:
            yield f"  {label}: {', '.join(endpoints[name])}"
    yield f"from {settings_text(facts['source'])}"
    yield f"generation {facts['generation']}, {facts['state']}"


def _file_of(route: Route, source: dict[str, str] | None) -> str | None:
    """Return which file of a watched folder holds the route's AppModel now; None for a cluster's, or where none
    does."""
    if source is None or not Path(source["source"]).is_dir():
        return None
    try:
        documents = files.read([source["source"]])
    except InvalidObject:  # one that cannot be decoded; `shmroute check` says which
        return None
    for each in documents:
        metadata = each.manifest.get("metadata")
        if each.kind != APPMODELS.kind or not isinstance(metadata, dict):
            continue
        if (metadata.get("namespace", route.namespace), metadata.get("name")) == (route.namespace, route.appmodel):
            return each.where
    return None


def _until(area: str, model: str) -> Iterator[str]:
    """Yield which app served the model last, and until when, if the event log still holds it."""
    with suppress(AreaUnavailable):
        event = last_served(area, model)
        if event is not None:
            when = datetime.fromtimestamp(event["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            ago = age_words(max(0.0, time.time() - event["time"]))
            yield f"It was served until {when} ({ago} ago): version {event['before']}."


def _why_not(rows: RowReader, model: str, namespace: str | None, about: dict[str, Any]) -> Iterator[str]:
    """Yield possible reasons why no app serves the model."""
    route = find_route(rows, model, None)
    if route is not None:
        others = ", ".join(sorted({each.namespace for each in (route, *route.others)}))
        yield f"Model {model!r} is not served in namespace {namespace!r}, but in: {others}."
        return
    names = [key for _, key, _ in rows.rows(Kind.MODEL)]
    served = counted(len(names), "model")
    yield f"No AppModel claims {model!r}: area {about['area']!r} has {served}, {health(about)[1]}."
    yield f"They are read from {settings_text(about['source'])}."
    yield from _until(about["area"], model)
    near = get_close_matches(model, names, _MAX_NEAR)
    if near:
        yield f"Did you mean {' or '.join(map(repr, near))}?"
    for source in about["sources"]:
        if source["phase"] != "watching" or source["reason"]:
            yield f"The source {source['resource']} is {source['phase']}: {source['reason'] or 'no reason given'}."
    invalid = [msgspec.msgpack.decode(value, type=InvalidRow) for _, _, value in rows.rows(Kind.INVALID)]
    if invalid:
        yield "These objects were set aside:"
    for row in sorted(invalid, key=lambda row: (row.kind, row.namespace, row.name)):
        name = f"{row.namespace}/{row.name}" if row.namespace else row.name
        yield f"  {row.kind} {name}: {row.reason}"
