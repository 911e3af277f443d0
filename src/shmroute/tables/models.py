"""Rows about models and apps: MODEL, CONFLICT and APP.

Used only by `shmroute.tables.appmodels`. It knows nothing about endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shmroute.resources.appmodel import AppModel
from shmroute.resources.appmodel_rules import MAX_MODELS
from shmroute.rows import App, ConflictRow, InvalidRow, Kind, RouteRow, RowKey, encode
from shmroute.tables.conflicts import Claim, Claimants, Claims, Contest, claim_of

# Plain numbers, because the garbage collector tracks an enum's member, and so every key that holds one: for a million
# keys this takes three times as long.
_MODEL, _APP, _CONFLICT, _INVALID = int(Kind.MODEL), int(Kind.APP), int(Kind.CONFLICT), int(Kind.INVALID)

MAX_LISTED_LOSERS: Final = 100
"""Maximum losers named in one CONFLICT row. With thousands, each change would write all names again."""

MAX_FOREIGN_APPMODELS: Final = 100
"""Maximum AppModels of one namespace in the APP row of an app that another namespace has named first: a tenant must not
make each change of another tenant's row expensive."""

MAX_FOREIGN_MODELS: Final = MAX_MODELS
"""Maximum models of these AppModels: one AppModel always fits."""

MAX_APP_MODELS: Final = 250_000
"""Maximum models in an APP row. With the longest usual names it then has some 30 MiB; a row may have 64 MiB."""

_CACHED_APPMODELS: Final = 1024
"""Maximum AppModels whose models are cached as a dict during one pass over all rows: limits its memory."""


class Routes:
    """The valid AppModels, by the models and the app they name, and the rows made of them."""

    def __init__(self) -> None:
        self._models = Claims()
        self._apps = Claims()
        self._given_out: dict[str, dict[RowKey, int]] = {}
        """Hashes of the MODEL and CONFLICT rows last returned, for each name with several claimants."""
        self._shortened: dict[str, bytes] = {}
        """The INVALID rows of apps whose APP row leaves AppModels out."""

    @property
    def shortened_count(self) -> int:
        """Number of APP rows that leave AppModels out, at the last `take_changes`."""
        return len(self._shortened)

    @property
    def model_count(self) -> int:
        """Number of model names in valid AppModels."""
        return len(self._models)

    @property
    def app_count(self) -> int:
        """Number of app names in valid AppModels."""
        return len(self._apps)

    @property
    def conflict_count(self) -> int:
        """Number of CONFLICT rows."""
        return self._models.conflicts

    def replace(self, old: AppModel | None, new: AppModel | None) -> None:
        """Replace `old` by `new`, two states of one object; None before it exists or after it is removed."""
        before = claim_of(old) if old is not None else None
        after = claim_of(new) if new is not None else None
        if before is None:
            if after is not None:
                self._apps.add((after.appmodel.app,), after)
                self._models.add([model.name for model in after.appmodel.models], after)
            return
        if after is None or after.appmodel.app != before.appmodel.app:
            self._apps.replace(before.appmodel.app, before, None)
        if after is None:
            for model in before.appmodel.models:
                self._models.replace(model.name, before, None)
            return
        same_app = after.appmodel.app == before.appmodel.app
        self._apps.replace(after.appmodel.app, before if same_app else None, after)
        self._replace_models(before, after)

    def _replace_models(self, before: Claim, after: Claim) -> None:
        had = {model.name: model.version for model in before.appmodel.models}
        # For speed: if the version of a model and all other fields of its row are unchanged, so is the row.
        same = before.rank == after.rank and route_row("", "", before.appmodel) == route_row("", "", after.appmodel)
        for model in after.appmodel.models:
            version = had.pop(model.name, None)
            unchanged = same and version == model.version
            self._models.replace(model.name, before if version is not None else None, after, visible=not unchanged)
        for name in had:
            self._models.replace(name, before, None)

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Yield the rows that have changed since the last call; None for a removed row."""
        versions = _Versions()
        for name, before in self._models.take_touched().items():
            after = self._models.claimants(name)
            if isinstance(before, Contest) or isinstance(after, Contest):
                yield from self._contested_changes(name, before, after, versions)
            elif after is not before:
                row = encode(versions.row(name, after.appmodel)) if after is not None else None
                if before is None or row != encode(versions.row(name, before.appmodel)):
                    yield (_MODEL, name), row
        for name, before in self._apps.take_touched().items():
            after = self._apps.claimants(name)
            if after is before and not isinstance(after, Contest):
                continue
            row, problem = _app_rows(name, after) if after is not None else (None, None)
            if not isinstance(before, Claim) or row != _app_rows(name, before)[0]:
                yield (_APP, name), row
            if problem != self._shortened.get(name):
                yield _shortened_key(name), problem
                if problem is None:
                    del self._shortened[name]
                else:
                    self._shortened[name] = problem

    def _contested_changes(
        self, name: str, before: Claimants, after: Claimants, versions: _Versions
    ) -> Iterator[tuple[RowKey, bytes | None]]:
        given = self._given_out.pop(name, {})
        if isinstance(before, Claim):
            given = {(_MODEL, name): hash(encode(versions.row(name, before.appmodel)))}
        now: dict[RowKey, int] = {}
        for key, row in _rows_of(name, after, versions) if after is not None else ():
            now[key] = hash(row)
            if given.pop(key, None) != now[key]:
                yield key, row
        for key in given:
            if key not in now:
                yield key, None
        if isinstance(after, Contest):
            self._given_out[name] = now

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Yield all current rows."""
        versions = _Versions()
        for name, claimants in self._models.items():
            yield from _rows_of(name, claimants, versions)
        for name, claimants in self._apps.items():
            row, problem = _app_rows(name, claimants)
            yield (_APP, name), row
            if problem is not None:
                yield _shortened_key(name), problem


