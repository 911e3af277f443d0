"""A user's handler, and the index as its owner uses it. Type-checked, never run."""

from __future__ import annotations

from shmroute.resources.appmodel import AppModel, InvalidAppModel, find_problems, parse_appmodel
from shmroute.rows import RowKey
from shmroute.sources.base import Event
from shmroute.tables import Announcement, Handler, Index


class Mirror:
    """Satisfies `Handler` without inheriting from it."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}

    def on_add(self, appmodel: AppModel) -> None:
        self.versions[str(appmodel.key)] = appmodel.version

    def on_update(self, old: AppModel, new: AppModel) -> None:
        if old.version != new.version:
            self.versions[str(new.key)] = new.version

    def on_delete(self, appmodel: AppModel) -> None:
        self.versions.pop(str(appmodel.key), None)


class Forgetful:
    """Lacks `on_delete`."""

    def on_add(self, appmodel: AppModel) -> None: ...

    def on_update(self, old: AppModel, new: AppModel) -> None: ...


handlers: list[Handler] = [Mirror()]
not_a_handler: Handler = Forgetful()  # type: ignore[assignment]


def owner(index: Index, event: Event) -> dict[RowKey, bytes | None]:
    announcements: list[Announcement] = index.apply(event)
    for announcement in announcements:
        old, new = announcement.old, announcement.new
        for handler in handlers:
            if isinstance(old, AppModel) and isinstance(new, AppModel):
                handler.on_update(old, new)
    counts: list[int] = [index.model_count, index.app_count, index.conflict_count, index.invalid_count]
    assert counts
    table: dict[RowKey, bytes] = dict(index.rows())
    return {**table, **index.take_changes()}


def parsing(body: bytes) -> str:
    match parse_appmodel(memoryview(body)):
        case AppModel() as valid:
            return valid.models[0].name
        case InvalidAppModel(reason=reason):
            return reason


def validating(manifest: dict[str, object]) -> list[str]:
    return find_problems(manifest) + find_problems(b"{}")
