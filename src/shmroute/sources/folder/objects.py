"""What all files of a folder say together, and the events that follow from a change. Pure: no I/O, no clock.

Owned by the folder source's thread. The rules it keeps:

* The same object in two files: the first file in the order of the names counts, the other is reported, and its
  object takes over once the first lets go. There is no creation time to tell which one was there first.
* A file that is set aside keeps what it last held in force, until it is mended or gone.
* One change is one event. Several that were found together go out as one `Replaced`, so that a model that moves
  from one file to another never seems to be nowhere.
"""

from __future__ import annotations

from bisect import insort
from pathlib import Path

from shmroute.resources.registry import Item, WatchedKind
from shmroute.sources.base import Changed, Deleted, Event, FileProblem, Replaced, Resource
from shmroute.sources.folder.content import Content, ObjectId

__all__ = ["FolderObjects"]

TOLD_PROBLEMS = 3
"""Of one file: enough to act on, and a line that can be read."""

_NOTHING = Content({}, ())


class FolderObjects:
    """Files in, by name; events out."""

    def __init__(self, folder: Path, kinds: tuple[WatchedKind, ...]) -> None:
        self._folder = folder
        self._kinds = {kind.name: kind.kind for kind in kinds}
        self._files: dict[str, Content] = {}
        self._broken: dict[str, str] = {}
        self._claims: dict[ObjectId, list[str]] = {}  # the files that hold an object, in the order of their names
        self._before: dict[ObjectId, Item | None] = {}  # of touched objects: what was last told
        self._problems_touched: set[str] = set()
        self._told: dict[str, FileProblem] = {}
        self._complete_list_told = False

    def holds_objects(self, name: str) -> bool:
        """Whether objects of the file count, or would if no other file held them."""
        return bool(self._files.get(name, _NOTHING).objects)

    def put(self, name: str, content: Content) -> None:
        """The file holds this now."""
        self._broken.pop(name, None)
        self._exchange(name, content)

    def set_aside(self, name: str, reason: str) -> None:
        """The file cannot be used as it is now."""
        self._broken[name] = reason
        self._problems_touched.add(name)

    def remove(self, name: str) -> None:
        """The file is gone."""
        self._broken.pop(name, None)
        self._exchange(name, _NOTHING)
        self._files.pop(name, None)

    def take_events(self, received_ns: int) -> list[Event]:
        """What is to be told since the last call. The first call tells everything, even where that is nothing."""
        events: list[Event] = []
        for resource in self._kinds:
            changes = self._changes(resource, received_ns)
            if not self._complete_list_told or len(changes) > 1:
                events.append(Replaced(resource, self._items(resource), received_ns))
            else:
                events += changes
        self._complete_list_told = True
        self._before.clear()
        for name in sorted(self._problems_touched):
            events += self._problem_event(name)
        self._problems_touched.clear()
        return events

    def _exchange(self, name: str, new: Content) -> None:
        old = self._files.get(name, _NOTHING)
        for identity in old.objects.keys() | new.objects.keys():
            claims = self._claims.setdefault(identity, [])
            if identity not in self._before:
                self._before[identity] = self._files[claims[0]].objects[identity] if claims else None
            if identity not in old.objects:
                insort(claims, name)
                self._problems_touched.update(claims)
            elif identity not in new.objects:
                self._problems_touched.update(claims)
                claims.remove(name)
                if not claims:
                    del self._claims[identity]
        self._files[name] = new
        self._problems_touched.add(name)

    def _in_force(self, identity: ObjectId) -> Item | None:
        claims = self._claims.get(identity)
        return self._files[claims[0]].objects[identity] if claims else None

    def _changes(self, resource: Resource, received_ns: int) -> list[Event]:
        changes: list[Event] = []
        for identity, before in self._before.items():
            if identity[0] != resource:
                continue
            now = self._in_force(identity)
            if now == before:
                continue
            if now is None:
                changes.append(Deleted(resource, identity[1], received_ns))
            else:
                changes.append(Changed(resource, now, received_ns))
        return changes

    def _items(self, resource: Resource) -> tuple[Item, ...]:
        return tuple(
            self._files[claims[0]].objects[identity]
            for identity, claims in self._claims.items()
            if identity[0] == resource
        )

    def _problem_event(self, name: str) -> list[Event]:
        path = str(self._folder / name)
        problems = self._problems(name)
        if not problems:
            return [FileProblem(path, None)] if self._told.pop(name, None) else []
        reason = "; ".join(problems[:TOLD_PROBLEMS])
        if len(problems) > TOLD_PROBLEMS:
            reason += f"; and {len(problems) - TOLD_PROBLEMS} more"
        event = FileProblem(path, reason, last_good=name in self._broken and self._counts(name))
        if self._told.get(name) == event:
            return []
        self._told[name] = event
        return [event]

    def _problems(self, name: str) -> list[str]:
        content = self._files.get(name, _NOTHING)
        broken = [self._broken[name]] if name in self._broken else []
        doubles = [
            f"{self._kinds[identity[0]]} {identity[1]} is taken from {self._claims[identity][0]}, which has it too"
            for identity in content.objects
            if self._claims[identity][0] != name
        ]
        return [*broken, *content.notes, *doubles]

    def _counts(self, name: str) -> bool:
        return any(self._claims[identity][0] == name for identity in self._files.get(name, _NOTHING).objects)
