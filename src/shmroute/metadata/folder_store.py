"""Metadata in a folder, for use without Redis. A value is a file named by its key, or by the key and `.json`.

The rules are the same as for Redis: a file is read when the version of its model is new, and again while its value is
missing. A reader may see part of a file that is being written, so write another file and rename it, as `write` does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from shmroute.metadata.store import Absent, Found, Reading, StoreUnavailable, too_large
from shmroute.rows import MetadataState

SUFFIX: Final = ".json"

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK, because a file named by a key may be a FIFO, and opening a FIFO waits for its writer."""


class FolderStore:
    """Values in the files of `folder`, which need not exist yet."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self.name = str(folder)

    def read(
        self,
        keys: Sequence[str],
        *,
        limit_bytes: int,
        batch_bytes: int,
        check_size_first: Collection[str] = (),  # noqa: ARG002 - the size of a file is always checked first
    ) -> Reading:
        """Read the files of `keys`: see `Store.read`. Each file counts as one command.

        Raises:
            StoreUnavailable: there is no such folder.
        """
        if not self._folder.is_dir():
            raise StoreUnavailable("no such folder")
        found: dict[str, Found] = {}
        size = 0
        for key in keys:
            found[key] = value = self._value(key, limit_bytes)
            size += 0 if isinstance(value, Absent) else len(value)
            if size >= batch_bytes:
                break
        return Reading(found, len(found))

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key, each atomically: see `Store.write`.

        Raises:
            StoreUnavailable: a file could not be written; those before it were.
        """
        for key, value in values.items():
            if problem := file_name_problem(key):
                raise StoreUnavailable(problem)
            path = self._folder / key
            beside = self._folder / f".{os.getpid()}.shmroute"
            try:
                beside.write_bytes(value)
                beside.replace(path)
            except OSError as error:
                beside.unlink(missing_ok=True)
                raise StoreUnavailable(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _value(self, key: str, limit_bytes: int) -> Found:
        if problem := file_name_problem(key):
            return Absent(MetadataState.MISSING, problem)
        found = _file(self._folder / key, limit_bytes)
        if isinstance(found, Absent) and found.state == MetadataState.MISSING:
            return _file(self._folder / f"{key}{SUFFIX}", limit_bytes)
        return found


def file_name_problem(key: str) -> str:
    """Return why no file can be named by the key; "" if one can."""
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
