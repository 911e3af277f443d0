"""Checks the files of a folder, and reads those that have changed. Owned by the folder source's thread.

Files are compared by `stat`. A changed file is read once two looks in a row agree on it. Nobody is writing
then: nothing is read half written, a save of several files is one change, and so is the renamed link by which a kubelet
swaps all files of a mounted ConfigMap. Two looks are further apart than the ticks of a local file system's clock (4 to
10 ms), so a write between them always changes the time stamp.

Links are followed, since the files of a mounted ConfigMap are links. Subfolders are ignored, as by `kubectl apply -f`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from shmroute.errors import InvalidObject
from shmroute.manifests.files import is_manifest_file, read_file
from shmroute.sources.base import Event
from shmroute.sources.folder.content import Content, Scope, read_content
from shmroute.sources.folder.objects import FolderObjects

UNREST_SECONDS: Final = 1.0
"""Seconds of continuous change after which all files are read as they are. A file that changes while it is read is set
aside."""

Seen: TypeAlias = tuple[int, ...] | None
"""A file by `stat`: device, inode, size, and times of change. None for a link that leads to no file."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Look(NamedTuple):
    """Result of one look at the folder."""

    events: list[Event]
    in_step: bool
    """Whether everything that was written before the look has been read; False while files are changing."""


_NOT_YET: Final = Look([], False)

_UNREAD: Final = (-1,)
"""A value that no `stat` returns: the file must be read again."""


def list_files(folder: Path) -> dict[str, Seen]:
    """Return the manifest files of a folder. Raises `OSError` if the folder cannot be listed."""
    files: dict[str, Seen] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_manifest_file(entry.name):
                continue
            try:
                found = entry.stat()
            except OSError:
                found = None  # a dangling or circular link, or a file that was deleted just now
            if found is not None and stat.S_ISREG(found.st_mode):
                files[entry.name] = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            elif entry.is_symlink():
                files[entry.name] = None
    return files


class FolderReader:
    """The content of a folder's files, updated by each `look`.

    Args:
        folder: the folder.
        scope: selects the objects that count.
        stopped: called between files; when it returns True, reading ends without a result.
    """

    def __init__(self, folder: Path, scope: Scope, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._folder = folder
        self._scope = scope
        self._stopped = stopped
        self._objects = FolderObjects(folder, scope.kinds)
        self._last: dict[str, Seen] = {}
        self._read: dict[str, Seen] = {}
        """`stat` of each file when it was read."""
        self._complete = False
        self._changing_since: float | None = None

    def follow(self, scope: Scope) -> None:
        """Select other objects from now on: the next look reads every file again."""
        self._scope = scope
        self._objects.follow(scope.kinds)
        self._read = dict.fromkeys(self._read, _UNREAD)
        self._complete = False

    def look(self, now: float) -> Look:
        """Look at the folder once.

        Args:
            now: seconds of any clock that only goes forward.

        Raises:
            OSError: the folder itself cannot be listed. A file that cannot be read is a `FileProblem`.
        """
        files, before = list_files(self._folder), self._last
        self._last = files
        changed = _differences(files, self._read)
        if not changed and self._complete:
            self._changing_since = None
            return Look([], True)
        if self._changing_since is None:
            self._changing_since = now
        overdue = now - self._changing_since > UNREST_SECONDS
        if changed & _differences(files, before) and not overdue:
            return _NOT_YET
        contents: dict[str, Content | str] = {}
        for name in sorted(changed & files.keys()):
            if self._stopped():
                return _NOT_YET
            contents[name] = self._read_file(name, files[name])
        touched = changed & _differences(files, list_files(self._folder))
        if touched and not overdue:
            return _NOT_YET
        contents.update((name, "the file keeps changing") for name in touched)
        for name in changed:
            self._take(name, files, contents)
        self._changing_since = None
        self._complete = True
        return Look(self._objects.take_events(time.monotonic_ns(), _now()), True)

    def _read_file(self, name: str, seen: Seen) -> Content | str:
        """Return the file's content, or the reason why it cannot be used."""
        if seen is None:
            return "a link that leads to no file"
        try:
            data = read_file(self._folder / name)
            if not data.strip() and self._objects.holds_objects(name):
                return "the file is empty: delete it if its objects shall go"  # `cmd > file` empties it first
            return read_content(data, name, self._scope)
        except InvalidObject as error:
            return _reason(error, name)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    def _take(self, name: str, files: dict[str, Seen], contents: dict[str, Content | str]) -> None:
        if name not in files:
            del self._read[name]
            self._objects.remove(name)
            return
        self._read[name] = files[name]
        content = contents[name]
        if isinstance(content, str):
            self._objects.set_aside(name, content)
        else:
            self._objects.put(name, content)


_GONE: Final = (0,)


def _differences(files: dict[str, Seen], others: dict[str, Seen]) -> set[str]:
    """Return the names of the files that differ."""
    return {name for name in files.keys() | others.keys() if files.get(name, _GONE) != others.get(name, _GONE)}


def _reason(error: InvalidObject, name: str) -> str:
    """Return the error's text with the place in the file, without the file's name, which is shown beside it."""
    place = error.where.removeprefix(name).removeprefix(", ")
    return f"{place}: {error.reason}" if place and not place.endswith(name) else error.reason
