"""Explains a look-up's answer from the rows. For `shmroute explain` and the status page."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from shmroute.errors import NO_ENDPOINTS_ADVICE
from shmroute.metadata.template import KeyTemplate
from shmroute.rows import App, ConflictRow, EndpointsRow, EndpointsState, Kind, MetadataRow, MetadataState
from shmroute.shm.reader import RowReader
from shmroute.watcher.report import health
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.routes import Route


def find_route(rows: RowReader, model: str, namespace: str | None) -> Route | None:
    """Return the model's route in that namespace, by default the winner; None if no app serves the model."""
    value = rows.get(Kind.MODEL, model)
    if value is None:
        return None
    winner = msgspec.msgpack.decode(value, type=Route)
    found = (each for each in (winner, *winner.others) if namespace in (None, each.namespace))
    return next(found, None)


def explain(rows: RowReader, route: Route, about: dict[str, Any]) -> dict[str, Any]:
    """Return the facts behind a route in builtin types. `about` is the result of `shmroute.watcher.report.report`."""
    key = f"{route.namespace}/{route.model}"
    conflict = _row(rows, Kind.CONFLICT, key, ConflictRow)
    metadata = _row(rows, Kind.METADATA, key, MetadataRow)
    endpoints = _row(rows, Kind.ENDPOINTS, f"{route.namespace}/{route.appmodel}", EndpointsRow)
    apps = _row(rows, Kind.APP, route.app, tuple[App, ...]) or ()
    return {
        "model": route.model,
        "version": route.version,
        "app": route.app,
        "app_version": route.app_version,
        "appmodel": f"{route.namespace}/{route.appmodel}",
        "waiting_appmodels": _waiting(conflict) if conflict else [],
        "claim": _claim(rows, conflict) if conflict else None,
        "other_namespaces": [f"{other.namespace}: {other.app} {other.version}" for other in route.others],
        "deleting": next((app.deleting for app in apps if _is_of(app, route)), "") or None,
        "app_named_by": [f"{app.namespace}/{app.appmodel}" for app in apps],
        "metadata": _metadata_facts(metadata, route, about["watcher"].get("metadata")),
        "endpoints": _endpoint_facts(endpoints),
        "generation": rows.generation,
        "age": about["age"],
        "source": about["source"],
        "state": health(about)[1],
    }


def _is_of(app: App, route: Route) -> bool:
    return (app.namespace, app.appmodel) == (route.namespace, route.appmodel)


def _waiting(conflict: ConflictRow) -> list[str]:
    """Return the other AppModels that claim the model. A row names only the first; a last entry counts the rest."""
    more = conflict.loser_count - len(conflict.losers)
    return [*conflict.losers, *([f"and {more} more"] if more > 0 else [])]


def _claim(rows: RowReader, conflict: ConflictRow) -> str:
    """Return, as a clause, the rule that put the winner before the first of the others."""
    ages = {
        app.appmodel: (app.created, app.first_seen)
        for _, _, value in rows.rows(Kind.APP)
        for app in msgspec.msgpack.decode(value, type=tuple[App, ...])
        if app.namespace == conflict.namespace
    }
    winner, other = (ages.get(name, ("", "")) for name in (conflict.winner, conflict.losers[0]))
    if winner[0] != other[0]:
        return "is the oldest" if winner[0] else "has no creation time, which counts as the oldest"
    return "was seen first" if winner != other else "comes first by name, since nothing says which of them is older"


def _metadata_facts(row: MetadataRow | None, route: Route, loader: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the state of the metadata. `loader` is the metadata part of the watcher's status."""
    if row is None:
        return None
    key = None
    if loader and loader["key_template"]:
        key = KeyTemplate(loader["key_template"]).key(route.namespace, route.app, route.model, route.version)
    return {
        "store": loader["store"] if loader else None,
        "key": key,
        "state": MetadataState(row.state).word,
        "version": row.version,
        "wanted": row.wanted,
        "bytes": len(row.value) if row.value is not None else 0,
        "for_seconds": max(0.0, time.time() - row.since),
        "reason": row.reason,
    }


def _endpoint_facts(row: EndpointsRow | None) -> dict[str, Any]:
    if row is None:
        return {"service": None, "state": EndpointsState.UNKNOWN.word, "advice": "", "ready": [], "not_ready": []}
    state = "known" if row.endpoints else EndpointsState(row.state).word
    advice = NO_ENDPOINTS_ADVICE.get(state, "").removeprefix(". ")
    state += f" ({row.detail})" if row.detail else ""
    return {
        "service": row.service,
        "state": state,
        "advice": advice,
        "ready": [str(Endpoint(each.host, each.port)) for each in row.endpoints if each.ready],
        "not_ready": [str(Endpoint(each.host, each.port)) for each in row.endpoints if not each.ready],
    }


def _row(rows: RowReader, kind: Kind, key: str, form: Any) -> Any:
    value = rows.get(kind, key)
    return msgspec.msgpack.decode(value, type=form) if value is not None else None
