"""Rows about models and apps: MODEL, CONFLICT and APP.

Used by `shmroute.tables.tables` only. Knows nothing of endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmroute.resources.appmodel import AppModel
from shmroute.rows import ConflictRow, Kind, RowKey, encode
from shmroute.tables.conflicts import Claimants, Claims

__all__ = ["Routes"]

# As plain numbers: the garbage collector has to follow an enum's member, and so every key that holds one, which takes
# three times as long for a million keys.
_MODEL, _APP, _CONFLICT = int(Kind.MODEL), int(Kind.APP), int(Kind.CONFLICT)

_CACHED_APPMODELS = 1024  # whose models are at hand as a dict: bounds the memory of one pass over everything


class Routes:
    """The AppModels in force, by the models and the app they name."""

    def __init__(self) -> None:
        self._models = Claims()
        self._apps = Claims()

    @property
    def model_count(self) -> int:
        """Model names that some AppModel in force serves."""
        return len(self._models)

    @property
    def app_count(self) -> int:
        """App names that some AppModel in force names."""
        return len(self._apps)

    @property
    def conflict_count(self) -> int:
        """CONFLICT rows."""
        return self._models.conflicts

    def replace(self, old: AppModel | None, new: AppModel | None) -> None:
        """`old` is no longer in force, `new` is. Both are states of the same object where both are there."""
        alone: Claimants = (new,) if new is not None else ()
        if old is None:
            if new is not None:
                self._apps.add((new.app,), alone)
                self._models.add([model.name for model in new.models], alone)
            return
        if new is None or new.app != old.app:
            self._apps.replace(old.app, old, ())
        if new is None:
            for model in old.models:
                self._models.replace(model.name, old, ())
            return
        self._apps.replace(new.app, old if new.app == old.app else None, alone)
        self._replace_models(old, new, alone)

    def _replace_models(self, old: AppModel, new: AppModel, alone: Claimants) -> None:
        had = {model.name: model.version for model in old.models}
        same_app = (old.app, old.version, old.created) == (new.app, new.version, new.created)
        for model in new.models:
            version = had.pop(model.name, None)
            unchanged = same_app and version == model.version
            self._models.replace(model.name, old if version is not None else None, alone, visible=not unchanged)
        for name in had:
            self._models.replace(name, old, ())

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Rows that differ from what they were at the last call; None for a row that is gone."""
        versions = _Versions()
        claimants = self._models.claimants
        for name, before in self._models.take_touched().items():
            after = claimants(name)
            if after is before:
                continue
            row = _model_row(name, after, versions) if after else None
            if not before or row != _model_row(name, before, versions):
                yield (_MODEL, name), row
            if len(before) > 1 or len(after) > 1:
                conflicts = dict(_conflict_rows(name, after))
                for key, was in _conflict_rows(name, before):
                    if key not in conflicts:
                        yield key, None
                    elif conflicts[key] == was:
                        del conflicts[key]
                yield from conflicts.items()
        for name, before in self._apps.take_touched().items():
            after = self._apps.claimants(name)
            app_row = _app_row(after) if after else None
            if after is not before and (not before or app_row != _app_row(before)):
                yield (_APP, name), app_row

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """All rows as they are now."""
        versions = _Versions()
        for name, claimants in self._models.items():
            yield (_MODEL, name), _model_row(name, claimants, versions)
            if len(claimants) > 1:
                yield from _conflict_rows(name, claimants)
        for name, claimants in self._apps.items():
            yield (_APP, name), _app_row(claimants)


class _Versions:
    """The models of AppModels as dicts, for a pass that asks the same AppModels again and again."""

    def __init__(self) -> None:
        self._appmodel: AppModel | None = None
        self._models: dict[str, str] = {}
        self._known: dict[int, tuple[AppModel, dict[str, str]]] = {}

    def of(self, model: str, appmodel: AppModel) -> str:
        if appmodel is not self._appmodel:
            # By identity, as hashing an AppModel hashes all its models; the entry keeps the identity taken.
            known = self._known.get(id(appmodel))
            if known is None:
                if len(self._known) >= _CACHED_APPMODELS:
                    self._known.clear()
                known = (appmodel, {item.name: item.version for item in appmodel.models})
                self._known[id(appmodel)] = known
            self._appmodel, self._models = known
        return self._models[model]


# Rows are made of at least one claimant, as plain tuples: the wire form of `Route` and `App` is an array of their
# public fields.


def _model_row(name: str, claimants: Claimants, versions: _Versions) -> bytes:
    others: tuple[object, ...] = ()
    if len(claimants) > 1:
        seen = {claimants[0].key.namespace}
        winners: list[AppModel] = []
        for claimant in claimants:
            if claimant.key.namespace not in seen:
                seen.add(claimant.key.namespace)
                winners.append(claimant)
        others = tuple(_route(name, winner, versions, ()) for winner in winners)
    return encode(_route(name, claimants[0], versions, others))


def _route(name: str, appmodel: AppModel, versions: _Versions, others: tuple[object, ...]) -> tuple[object, ...]:
    key = appmodel.key
    version = versions.of(name, appmodel)
    return name, version, appmodel.app, appmodel.version, key.namespace, key.name, others


def _app_row(claimants: Claimants) -> bytes:
    return encode(
        tuple(
            (
                appmodel.app,
                appmodel.version,
                appmodel.key.namespace,
                appmodel.key.name,
                str(appmodel.service),
                tuple((model.name, model.version) for model in appmodel.models),
                appmodel.created,
                appmodel.port,
            )
            for appmodel in claimants
        )
    )


def _conflict_rows(model: str, claimants: Claimants) -> Iterator[tuple[RowKey, bytes]]:
    by_namespace: dict[str, list[str]] = {}
    for claimant in claimants:
        by_namespace.setdefault(claimant.key.namespace, []).append(claimant.key.name)
    for namespace, names in by_namespace.items():
        if len(names) > 1:
            row = ConflictRow(model=model, namespace=namespace, winner=names[0], losers=tuple(names[1:]))
            yield (_CONFLICT, f"{namespace}/{model}"), encode(row)
