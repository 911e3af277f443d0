"""POSIX shared memory objects by name: create, reserve, attach, list, unlink. The only module that touches /dev/shm.

Segments are created as `multiprocessing.shared_memory` objects, never registered with the resource tracker, and read
through a read-only mapping of the same object (the stdlib's attach opens read-write and costs a worker 30 ms of
imports). Linux only: POSIX shared memory is a directory there.
"""

from __future__ import annotations

import errno
import grp
import mmap
import os
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmroute.errors import ConfigError, OutOfSharedMemory

if TYPE_CHECKING:
    from multiprocessing.shared_memory import SharedMemory

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - this is the point
_AREA_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""No dot: it separates the area from a segment's generation in a name."""

_tracker_lock: Final = threading.Lock()


def control_name(area: str) -> str:
    """The name of an area's control block.

    Raises:
        ConfigError: `area` is not a letter or digit followed by at most 99 letters, digits, "-" and "_".
    """
    if not _AREA_NAME.fullmatch(area):
        raise ConfigError(
            f"area {area!r} cannot be a name: use 1 to 100 letters, digits, '-' and '_', a letter or digit first"
        )
    return f"shmroute-{area}"


def segment_name(area: str, start: int) -> str:
    """The name of the segment of `area` that starts at generation `start`."""
    return f"{control_name(area)}.{start}"


def segment_names(area: str) -> list[str]:
    """Names of everything of the area beside the control block: segments, and what a crash left unfinished."""
    prefix = control_name(area) + "."
    return sorted(entry.name for entry in DIRECTORY.iterdir() if entry.name.startswith(prefix))


def path_of(name: str) -> Path:
    """Where the object of that name lies."""
    return DIRECTORY / name


def unlink(name: str) -> None:
    """Take the name away; whoever maps the object keeps it. No error if it is gone already."""
    with suppress(FileNotFoundError):
        path_of(name).unlink()


def attach(name: str, *, write: bool = False) -> mmap.mmap:
    """Map the whole object.

    Raises:
        FileNotFoundError: no such object.
        PermissionError: it belongs to another user, and not to a group of this process.
        ValueError: it is empty (still being made by somebody).
    """
    descriptor = os.open(path_of(name), (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        access = mmap.PROT_READ | mmap.PROT_WRITE if write else mmap.PROT_READ
        return mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=access)
    finally:
        os.close(descriptor)


def reserve(descriptor: int, name: str, start: int, length: int) -> None:
    """Take pages for `length` bytes from `start`, so that writing them cannot end in SIGBUS.

    Raises:
        OutOfSharedMemory: the file system has no room.
    """
    try:
        os.posix_fallocate(descriptor, start, length)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise
        file_system = os.statvfs(DIRECTORY)
        raise OutOfSharedMemory(name, length, file_system.f_bavail * file_system.f_frsize) from error


class Ownership:
    """Who may read an area: its user alone (0600), or also a group (0640)."""

    def __init__(self, group: str | int | None = None) -> None:
        try:
            self.group_id = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
        except KeyError as error:
            raise ConfigError(f"there is no group {group!r} here; give its number instead") from error

    def apply(self, descriptor: int) -> None:
        """Set owner and mode of a fresh object.

        Raises:
            ConfigError: this process may not give files to the group.
        """
        if self.group_id is None:
            os.fchmod(descriptor, 0o600)
            return
        try:
            os.fchown(descriptor, -1, self.group_id)
        except PermissionError as error:
            raise ConfigError(f"this process is not in group {self.group_id}, so it cannot share with it") from error
        os.fchmod(descriptor, 0o640)


def _untracked_memory(name: str, size: int = 0) -> SharedMemory:
    """Create an object of `size` bytes, or open the one there is, without telling the resource tracker.

    Before Python 3.13 there is no `track=False`. Unregistering afterwards would leave an instant in which a kill takes
    the segment away, and would start the tracker's process; so nothing is registered in the first place.
    """
    from multiprocessing import shared_memory

    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name, create=size > 0, size=size, track=False)

    class _NoTracker:
        @staticmethod
        def register(name: str, rtype: str) -> None: ...

    with _tracker_lock:
        tracker = shared_memory.resource_tracker  # type: ignore[attr-defined]
        shared_memory.resource_tracker = _NoTracker  # type: ignore[attr-defined]
        try:
            return shared_memory.SharedMemory(name, create=size > 0, size=size)
        finally:
            shared_memory.resource_tracker = tracker  # type: ignore[attr-defined]


class WritableSegment:
    """A segment under the writer's hands: a `SharedMemory` object whose pages are reserved as they are needed.

    `size` is the address space it may grow into; memory is taken only by `ensure`.
    """

    RESERVE_STEP_BYTES: Final = 256 * 1024
    """Reserving costs a system call and zeroing: a step of this size keeps both rare and small."""

    def __init__(self, name: str, size: int, ownership: Ownership) -> None:
        self.name = name
        self.size = size
        self._memory = _untracked_memory(name, size)
        self._descriptor = os.open(path_of(name), os.O_RDWR | os.O_CLOEXEC)
        self._reserved = 0
        try:
            ownership.apply(self._descriptor)
        except BaseException:
            self.close()
            unlink(name)
            raise
        self.buffer: memoryview = self._memory.buf or memoryview(b"")

    @classmethod
    def adopt(cls, name: str, reserved: int) -> WritableSegment:
        """Open a segment a former writer left; `reserved` bytes of it are known to have pages."""
        self = cls.__new__(cls)
        self.name = name
        self._memory = _untracked_memory(name)
        self.size = self._memory.size
        self._descriptor = os.open(path_of(name), os.O_RDWR | os.O_CLOEXEC)
        self._reserved = reserved
        self.buffer = self._memory.buf or memoryview(b"")
        return self

    def ensure(self, end: int, *, exactly: bool = False) -> None:
        """Make sure that bytes up to `end` have pages.

        Raises:
            OutOfSharedMemory: no room; nothing has changed.
        """
        if end <= self._reserved:
            return
        target = end if exactly else min(self.size, end + self.RESERVE_STEP_BYTES)
        try:
            reserve(self._descriptor, self.name, self._reserved, target - self._reserved)
        except OutOfSharedMemory:
            if target == end:
                raise
            target = end
            reserve(self._descriptor, self.name, self._reserved, target - self._reserved)
        self._reserved = target

    @property
    def reserved(self) -> int:
        """Bytes of memory taken."""
        return self._reserved

    def close(self) -> None:
        """Let go of the mapping; the object stays until it is unlinked."""
        self.buffer = memoryview(b"")
        os.close(self._descriptor)
        self._memory.close()
