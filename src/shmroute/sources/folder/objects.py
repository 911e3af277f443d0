"""The objects in all files of a folder, and the events for their changes. Pure: no I/O, no clock.

Owned by the folder source's thread. Its rules:

* If two files hold one object, the first file in the order of names counts. The other is reported as a problem and
  takes over when the first no longer holds the object. Files do not say which one is older.
* An unusable file keeps its last usable objects, until it is repaired or deleted.
* One changed object of a kind makes one event. Several make one `Replaced`, so that a model that moves from one
  file to another is never missing in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import msgspec

from shmroute.resources.registry import Item, WatchedKind
from shmroute.sources.base import Changed, Deleted, Event, FileProblem, Replaced
from shmroute.sources.folder.content import Content, ObjectId

MAX_REPORTED_PROBLEMS: Final = 3
"""Maximum number of problems reported for one file: enough to act on, in a line that can be read."""

_NOTHING: Final = Content({}, ())


class FolderObjects:
    """Takes the content of files by name, and returns events."""

    def __init__(self, folder: Path, kinds: tuple[WatchedKind, ...]) -> None:
        self._folder = folder
        self._watched = kinds
        self._kinds = {kind.name: kind.kind or kind.full_name for kind in kinds}
        self._listed: set[str] = set()
        """The kinds of which all objects have been reported."""
        self._files: dict[str, Content] = {}
        self._broken: dict[str, str] = {}
        self._reported: dict[ObjectId, Item] = {}
        """Objects as the last events left them."""
        self._valid: set[ObjectId] = set()
        """The objects that are valid, or were so before: they have a state that is served."""
        self._reported_problems: dict[str, FileProblem] = {}

    def follow(self, kinds: tuple[WatchedKind, ...]) -> None:
        """Follow these kinds from now on. The next events report all objects of the new ones.

        What the files hold of kinds that stay is kept until the files are put again.
        """
        kept = {kind.name for kind in kinds if kind in self._watched}
        self._watched = kinds
        self._kinds = {kind.name: kind.kind or kind.full_name for kind in kinds}
        self._listed &= kept
        for name, content in self._files.items():
            left = {identity: item for identity, item in content.objects.items() if identity[0] in kept}
            self._files[name] = Content(left, content.notes)

    def holds_objects(self, name: str) -> bool:
        """Return whether the file held objects when it was last readable."""
        return bool(self._files.get(name, _NOTHING).objects)

    def put(self, name: str, content: Content) -> None:
        """Note the content of a file."""
        self._broken.pop(name, None)
        self._files[name] = content

    def set_aside(self, name: str, reason: str) -> None:
        """Note that the file cannot be used; its last objects stay."""
        self._broken[name] = reason

    def remove(self, name: str) -> None:
        """Note that the file was deleted."""
        self._broken.pop(name, None)
        self._files.pop(name, None)

    def take_events(self, received_ns: int, seen: str = "") -> list[Event]:
        """Return the changes since the last call. The first call reports all objects, even if there are none.

        `seen` is the current time, RFC 3339 in UTC: new objects without a creation time count as created then.
        """
        holders: dict[ObjectId, str] = {}
        for name in sorted(self._files):
            for identity in self._files[name].objects:
                holders.setdefault(identity, name)
        objects = {
            identity: self._with_age(identity, self._files[name].objects[identity], seen)
            for identity, name in holders.items()
        }
        events: list[Event] = []
        for kind in self._kinds:
            changes = self._changes(kind, objects, received_ns)
            if kind not in self._listed or len(changes) > 1:
                items = tuple(item for identity, item in objects.items() if identity[0] == kind)
                events.append(Replaced(kind, items, received_ns))
                self._listed.add(kind)
            else:
                events += changes
        self._reported = objects
        self._valid = {
            identity for identity, item in objects.items() if identity in self._valid or not hasattr(item, "reason")
        }
        return events + self._problem_events(holders)

    def _with_age(self, identity: ObjectId, item: Item, seen: str) -> Item:
        """Return `item` with the time at which it was first seen, if it has no creation time."""
        if getattr(item, "created", None) != "":
            return item
        former = self._reported.get(identity)
        first_seen = getattr(former, "first_seen", "") or seen
        return cast("Item", msgspec.structs.replace(cast("Any", item), first_seen=first_seen))

    def _changes(self, kind: str, objects: dict[ObjectId, Item], received_ns: int) -> list[Event]:
        before = self._reported
        changes: list[Event] = [
            Changed(kind, item, received_ns)
            for identity, item in objects.items()
            if identity[0] == kind and before.get(identity) != item
        ]
        gone = (identity for identity in before if identity[0] == kind and identity not in objects)
        return changes + [Deleted(kind, key, received_ns) for _, key in gone]

    def _problem_events(self, holders: dict[ObjectId, str]) -> list[Event]:
        problems = {
            name: problem
            for name in sorted(self._files.keys() | self._broken.keys())
            if (problem := self._problem(name, holders)) is not None
        }
        over = [name for name in self._reported_problems if name not in problems]
        events: list[Event] = [FileProblem(str(self._folder / name), None) for name in over]
        events += [each for name, each in problems.items() if self._reported_problems.get(name) != each]
        self._reported_problems = problems
        return events

    def _problem(self, name: str, holders: dict[ObjectId, str]) -> FileProblem | None:
        content = self._files.get(name, _NOTHING)
        reasons = [self._broken[name]] if name in self._broken else []
        reasons += content.notes
        reasons += [
            f"{self._kinds[identity[0]]} {identity[1]} is taken from {holders[identity]}, which has it too"
            for identity in content.objects
            if holders[identity] != name
        ]
        if not reasons:
            return None
        text = "; ".join(reasons[:MAX_REPORTED_PROBLEMS])
        if len(reasons) > MAX_REPORTED_PROBLEMS:
            text += f"; and {len(reasons) - MAX_REPORTED_PROBLEMS} more"
        keeps_objects = name in self._broken and any(
            holders[identity] == name and identity in self._valid for identity in content.objects
        )
        return FileProblem(str(self._folder / name), text, last_good=keeps_objects)