def route_row(model: str, version: str, appmodel: AppModel, others: tuple[RouteRow, ...] = ()) -> RouteRow:
    """Return the row of a model that `appmodel` serves. Every MODEL row is made here."""
    key = appmodel.key
    return RouteRow(model, version, appmodel.app, appmodel.version, key.namespace, key.name, others)


def app_row(appmodel: AppModel) -> App:
    """Return one AppModel's part of an APP row. Every APP row is made here."""
    return App(
        app=appmodel.app,
        version=appmodel.version,
        namespace=appmodel.key.namespace,
        appmodel=appmodel.key.name,
        service=str(appmodel.service),
        models=tuple((model.name, model.version) for model in appmodel.models),
        created=appmodel.created,
        port=appmodel.port,
        first_seen=appmodel.first_seen,
        deleting=appmodel.deleting,
    )


class _Versions:
    """Cache of AppModels' models as dicts, for a pass that needs the same AppModels repeatedly."""

    def __init__(self) -> None:
        self._appmodel: AppModel | None = None
        self._models: dict[str, str] = {}
        self._known: dict[int, tuple[AppModel, dict[str, str]]] = {}

    def row(self, model: str, appmodel: AppModel, others: tuple[RouteRow, ...] = ()) -> RouteRow:
        """Return the row of a model that the AppModel names."""
        if appmodel is not self._appmodel:
            # By `id`, since hashing an AppModel hashes all its models; the entry keeps the object, and so its id.
            known = self._known.get(id(appmodel))
            if known is None:
                if len(self._known) >= _CACHED_APPMODELS:
                    self._known.clear()
                known = (appmodel, {item.name: item.version for item in appmodel.models})
                self._known[id(appmodel)] = known
            self._appmodel, self._models = known
        return route_row(model, self._models[model], appmodel, others)


def _rows_of(name: str, claimants: Claim | Contest, versions: _Versions) -> Iterator[tuple[RowKey, bytes]]:
    """Yield the MODEL row of a name and its CONFLICT rows."""
    if not isinstance(claimants, Contest):
        yield (_MODEL, name), encode(versions.row(name, claimants.appmodel))
        return
    first, *rest = claimants.winners
    others = tuple(versions.row(name, claim.appmodel) for claim in rest)
    yield (_MODEL, name), encode(versions.row(name, first.appmodel, others))
    for claims in claimants.conflicts():
        winner = claims[0]
        losers = tuple(claim.name for claim in claims[1 : MAX_LISTED_LOSERS + 1])
        row = ConflictRow(name, winner.namespace, winner.name, losers, len(claims) - 1)
        yield (_CONFLICT, f"{winner.namespace}/{name}"), encode(row)


def _shortened_key(app: str) -> RowKey:
    return _INVALID, f"App {app}"


def _app_rows(app: str, claimants: Claim | Contest) -> tuple[bytes, bytes | None]:
    """Return the APP row, and an INVALID row if AppModels had to be left out of it."""
    if not isinstance(claimants, Contest):
        return encode((app_row(claimants.appmodel),)), None
    claims = claimants.in_order()
    shown: list[App] = []
    models = 0
    taken: dict[str, tuple[int, int]] = {}
    for claim in claims:
        count = len(claim.appmodel.models)
        their_objects, their_models = taken.get(claim.namespace, (0, 0))
        foreign = claim.namespace != claims[0].namespace
        if foreign and (their_objects >= MAX_FOREIGN_APPMODELS or their_models + count > MAX_FOREIGN_MODELS):
            continue
        if models + count > MAX_APP_MODELS:
            continue
        taken[claim.namespace] = their_objects + 1, their_models + count
        models += count
        shown.append(app_row(claim.appmodel))
    if len(shown) == len(claims):
        return encode(shown), None
    reason = (
        f"{len(claims)} AppModels name this app, {len(claims) - len(shown)} of the younger ones are left out of its"
        " row: their models are served all the same"
    )
    return encode(shown), encode(InvalidRow("App", "", app, reason, last_good=True))
