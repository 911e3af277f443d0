"""Reads what has changed in a folder since it was last looked at. Owned by the folder source's thread.

What it hands on is never half of a change, as far as a folder lets one know:

* Files of a mounted ConfigMap or Secret change all at once, by the rename of a link. Files read while that
  happened are read again before anything is told.
* A file that changed under the reading, or has just been written and is empty or cannot be decoded, may be half
  written. It gets a moment (`unsettled`) before it counts as broken, or as emptied.
* A file that has just been written is read once more a moment later: a second write within the same tick of the
  file system's clock leaves no trace in what `stat` says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from shmroute.errors import InvalidObject
from shmroute.manifests.files import read_file
from shmroute.sources.base import Event
from shmroute.sources.folder.content import Content, Scope, read_content
from shmroute.sources.folder.listing import Identity, Seen, look_at, read_folder, switch_of
from shmroute.sources.folder.objects import FolderObjects

__all__ = ["FolderReader"]

SETTLE_SECONDS = 0.3
"""How old a file's time stamp is before the file is taken to be at rest. File systems' clocks tick every 4 to 10
ms, and a manifest is written in less than that."""

EMPTY_SECONDS = 1.0
"""A file that held objects counts as emptied after this. Truncating comes first when a file is rewritten in place."""

GONE_SECONDS = 0.02
"""A file counts as deleted if it is still gone after this. Some editors move the old file away before they write."""

ATTEMPTS = 3
"""How often files are read again because they changed under the reading. A later look goes on from there."""


class _Finding(msgspec.Struct, frozen=True):
    """What reading a file came to; neither content nor a reason while that cannot be said yet."""

    seen: Seen | None
    content: Content | None = None
    broken: str = ""


class FolderReader:
    """What a folder's files say, kept up to date on demand.

    Args:
        folder: the folder.
        scope: which objects count.
        stopped: asked between files; once it says yes, reading ends without a result.
        clock: Unix seconds, to be compared with files' time stamps; tests inject one.
    """

    def __init__(
        self,
        folder: Path,
        scope: Scope,
        *,
        stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directories: dict[Path, Identity] = {}
        """What has to be watched: the folder, and the directories that its links lead to."""
        self.unsettled: set[str] = set()
        """Files to be read again soon, whether or not they seem to change."""
        self._folder = folder
        self._scope = scope
        self._stopped = stopped
        self._clock = clock
        self._objects = FolderObjects(folder, scope.kinds)
        self._known: dict[str, Seen | None] = {}

    def read_all(self) -> list[Event]:
        """Compare all files with what is known of them, read those that changed. Raises `OSError`.

        The error is the folder's: that of a single file is a `FileProblem`.
        """
        for _ in range(ATTEMPTS):
            listing = read_folder(self._folder)
            found = self._read(listing.files)
            if switch_of(self._folder) == listing.switch:
                break
        if self._stopped():
            return []
        self.directories = listing.directories
        return self._take(found, self._known.keys() - listing.files.keys())

    def read_some(self, names: Iterable[str]) -> list[Event]:
        """The same for these files only. Where links lead is not looked at anew: that takes `read_all`."""
        looked_at = {name: look_at(self._folder / name) for name in names}
        found = self._read({name: seen for name, seen in looked_at.items() if seen is not None})
        if self._stopped():
            return []
        return self._take(found, {name for name, seen in looked_at.items() if seen is None and name in self._known})

    def is_link(self, name: str) -> bool:
        """Whether the file is known to be a link."""
        if name not in self._known:
            return False
        seen = self._known[name]
        return seen is None or seen.linked_directory is not None

    def _read(self, files: dict[str, Seen | None]) -> dict[str, _Finding]:
        """What became of those files that changed."""
        found: dict[str, _Finding] = {}
        for name in sorted(files):
            seen = files[name]
            if name in self._known and self._known[name] == seen and name not in self.unsettled:
                continue
            if self._stopped():
                break
            found[name] = self._read_file(name, seen)
        return found

    def _read_file(self, name: str, seen: Seen | None) -> _Finding:
        path = self._folder / name
        for _ in range(ATTEMPTS):
            if seen is None:
                return _Finding(None, broken="a link that leads to no file")
            content, broken = None, ""
            try:
                content = read_content(read_file(path), name, self._scope)
            except InvalidObject as error:
                broken = _reason(error, name)
            except FileNotFoundError:
                return _Finding(seen)
            except OSError as error:
                broken = f"cannot be read: {error.strerror or error}"
            before, seen = seen, look_at(path)
            if seen == before:
                return (
                    _Finding(seen)
                    if self._may_be_half_written(name, seen, content)
                    else _Finding(seen, content, broken)
                )
        return _Finding(seen)

    def _may_be_half_written(self, name: str, seen: Seen, content: Content | None) -> bool:
        if content is None:
            return self._younger(seen, SETTLE_SECONDS)
        emptied = not content.objects and self._objects.holds_objects(name)
        return emptied and self._younger(seen, EMPTY_SECONDS)

    def _younger(self, seen: Seen | None, seconds: float) -> bool:
        """Whether the file was written that recently. A time stamp in the future says nothing."""
        return seen is not None and 0.0 <= self._clock() - seen.modified_ns / 1e9 < seconds

    def _take(self, found: dict[str, _Finding], gone: set[str]) -> list[Event]:
        """Make what was found known, and tell what follows from it."""
        if gone:
            time.sleep(GONE_SECONDS)
        for name in gone:
            if os.path.lexists(self._folder / name):
                self.unsettled.add(name)
                continue
            del self._known[name]
            self.unsettled.discard(name)
            self._objects.remove(name)
        for name, finding in found.items():
            self._known[name] = finding.seen
            if finding.broken:
                self._objects.set_aside(name, finding.broken)
            elif finding.content is not None:
                self._objects.put(name, finding.content)
            unsaid = finding.content is None and not finding.broken
            if unsaid or self._younger(finding.seen, SETTLE_SECONDS):
                self.unsettled.add(name)
            else:
                self.unsettled.discard(name)
        return self._objects.take_events(time.monotonic_ns())


def _reason(error: InvalidObject, name: str) -> str:
    """Without the file's name, which is told beside it; with the place in the file."""
    place = error.where.removeprefix(name).removeprefix(", ")
    return f"{place}: {error.reason}" if place and not place.endswith(name) else error.reason
