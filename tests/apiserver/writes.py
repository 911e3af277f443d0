"""Creating, applying, replacing, patching and deleting objects, as the API server does it.

Called by the HTTP routes and by the direct control of a test; both see the same rules. Takes
decoded objects, never requests.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from . import managed, merging, status
from .checks import check, check_typed, pruned
from .definitions import complete_definition
from .encoding import Object, dumps_sorted
from .kinds import CUSTOM_RESOURCE_DEFINITIONS, Kind
from .status import ApiError, bad_request
from .store import Item, Store, Table, object_key

#: What stays as it is, whatever an update says.
_IDENTITY = ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp")


@dataclass
class Outcome:
    """The result of a write: the HTTP code, the current object, warnings for the client."""

    code: int
    item: Item
    warnings: list[str] = field(default_factory=list)
    gone: bool = False


@dataclass(frozen=True)
class Options:
    """The options in the query of a write."""

    manager: str = "unknown"
    force: bool = False
    dry_run: bool = False
    strict: bool = False
    #: The version that the client writes in, for managedFields; "" is the stored one.
    api_version: str = ""


class Writer:
    """Writes to one store. `clock` and `new_uid` may be replaced by a test."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.new_uid: Callable[[], str] = lambda: str(uuid.uuid4())
        #: Called after a commit, under the lock, with the table and the object's key.
        self.committed: Callable[[Table, str], None] = lambda _table, _key: None
        #: Called before an object is deleted, under the lock; returns whether it goes later, by itself.
        self.deleting: Callable[[Table, str], bool] = lambda _table, _key: False

    def now(self) -> str:
        return self.clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def create(self, table: Table, obj: Object, namespace: str, options: Options) -> Outcome:
        kind = table.kind
        new = self._incoming(kind, obj, namespace)
        metadata = new["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + self.new_uid()[:5]
        name = metadata.get("name", "")
        if table.terminating:
            raise status.terminating(kind.group, kind.plural, name)
        new, warnings = pruned(kind, new, options.strict)
        check(kind, name, new)
        with self.store.lock:
            if object_key(metadata.get("namespace", ""), name) in table.items:
                raise status.already_exists(kind.group, kind.plural, name)
            return self._update(table, None, new, options, warnings)

    def replace(self, table: Table, obj: Object, namespace: str, name: str, options: Options) -> Outcome:
        kind = table.kind
        new = self._incoming(kind, obj, namespace)
        if new["metadata"].get("name") != name:
            raise _other_name(new["metadata"].get("name", ""), name)
        with self.store.lock:
            before = self._existing(table, namespace, name)
            version = new["metadata"].get("resourceVersion")
            if not version and kind.custom:
                text = 'Invalid value: "": must be specified for an update'
                cause = ("metadata.resourceVersion", "FieldValueInvalid", text)
                raise status.invalid(kind.group, kind.plural, name, [cause])
            if version and version != str(before.revision):
                raise status.modified(kind.group, kind.plural, name)
            new, warnings = pruned(kind, new, options.strict)
            check(kind, name, new)
            return self._update(table, before, new, options, warnings)

    def patch(
        self,
        table: Table,
        change: Callable[[Object], Object],
        namespace: str,
        name: str,
        options: Options,
    ) -> Outcome:
        """Return a merge patch or JSON patch: change makes the new object from the present one."""
        kind = table.kind
        with self.store.lock:
            before = self._existing(table, namespace, name)
            new = self._incoming(kind, change(before.decode()), namespace)
            version = new["metadata"].get("resourceVersion")
            if version and version != str(before.revision):
                raise status.modified(kind.group, kind.plural, name)
            new, warnings = pruned(kind, new, options.strict)
            check(kind, name, new)
            return self._update(table, before, new, options, warnings)

    def apply(self, table: Table, config: Object, namespace: str, name: str, options: Options) -> Outcome:
        kind = table.kind
        config = self._incoming(kind, config, namespace)
        metadata = config["metadata"]
        if metadata.setdefault("name", name) != name:
            raise _other_name(metadata["name"], name)
        if metadata.pop("managedFields", None):
            raise bad_request("metadata.managedFields must be nil")
        check_typed(kind, config, namespace, name)
        with self.store.lock:
            before = table.items.get(object_key(namespace, name))
            version = metadata.pop("resourceVersion", None)
            if version and (before is None or version != str(before.revision)):
                raise status.modified(kind.group, kind.plural, name)
            live = before.decode() if before else {"metadata": {}}
            managers = managed.read(live)
            mine = managed.Manager(
                options.manager, "Apply", options.api_version or kind.api_version, managed.NOTHING, ""
            )
            others = [each for each in managers if each.identity != mine.identity]
            own = next((each for each in managers if each.identity == mine.identity), None)
            mine.fields = _countable(kind, managed.applied_fields(kind, config))
            mine.time = self.now()
            new: Object = merging.merge_applied(live, config, (), kind.associative)
            if own:
                owned = managed.NOTHING.union(*(each.fields for each in others))
                merging.remove_abandoned(new, own.fields - mine.fields, owned)
            new = _defaulted(kind, live, new)
            changes = managed.compare(kind, live, new)
            if own and not (changes.added or changes.removed or changes.modified):
                mine.time = own.time  # what changes nothing is not dated anew: that could reorder managers
            touched = _countable(kind, changes.added | changes.modified)
            found = [(each, each.fields & touched) for each in others if each.fields & touched]
            if found and not options.force:
                raise managed.conflict(found)
            for each in others:
                each.fields -= touched | changes.removed
            check(kind, name, new)
            return self._store(table, before, new, [*others, mine], options)

    def delete(self, table: Table, namespace: str, name: str) -> Outcome:
        with self.store.lock:
            before = self._existing(table, namespace, name)
            obj = before.decode()
            metadata = obj["metadata"]
            if metadata.get("finalizers"):
                if "deletionTimestamp" not in metadata:
                    metadata["deletionTimestamp"] = self.now()
                    metadata["deletionGracePeriodSeconds"] = 0
                    metadata["generation"] = metadata.get("generation", 1) + 1
                    self.store.commit(table, obj)
                return Outcome(200, table.items[before.key])
            if self.deleting(table, before.key):
                return Outcome(200, table.items[before.key])
            self.store.commit(table, None, before.key)
            self.committed(table, before.key)
            return Outcome(200, before, gone=True)

    def _existing(self, table: Table, namespace: str, name: str) -> Item:
        item = table.items.get(object_key(namespace, name))
        if item is None:
            raise status.not_found(table.kind.group, table.kind.plural, name)
        return item

    def _incoming(self, kind: Kind, obj: Object, namespace: str) -> Object:
        """Return a copy of what a client sent, one level deep, checked against where it was sent."""
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
            raise bad_request("the object provided is unrecognized (must be of type object)")
        for key, wanted in (("apiVersion", kind.api_version), ("kind", kind.kind)):
            if obj.get(key, wanted) != wanted:
                raise bad_request(f"the {key} in the data ({obj[key]}) does not match the expected {key} ({wanted})")
        new = {**obj, "metadata": dict(obj.get("metadata") or {})}
        if kind.namespaced:
            if new["metadata"].setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            new["metadata"].pop("namespace", None)
        return new

    def _update(
        self,
        table: Table,
        before: Item | None,
        new: Object,
        options: Options,
        warnings: list[str],
    ) -> Outcome:
        """Work out who owns what after a write that is not an apply, then store."""
        kind = table.kind
        live = before.decode() if before else {"metadata": {}}
        merging.drop_empty_metadata(new)
        new = _defaulted(kind, live, new)
        managers = managed.read(live)
        changes = managed.compare(kind, live, new)
        touched = _countable(kind, changes.added | changes.modified)
        mine = managed.Manager(options.manager, "Update", options.api_version or kind.api_version, touched, self.now())
        kept = []
        for each in managers:
            each.fields -= changes.removed
            if each.identity != mine.identity:
                each.fields -= touched
                kept.append(each)
            elif touched:
                mine.fields |= each.fields
            else:
                mine = each
        return self._store(table, before, new, [*kept, mine], options, warnings)

    def _store(
        self,
        table: Table,
        before: Item | None,
        new: Object,
        managers: list[managed.Manager],
        options: Options,
        warnings: list[str] | None = None,
    ) -> Outcome:
        kind = table.kind
        metadata = new["metadata"]
        live = before.decode() if before else None
        for key in _IDENTITY:
            if live and key in live["metadata"]:
                metadata[key] = live["metadata"][key]
            elif key not in ("name", "namespace"):
                metadata.pop(key, None)
        metadata.pop("resourceVersion", None)
        metadata["managedFields"] = managed.write(managers)
        if kind.custom:
            new["apiVersion"], new["kind"] = kind.api_version, kind.kind
        if live is None:
            metadata["creationTimestamp"] = self.now()
            metadata["uid"] = self.new_uid()
            if kind.generations:
                metadata["generation"] = 1
        elif before is not None and _same(kind, live, new):
            return Outcome(200, before, warnings or [])
        elif kind.generations and _content(kind, live) != _content(kind, new):
            metadata["generation"] = metadata.get("generation", 0) + 1
        if not kind.custom:
            new = {**kind.empty, **new}
        if options.dry_run:
            item = Item(kind, new, before.revision if before else 0)
            return Outcome(200 if before else 201, item, warnings or [])
        event = self.store.commit(table, new)
        key = event.item.key
        self.committed(table, key)
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self.store.commit(table, None, key)
        return Outcome(200 if before else 201, event.item, warnings or [])


def _countable(kind: Kind, fields: Iterable[managed.Path]) -> managed.Fields:
    """Return the fields that a write to the object itself can own: a built-in's status is apart."""
    return frozenset(path for path in fields if kind.custom or path[0] != "f:status")


def _other_name(given: str, name: str) -> ApiError:
    message = f"the name of the object ({given}) does not match the name on the URL ({name})"
    return bad_request(message)


def _defaulted(kind: Kind, live: Object, new: Object) -> Object:
    """Return what the server fills in before it looks at who owns what."""
    if kind is CUSTOM_RESOURCE_DEFINITIONS:
        return complete_definition(live, new)
    return new


def _content(kind: Kind, obj: Object) -> Object:
    """Return what generation counts the changes of."""
    outside = ("apiVersion", "kind", "metadata") if kind.custom else ("metadata", "status")
    return {key: value for key, value in obj.items() if key not in outside}


def _same(kind: Kind, live: Object, new: Object) -> bool:
    def comparable(obj: Object) -> bytes:
        metadata = {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}
        entries = metadata.get("managedFields") or []
        metadata["managedFields"] = [{key: value for key, value in entry.items() if key != "time"} for entry in entries]
        # What is sent names its type; a stored object of a built-in kind does not.
        typed = {"apiVersion": kind.api_version, "kind": kind.kind}
        return dumps_sorted({**kind.empty, **obj, **typed, "metadata": metadata})

    return comparable(live) == comparable(new)
