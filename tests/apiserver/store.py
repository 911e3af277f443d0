"""The storage: objects of all kinds under one rising revision, and the log of what happened.

Objects are kept encoded, so that 100,000 of them are cheap to hold and to list. Every change goes
through `Store.commit`. Knows nothing about HTTP, schemas or who may do what.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from .encoding import Object, loads
from .kinds import Kind

#: Events kept per kind; what falls off the end makes watches from there "too old".
LOG_LIMIT = 400_000

#: Old states kept for the later pages of lists under way.
STATES_KEPT = 4


class Item:
    """One object at one revision, as encoded for a list. Never changed."""

    __slots__ = ("element", "key", "labels", "name", "namespace", "revision")

    def __init__(self, kind: Kind, obj: Object, revision: int) -> None:
        metadata = obj["metadata"]
        self.name: str = metadata["name"]
        self.namespace: str = metadata.get("namespace", "") if kind.namespaced else ""
        self.key = object_key(self.namespace, self.name)
        labels = metadata.get("labels")
        self.labels: dict[str, str] = labels if isinstance(labels, dict) else {}
        self.revision = revision
        self.element = kind.encode(obj)

    def decode(self) -> Object:
        """Return a fresh copy, in the element's form: built-in kinds lack apiVersion and kind."""
        obj: Object = loads(self.element)
        return obj


class Event:
    """One change: `before` is None for a new object, `after` for a deleted one."""

    __slots__ = ("_lines", "after", "before", "kind", "revision")

    def __init__(self, kind: Kind, revision: int, before: Item | None, after: Item | None) -> None:
        self.kind = kind
        self.revision = revision
        self.before = before
        self.after = after
        self._lines: dict[str, bytes] = {}

    @property
    def item(self) -> Item:
        item = self.after or self.before
        assert item is not None
        return item

    def line(self, event_type: str) -> bytes:
        """Return the event as a watch shows it; encoded once for all watches."""
        line = self._lines.get(event_type)
        if line is None:
            line = self._lines[event_type] = event_line(event_type, self._object(event_type))
        return line

    def _object(self, event_type: str) -> bytes:
        if event_type != "DELETED":
            assert self.after is not None
            return self.kind.whole(self.after.element)
        # As it was last seen, under the revision at which it went.
        assert self.before is not None
        obj = self.before.decode()
        obj["metadata"]["resourceVersion"] = str(self.revision)
        return self.kind.whole(self.kind.encode(obj))


