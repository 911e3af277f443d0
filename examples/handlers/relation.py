"""Keeps app -> model -> metadata, as a controller with onAdd, onUpdate and onDelete does.

    shmroute watch --manifests manifests --handler relation:Relation

The key of a model's metadata is `<app>_<model>`. It is read again only when the model's version changes, or when it
was missing: a resync, which calls `on_update` with the same AppModel twice, costs no read for what is known.
"""

from __future__ import annotations

import os

import redis

from shmroute.watcher import AppModel


class Relation:
    """`apps[app][model]` is the model's metadata, None while its key is missing."""

    def __init__(self) -> None:
        self.apps: dict[str, dict[str, bytes | None]] = {}
        self._versions: dict[tuple[str, str], str] = {}
        self._redis = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=5)

    def on_add(self, appmodel: AppModel) -> None:
        print(f"add {appmodel.key.name}", flush=True)
        self._keep(appmodel)

    def on_update(self, old: AppModel, new: AppModel) -> None:
        print(f"{'resync' if new is old else 'update'} {new.key.name}", flush=True)
        if old.app != new.app:
            self._forget(old)
        self._keep(new)

    def on_delete(self, appmodel: AppModel) -> None:
        print(f"delete {appmodel.key.name}", flush=True)
        self._forget(appmodel)

    def _keep(self, appmodel: AppModel) -> None:
        models = self.apps.setdefault(appmodel.app, {})
        versions = {model.name: model.version for model in appmodel.models}
        for gone in models.keys() - versions.keys():
            del models[gone]
        for model, version in versions.items():
            known = self._versions.get((appmodel.app, model)) == version and models.get(model) is not None
            if not known:
                models[model] = self._redis.get(f"{appmodel.app}_{model}")
                self._versions[appmodel.app, model] = version
                print(f"read {appmodel.app}_{model} for {version}: {models[model]!r}", flush=True)

    def _forget(self, appmodel: AppModel) -> None:
        for model in self.apps.pop(appmodel.app, {}):
            self._versions.pop((appmodel.app, model), None)
