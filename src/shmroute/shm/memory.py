"""POSIX shared memory objects by name: create, reserve, attach, list, unlink. The only module that touches /dev/shm.

Segments are created as `multiprocessing.shared_memory` objects, never registered with the resource tracker, and mapped
by name, by readers read-only (the stdlib's attach opens read-write and costs a worker 30 ms of imports). Linux only:
POSIX shared memory is a directory there.
"""

from __future__ import annotations

import errno
import grp
import mmap
import os
import re
import stat
import sys
import threading
from contextlib import suppress
from typing import Final

from shmroute.errors import AreaUnreadable, ConfigError, NoAccess, OutOfSharedMemory

DIRECTORY: Final = os.environ.get("SHMROUTE_DIR") or "/dev/shm"  # noqa: S108 - this is the point
"""Folder of all areas. Read once: all processes of an area name the same one."""
_AREA_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""No dot: it separates the area from a segment's generation in a name."""

_BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`, whatever the file system."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
_NO_REGULAR_FILE: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
"""What opening a symbolic link (not followed), a directory or a socket ends in."""

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
    return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix))  # noqa: PTH208


def path_of(name: str) -> str:
    """Where the object of that name lies. A plain string: pathlib would cost each worker its import."""
    return f"{DIRECTORY}/{name}"


def unlink(name: str) -> None:
    """Take the name away; whoever maps the object keeps it. No error if it is gone already.

    Raises:
        NoAccess: it belongs to another user, or is no shared memory object at all.
    """
    try:
        os.unlink(path_of(name))  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _no_access(name, error) from error


def sweep(area: str, keep: str | None = None) -> list[NoAccess]:
    """Take away everything of the area beside the control block and the segment `keep`. For the lock's holder.

    Returns:
        What could not be taken away.
    """
    problems = []
    for name in segment_names(area):
        if name != keep:
            try:
                unlink(name)
            except NoAccess as error:
                problems.append(error)
    return problems


def open_object(name: str, *, write: bool = False) -> int:
    """A descriptor of the object.

    Raises:
        FileNotFoundError: no such object.
        NoAccess: the operating system refuses it to this process.
        AreaUnreadable: something else than a shared memory object has that name.
    """
    flags = os.O_RDWR if write else os.O_RDONLY
    try:
        # Non-blocking, since a named pipe of that name would keep us waiting.
        descriptor = os.open(path_of(name), flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _NO_REGULAR_FILE:
            raise AreaUnreadable(name, "it is no shared memory object") from error
        raise _no_access(name, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AreaUnreadable(name, "it is no shared memory object")
    return descriptor


def create_object(name: str) -> int:
    """A descriptor of a new, empty object of that name.

    Raises:
        OutOfSharedMemory: no more objects are allowed.
        NoAccess: the operating system refuses it.
    """
    try:
        return os.open(path_of(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise no_room(name, 0) from error
        raise _no_access(name, error) from error


def attach(name: str, *, write: bool = False) -> mmap.mmap:
    """Map the whole object.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `open_object`; the last also where the object is empty.
    """
    descriptor = open_object(name, write=write)
    access = mmap.PROT_READ | mmap.PROT_WRITE if write else mmap.PROT_READ
    try:
        return mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=access)
    except ValueError as error:
        raise AreaUnreadable(name, "it is empty") from error
    except OSError as error:
        raise _no_access(name, error) from error
    finally:
        os.close(descriptor)


def _no_access(name: str, error: OSError) -> NoAccess:
    hint = ""
    if isinstance(error, PermissionError):
        with suppress(OSError):
            status = os.lstat(path_of(name))
            hint = (
                f" (user {status.st_uid} owns it, mode {stat.S_IMODE(status.st_mode):04o}; this process is user"
                f" {os.geteuid()}): run watcher and workers as one user, or let the watcher share it (--group)"
            )
    return NoAccess(name, error.strerror or str(error), hint)


def reserve(descriptor: int, name: str, start: int, length: int) -> None:
    """Take pages for `length` bytes from `start`, so that writing them cannot end in SIGBUS.

    Raises:
        OutOfSharedMemory: the file system has no room.
    """
    try:
        os.posix_fallocate(descriptor, start, length)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise no_room(name, length) from error


def no_room(name: str, needed_bytes: int) -> OutOfSharedMemory:
    """The error that says what was needed and what is free."""
    file_system = os.statvfs(DIRECTORY)
    return OutOfSharedMemory(name, needed_bytes, file_system.f_bavail * file_system.f_frsize)


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


def _create_untracked(name: str, size: int) -> None:
    """Create an object of `size` bytes without telling the resource tracker.

    Before Python 3.13 there is no `track=False`. Unregistering afterwards would leave an instant in which a kill takes
    the segment away, and would start the tracker's process; so nothing is registered in the first place.

    Raises:
        OutOfSharedMemory: no room, or no more objects allowed.
        NoAccess: something that cannot be taken away has that name.
    """
    from multiprocessing import shared_memory

    unlink(name)  # whoever holds the area's lock may: nothing but a leftover has the name of a generation to come
    try:
        if sys.version_info >= (3, 13):
            shared_memory.SharedMemory(name, create=True, size=size, track=False).close()
            return

        class _NoTracker:
            @staticmethod
            def register(name: str, rtype: str) -> None: ...

            @staticmethod
            def unregister(name: str, rtype: str) -> None: ...

        with _tracker_lock:
            tracker = shared_memory.resource_tracker  # type: ignore[attr-defined]
            shared_memory.resource_tracker = _NoTracker  # type: ignore[attr-defined]
            try:
                shared_memory.SharedMemory(name, create=True, size=size).close()
            finally:
                shared_memory.resource_tracker = tracker  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise no_room(name, size) from error
        raise _no_access(name, error) from error


class WritableSegment:
    """A segment under the writer's hands, its pages reserved as they are needed.

    Mapped without the stdlib's class, a failed attach of which unlinks the object
    (https://github.com/python/cpython/issues/82300).

    Args:
        name: an object that is there.
        reserved: so many of its first bytes are known to have pages.
        ownership: who may read it.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `attach`.
        ConfigError: this process may not give it to the group.
    """

    RESERVE_STEP_BYTES: Final = 256 * 1024
    """Reserving costs a system call and zeroing: a step of this size keeps both rare and small."""

    def __init__(self, name: str, reserved: int, ownership: Ownership) -> None:
        self.name = name
        self._reserved = reserved
        self._descriptor = open_object(name, write=True)
        try:
            ownership.apply(self._descriptor)
            self._map = attach(name, write=True)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.buffer = memoryview(self._map)

    @classmethod
    def create(cls, name: str, size: int, ownership: Ownership) -> WritableSegment:
        """Make one; `size` is the address space it may grow into, memory is taken only by `ensure`.

        Raises:
            OutOfSharedMemory, NoAccess, ConfigError: it cannot be made; nothing is left of it.
        """
        _create_untracked(name, size)
        try:
            return cls(name, 0, ownership)
        except BaseException:
            unlink(name)
            raise

    def ensure(self, end: int, *, exactly: bool = False) -> None:
        """Make sure that bytes up to `end` have pages.

        Raises:
            OutOfSharedMemory: no room; nothing has changed.
        """
        if end <= self._reserved:
            return
        target = end if exactly else min(len(self._map), end + self.RESERVE_STEP_BYTES)
        try:
            reserve(self._descriptor, self.name, self._reserved, target - self._reserved)
        except OutOfSharedMemory:
            if target == end:
                raise
            target = end
            reserve(self._descriptor, self.name, self._reserved, target - self._reserved)
        self._reserved = target

    @property
    def taken(self) -> int:
        """Bytes of /dev/shm it takes."""
        return os.fstat(self._descriptor).st_blocks * _BLOCK_BYTES

    def close(self) -> None:
        """Let go of the mapping; the object stays until it is unlinked."""
        self.buffer.release()
        self._map.close()
        os.close(self._descriptor)