def event_line(event_type: str, obj: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (event_type.encode(), obj)


def object_key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


@dataclass(frozen=True)
class State:
    """All objects of a kind at one revision, sorted as the storage sorts them."""

    keys: Sequence[str]
    items: Sequence[Item]

    def bounds(self, namespace: str | None) -> tuple[int, int]:
        if namespace is None:
            return 0, len(self.keys)
        # "0" is the character after "/".
        return bisect_left(self.keys, namespace + "/"), bisect_left(self.keys, namespace + "0")


class Table:
    """The objects of one kind, and its event log. Guarded by the store's lock."""

    def __init__(self, kind: Kind, lock: threading.RLock, revision: int) -> None:
        self.kind = kind
        self.changed = threading.Condition(lock)
        self.items: dict[str, Item] = {}
        self.keys: list[str] = []
        self.log: list[Event] = []
        self.closed = False
        #: Whether the kind's definition is being deleted: then objects cannot be created.
        self.terminating = False
        #: Watches may start here, not before. What the watch cache calls its list's revision.
        self.floor = revision
        #: How far the watch cache has got: events, and quorum reads, move it.
        self.cache_revision = revision
        self.seen_event = False
        self._states: OrderedDict[int, State] = OrderedDict()

    def put(self, key: str, item: Item | None) -> Item | None:
        """Replace one object; return the former one."""
        before = self.items.pop(key, None)
        if before is None and item is not None:
            if self.keys and key > self.keys[-1]:
                self.keys.append(key)
            else:
                self.keys.insert(bisect_left(self.keys, key), key)
        if item is not None:
            self.items[key] = item
        elif before is not None:
            del self.keys[bisect_left(self.keys, key)]
        return before

    def record(self, event: Event) -> None:
        self.log.append(event)
        self.cache_revision = event.revision
        self.seen_event = True
        if len(self.log) > LOG_LIMIT * 2:
            self.floor = max(self.floor, self.log[LOG_LIMIT - 1].revision)
            del self.log[:LOG_LIMIT]
        self.changed.notify_all()

    def events_after(self, revision: int, limit: int = 10_000) -> list[Event]:
        start = bisect_right(self.log, revision, key=lambda event: event.revision)
        return self.log[start : start + limit]

    @property
    def last_revision(self) -> int:
        """The revision of the newest event in the log."""
        return self.log[-1].revision if self.log else self.floor

    def state_at(self, revision: int) -> State:
        """Return all objects at a revision; the caller makes sure that it is not compacted."""
        revision = min(revision, self.last_revision)
        state = self._states.get(revision)
        if state is None:
            items = self.items
            keys: list[str] = list(self.keys)
            undone = self.events_after(revision, len(self.log))
            if undone:
                items = dict(items)
                for event in reversed(undone):
                    if event.before is None:
                        items.pop(event.item.key, None)
                    else:
                        items[event.item.key] = event.before
                keys = sorted(items)
            state = State(keys, [items[key] for key in keys])
            self._states[revision] = state
        self._states.move_to_end(revision)
        while len(self._states) > STATES_KEPT:
            self._states.popitem(last=False)
        return state

    def forget_states(self) -> None:
        self._states.clear()


@dataclass(frozen=True)
class Backup:
    """The whole store at one moment, to be restored later."""

    revision: int
    compacted: int
    tables: dict[tuple[str, str], tuple[Kind, dict[str, Item], list[str], list[Event], int]]


class Store:
    """All tables, one lock, one revision."""

    def __init__(self, revision: int = 1) -> None:
        self.lock = threading.RLock()
        self.revision = revision
        #: Old revisions up to and including this one are gone for lists (continue, Exact).
        self.compacted = 0
        self.tables: dict[tuple[str, str], Table] = {}

    def serve(self, kind: Kind) -> Table:
        """Return the table of a kind, made if need be; a new schema replaces the old one."""
        with self.lock:
            table = self.tables.get((kind.group, kind.plural))
            if table is None:
                table = Table(kind, self.lock, self.revision)
                self.tables[kind.group, kind.plural] = table
            table.kind = kind
            return table

    def drop(self, table: Table, *, deletions: bool = True) -> None:
        """Serve a kind no more. Watches get a DELETED event for each object, then they end."""
        with self.lock:
            for key in list(table.items) if deletions else ():
                self.commit(table, None, key)
            self.tables.pop((table.kind.group, table.kind.plural), None)
            table.closed = True
            table.changed.notify_all()

    def table(self, group: str, plural: str) -> Table | None:
        return self.tables.get((group, plural))

    def find(self, word: str) -> Table:
        """Return a table by its plural, its kind, or plural.group, for tests; KeyError if unknown."""
        for table in self.tables.values():
            if word in (table.kind.plural, table.kind.kind, table.kind.resource):
                return table
        raise KeyError(word)

    def commit(self, table: Table, obj: Object | None, key: str | None = None) -> Event:
        """Store an object, or delete key where obj is None. Stamps obj's resourceVersion."""
        with self.lock:
            self.revision += 1
            return self._put(table, obj, key, self.revision)

    def put_raw(self, table: Table, obj: Object) -> Event:
        """Store an object unchanged, at the resourceVersion in it, if there is one."""
        with self.lock:
            given = int(obj["metadata"].get("resourceVersion") or 0)
            if given and given <= table.last_revision:
                raise ValueError(f"resourceVersion {given} is not after {table.last_revision}")
            revision = given or self.revision + 1
            self.revision = max(self.revision, revision)
            return self._put(table, obj, None, revision)

    def _put(self, table: Table, obj: Object | None, key: str | None, revision: int) -> Event:
        item: Item | None = None
        if obj is not None:
            obj["metadata"]["resourceVersion"] = str(revision)
            item = Item(table.kind, obj, revision)
            key = item.key
        assert key is not None
        event = Event(table.kind, revision, table.put(key, item), item)
        table.record(event)
        return event

    def bump(self, count: int = 1) -> int:
        """Raise the revision as writes to kinds nobody watches here would."""
        with self.lock:
            self.revision += count
            return self.revision

    def compact(self, revision: int | None = None) -> int:
        """Forget history up to a revision (default: now), for watches and for lists."""
        with self.lock:
            upto = self.revision if revision is None else revision
            self.compacted = max(self.compacted, upto)
            for table in self.tables.values():
                table.floor = max(table.floor, upto)
                table.forget_states()
            return upto

    def backup(self) -> Backup:
        with self.lock:
            tables = {
                name: (each.kind, dict(each.items), list(each.keys), list(each.log), each.floor)
                for name, each in self.tables.items()
            }
            return Backup(self.revision, self.compacted, tables)

    def reinitialize(self, table: Table | None = None) -> None:
        """Begin the watch cache of a kind (or of all) anew, as a restart of the server does: history is gone.

        A watch from before is too old then, though no object changed. Lists at old revisions still work: they come
        from the storage.
        """
        with self.lock:
            for each in self.tables.values() if table is None else (table,):
                each.floor = max(each.floor, self.revision)
                each.cache_revision = self.revision
                each.seen_event = False

    def restore(self, backup: Backup) -> None:
        """Go back in time: revisions, objects and history are those of the backup."""
        with self.lock:
            self.revision = backup.revision
            self.compacted = backup.compacted
            for name, table in list(self.tables.items()):
                if name not in backup.tables:
                    self.drop(table, deletions=False)
            for kind, items, keys, log, floor in backup.tables.values():
                table = self.serve(kind)
                table.items, table.keys, table.log = dict(items), list(keys), list(log)
                table.floor = floor
                table.cache_revision = backup.revision
                table.forget_states()
                table.changed.notify_all()
