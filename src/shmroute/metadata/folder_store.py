"""Metadata in a folder: the embedded counterpart of Redis. A value is a file named by its key, or by key and `.json`.

The same rules hold as for Redis: a file is read when its model's version is new or changed, and while what it should
hold is not there yet. A file that is written while it is read may be seen in part, so write beside and rename, as
`write` does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from shmroute.metadata.store import Absent, Found, Reading, StoreAway, too_large
from shmroute.rows import MetadataState

__all__ = ["FolderStore", "file_name_problem"]

SUFFIX: Final = ".json"

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Without waiting: what bears a key's name may be a FIFO that nobody writes to."""


class FolderStore:
    """Values in the files of `folder`, which may come later than the store."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self.name = str(folder)

    def read(self, keys: Sequence[str], *, limit_bytes: int, measure: Collection[str] = ()) -> Reading:  # noqa: ARG002
        """Read the files of `keys`. Sizes are always looked at first; a file counts as one command.

        Raises:
            StoreAway: there is no such folder.
        """
        if not self._folder.is_dir():
            raise StoreAway("no such folder")
        return Reading([self._value(key, limit_bytes) for key in keys], len(keys))

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key, each at once; see `Store.write`.

        Raises:
            StoreAway: a file could not be written; those before it were.
        """
        for key, value in values.items():
            if problem := file_name_problem(key):
                raise StoreAway(problem)
            path = self._folder / key
            beside = self._folder / f".{os.getpid()}.shmroute"
            try:
                beside.write_bytes(value)
                beside.replace(path)
            except OSError as error:
                beside.unlink(missing_ok=True)
                raise StoreAway(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """Nothing is held open."""

    def _value(self, key: str, limit_bytes: int) -> Found:
        if problem := file_name_problem(key):
            return Absent(MetadataState.MISSING, problem)
        found = _file(self._folder / key, limit_bytes)
        if isinstance(found, Absent) and found.state == MetadataState.MISSING:
            return _file(self._folder / f"{key}{SUFFIX}", limit_bytes)
        return found


def file_name_problem(key: str) -> str:
    """Why no file of a folder can bear the key's name; "" if one can."""
    if key in ("", ".", "..") or "/" in key or "\0" in key:
        return f"no file can be named {key[:60]!r}"
    return ""


def _file(path: Path, limit_bytes: int) -> Found:
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        return Absent(MetadataState.MISSING, "no such file")
    except OSError as error:
        return Absent(MetadataState.PENDING, f"the file cannot be opened: {error.strerror}")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Absent(MetadataState.WRONG_TYPE, "not a file")
        if status.st_size > limit_bytes:
            return too_large(status.st_size, limit_bytes)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            value = file.read(limit_bytes + 1)
        return value if len(value) <= limit_bytes else too_large(len(value), limit_bytes)
    except OSError as error:
        return Absent(MetadataState.PENDING, f"the file cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)
