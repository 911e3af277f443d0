"""Rebuilds AppModels from the rows that a former watcher published."""

from __future__ import annotations

import msgspec

from shmroute.resources.appmodel import AppModel, ModelVersion
from shmroute.resources.key import ObjectKey
from shmroute.rows import App

_decode = msgspec.msgpack.Decoder(tuple[App, ...]).decode


def adopted_appmodels(row: bytes) -> tuple[AppModel, ...]:
    """Return the AppModels of an APP row; none if the row cannot be decoded."""
    try:
        apps = _decode(row)
    except msgspec.MsgspecError:
        return ()
    return tuple(_appmodel(app) for app in apps)


def _appmodel(app: App) -> AppModel:
    namespace, _, service = app.service.partition("/")
    return AppModel(
        key=ObjectKey(app.namespace, app.appmodel),
        created=app.created,
        resource_version="",
        app=app.app,
        version=app.version,
        models=tuple(ModelVersion(name, version) for name, version in app.models),
        service=ObjectKey(namespace, service),
        port=app.port,
        first_seen=app.first_seen,
        deleting=app.deleting,
    )
