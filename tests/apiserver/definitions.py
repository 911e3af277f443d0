"""CustomResourceDefinitions: their defaults, and how a definition becomes a served kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import managed
from .encoding import Object
from .kinds import CUSTOM_RESOURCE_DEFINITIONS, kind_of_definition

if TYPE_CHECKING:
    from .store import Store, Table
    from .writes import Writer


def complete_definition(live: Object, new: Object) -> Object:
    """Return a definition with what the server defaults; its status is not the writer's to change."""
    spec = dict(new.get("spec") or {})
    names = dict(spec.get("names") or {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", kind + "List")
    spec["names"] = names
    spec.setdefault("conversion", {"strategy": "None"})
    stored = [each["name"] for each in spec.get("versions") or () if each.get("storage")]
    status = live.get("status") or {
        "conditions": None,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": stored,
    }
    return {**new, "spec": spec, "status": status}


class Definitions:
    """Follows the definitions of a store and serves, or stops serving, what they declare."""

    def __init__(self, store: Store, writer: Writer, establish_after: float | None) -> None:
        self.store = store
        self.writer = writer
        #: Seconds from a definition's creation to its being served; None: never.
        self.establish_after = establish_after
        #: Seconds from the deletion of a definition's objects to its own end. A real server takes about 1 s.
        self.terminate_after = 0.0
        self.table = store.serve(CUSTOM_RESOURCE_DEFINITIONS)
        self._timers: list[threading.Timer] = []
        writer.committed = self._committed
        writer.deleting = self._deleting

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for timer in self._timers:
            timer.join(5.0)

    def _deleting(self, table: Table, key: str) -> bool:
        """Begin to delete a definition as a real server does: first its objects go, and their kind is still served."""
        plural, _, group = key.partition(".")
        served = self.store.table(group, plural)
        if table is not self.table or not self.terminate_after or served is None:
            return False
        if not served.terminating:
            served.terminating = True
            obj = table.items[key].decode()
            obj["metadata"]["deletionTimestamp"] = self.writer.now()
            obj["metadata"]["finalizers"] = ["customresourcecleanup.apiextensions.k8s.io"]
            self.store.commit(table, obj)
            for each in list(served.items):
                self.store.commit(served, None, each)
            timer = threading.Timer(self.terminate_after, self._end, (key,))
            timer.daemon = True
            self._timers.append(timer)
            timer.start()
        return True

    def _end(self, key: str) -> None:
        with self.store.lock:
            self.store.commit(self.table, None, key)
            self._committed(self.table, key)

    def _committed(self, table: Table, key: str) -> None:
        if table is not self.table:
            return
        item = table.items.get(key)
        if item is None:
            plural, _, group = key.partition(".")
            if served := self.store.table(group, plural):
                self.store.drop(served)
        elif item.decode()["status"].get("conditions"):
            self.store.serve(kind_of_definition(item.decode()))
        elif self.establish_after is not None:
            timer = threading.Timer(self.establish_after, self.establish, (key,))
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def establish(self, name: str) -> None:
        """Accept the names, set the conditions, serve the kind. Nothing if it has gone or is."""
        with self.store.lock:
            item = self.table.items.get(name)
            if item is None or item.decode()["status"].get("conditions"):
                return
            live = item.decode()
            obj = item.decode()
            now = self.writer.now()
            obj["status"] = {
                "conditions": [
                    _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
                    _condition(
                        "Established",
                        "InitialNamesAccepted",
                        "the initial names have been accepted",
                        now,
                    ),
                ],
                "acceptedNames": obj["spec"]["names"],
                "storedVersions": obj["status"]["storedVersions"],
            }
            kind = self.table.kind
            changes = managed.compare(kind, live, obj)
            fields = frozenset(changes.added | changes.modified)
            entry = managed.Manager("kube-apiserver", "Update", kind.api_version, fields, now, "status")
            obj["metadata"]["managedFields"] = managed.write([*managed.read(live), entry])
            self.store.commit(self.table, obj)
            self.store.serve(kind_of_definition(obj))


def _condition(kind: str, reason: str, message: str, now: str) -> Object:
    return {
        "type": kind,
        "status": "True",
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    }
