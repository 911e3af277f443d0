"""Read the small files that a cluster configuration names, whole and up to a limit, and notice their changes.

Called by `shmroute.kube.kubeconfig` and `configuration`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

from shmroute.errors import ConfigError

FILE_MAX_BYTES = 1 << 23
"""Largest file, 8 MiB: a kubeconfig with inline certificates of 1,000 clusters has about 6 MiB."""

FileState: TypeAlias = tuple[str, int, int, int]
"""Path, inode, size and modification time in nanoseconds; zeros if there is no such file."""


def read_small_file(path: str, what: str) -> bytes:
    """Return the bytes of a regular file. Raises a `ConfigError` whose text begins with `what`.

    Pipes and devices are refused: opening one may wait for ever, and it cannot be read again after a change.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{what} {path} is not a regular file")
            content = file.read(FILE_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{what} {path} cannot be read: {reason}") from error
    if len(content) > FILE_MAX_BYTES:
        raise ConfigError(f"{what} {path} is larger than {FILE_MAX_BYTES} bytes")
    return content


def file_state(path: str) -> FileState:
    """Return a value that changes when the file is written or replaced."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return (path, 0, 0, 0)
    return (path, found.st_ino, found.st_size, found.st_mtime_ns)
