"""Direct access of tests to the server's objects, without HTTP and by the same rules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .definitions import Definitions
from .encoding import Object
from .kinds import BUILT_IN, Kind
from .samples import app_model_definition
from .store import Item, Store, Table, object_key
from .writes import Options, Outcome, Writer

#: What direct writes of a test sign with in managedFields.
TEST_MANAGER = "tests"


class Objects:
    """A store with its writer, and shortcuts for both."""

    def __init__(self, revision: int, establish_after: float | None) -> None:
        self.store = Store(revision)
        self.writer = Writer(self.store)
        self.definitions = Definitions(self.store, self.writer, establish_after)
        for kind in BUILT_IN:
            self.store.serve(kind)

    @property
    def revision(self) -> int:
        """The storage's global revision."""
        return self.store.revision

    def install(self, definition: Object | None = None) -> None:
        """Install a CustomResourceDefinition, established at once; default: AppModel's."""
        obj = definition or app_model_definition()
        table = self.definitions.table
        after, self.definitions.establish_after = self.definitions.establish_after, None
        try:
            self.writer.apply(table, obj, "", obj["metadata"]["name"], _options())
        finally:
            self.definitions.establish_after = after
        self.definitions.establish(obj["metadata"]["name"])

    def apply(self, obj: Object, *, manager: str = TEST_MANAGER, force: bool = True) -> Object:
        """Apply an object by server-side apply, directly in the store. Returns the object; ApiError if refused."""
        table, namespace, name = self._address(obj)
        return self._result(table, self.writer.apply(table, obj, namespace, name, _options(manager, force)))

    def create(self, obj: Object, *, manager: str = TEST_MANAGER) -> Object:
        table, namespace, _ = self._address(obj)
        return self._result(table, self.writer.create(table, obj, namespace, _options(manager)))

    def replace(self, obj: Object, *, manager: str = TEST_MANAGER) -> Object:
        """Replace the whole object; its resourceVersion, if given, must be the present one."""
        table, namespace, name = self._address(obj)
        metadata = dict(obj["metadata"])
        if not metadata.get("resourceVersion"):
            item = table.items.get(object_key(namespace, name))
            metadata["resourceVersion"] = str(item.revision) if item else ""
        new = {**obj, "metadata": metadata}
        return self._result(table, self.writer.replace(table, new, namespace, name, _options(manager)))

    def delete(self, what: Object | str, name: str | None = None, namespace: str = "default") -> None:
        """Delete an object, given itself or by resource ("appmodels"), name and namespace."""
        if isinstance(what, str):
            assert name is not None
            table = self.store.find(what)
            self.writer.delete(table, namespace if table.kind.namespaced else "", name)
        else:
            self.writer.delete(*self._address(what))

    def put(self, obj: Object) -> None:
        """Store an object unchanged: no validation, no defaults, nothing filled in.

        metadata.resourceVersion is kept if given (it must rise); uid and creationTimestamp are
        filled in where they are missing. For malformed objects, and for recorded ones.
        """
        table, namespace, _ = self._address(obj)
        metadata = dict(obj["metadata"])
        if table.kind.generations:
            metadata.setdefault("generation", 1)
        if "creationTimestamp" not in metadata:
            metadata["creationTimestamp"] = self.writer.now()
        if "uid" not in metadata:
            metadata["uid"] = self.writer.new_uid()
        if table.kind.namespaced:
            metadata["namespace"] = namespace
        self.store.put_raw(table, {**obj, "metadata": metadata})

    def preload(self, objects: Iterable[Object]) -> int:
        """Put many objects in at once, with managedFields; returns how many."""
        count = 0
        managed: dict[tuple[str, ...], Any] = {}
        with self.store.lock:
            for obj in objects:
                spec = obj.get("spec")
                shape = (obj["kind"], *(spec if isinstance(spec, dict) else ()))
                if shape not in managed:
                    self.create(obj)
                    table, namespace, name = self._address(obj)
                    element = table.items[object_key(namespace, name)].decode()
                    managed[shape] = element["metadata"]["managedFields"]
                else:
                    metadata = {**obj["metadata"], "managedFields": managed[shape]}
                    self.put({**obj, "metadata": metadata})
                count += 1
        return count

    def get(self, resource: str, name: str, namespace: str = "default") -> Object | None:
        """Return the object as stored, or None. resource: "appmodels", "AppModel", ..."""
        table = self.store.find(resource)
        item = table.items.get(object_key(namespace if table.kind.namespaced else "", name))
        return _whole(table.kind, item) if item else None

    def list(self, resource: str, namespace: str | None = None) -> list[Object]:
        """Return all objects of a kind, sorted by namespace and name."""
        table = self.store.find(resource)
        with self.store.lock:
            items = [table.items[key] for key in table.keys]
        chosen = [item for item in items if namespace in (None, item.namespace)]
        return [_whole(table.kind, item) for item in chosen]

    def load(self, path: Path | str, *, manager: str = TEST_MANAGER) -> int:
        """Apply every document of a YAML file; returns how many."""
        with Path(path).open() as file:
            documents = [each for each in yaml.safe_load_all(file) if each]
        for each in documents:
            if each["kind"] == "CustomResourceDefinition":
                self.install(each)
            else:
                self.apply(each, manager=manager)
        return len(documents)

    def bump(self, count: int = 1) -> int:
        """Raise the global revision as writes to other kinds would; returns it."""
        return self.store.bump(count)

    def _address(self, obj: Object) -> tuple[Table, str, str]:
        table = self.store.find(obj["kind"])
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "default") if table.kind.namespaced else ""
        return table, namespace, metadata.get("name", "")

    def _result(self, table: Table, outcome: Outcome) -> Object:
        return _whole(table.kind, outcome.item)


def _options(manager: str = TEST_MANAGER, force: bool = True) -> Options:
    return Options(manager=manager, force=force)


def _whole(kind: Kind, item: Item) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **item.decode()}
