"""The lock of an area. Its holder is the area's writer.

The lock is `flock` on a separate file with mode 0600, which only its owner can open: a reader of the area cannot take
or block it. The kernel releases the lock when the process ends; forked children do not keep it.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress
from typing import Final

from shmroute.errors import AreaBusy, AreaUnreadable, NoAccess
from shmroute.shm import posix
from shmroute.shm.control import ControlReader
from shmroute.shm.names import lock_name

__all__ = ["AreaLock"]

_ATTEMPTS: Final = 100
"""Maximum attempts to take the lock. A lost race means that another process made progress: many are a fault."""


class AreaLock:
    """The lock of an area in this process. Made by `acquire`."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self._identity = posix.file_identity(descriptor)
        _held.add(self)

    @classmethod
    def acquire(cls, area: str) -> AreaLock:
        """Take the lock, without waiting.

        Raises:
            AreaBusy: another process holds the lock.
            NoAccess: an untrusted user owns the lock's file, or this process may not create it.
            AreaUnreadable: the name belongs to something other than a file.
            OutOfSharedMemory: no more files are allowed.
        """
        name = lock_name(area)
        for _ in range(_ATTEMPTS):
            try:
                descriptor = posix.open_object(name, write=True)
            except FileNotFoundError:
                try:
                    os.close(posix.create_object(name))
                except NoAccess:
                    if not posix.exists(name):  # else another process has just created it
                        raise
                continue
            lock = None
            try:
                lock = cls._locked(area, name, descriptor)
            finally:
                if lock is None:
                    os.close(descriptor)
            if lock is not None:
                return lock
        raise AreaUnreadable(name, "it keeps being replaced")

    @classmethod
    def _locked(cls, area: str, name: str, descriptor: int) -> AreaLock | None:
        """Lock the descriptor's file. Returns None if the name belongs to another file by now."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _writer_pid(area)
            raise AreaBusy(area, pid, here=_has_open(pid, posix.file_identity(descriptor))) from None
        return cls(name, descriptor) if posix.leads_to(name, posix.file_identity(descriptor)) else None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock. False after `release`, and in a forked child."""
        return self._descriptor >= 0

    @property
    def intact(self) -> bool:
        """Whether the lock still excludes others: its descriptor is open, and its file still has the name."""
        return self._owns_descriptor() and posix.leads_to(self._name, self._identity)

    def _owns_descriptor(self) -> bool:
        try:
            return self.held and posix.file_identity(self._descriptor) == self._identity
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock."""
        if self._owns_descriptor():
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # at once, even if another process shares the descriptor
        self.forget()

    def forget(self) -> None:
        """Close the descriptor. In a forked child, the parent keeps the lock."""
        owned = self._owns_descriptor()
        descriptor, self._descriptor = self._descriptor, -1
        if owned:
            os.close(descriptor)


def _writer_pid(area: str) -> int:
    with suppress(FileNotFoundError, AreaUnreadable, NoAccess):
        return ControlReader(area).writer_pid
    return 0


def _has_open(pid: int, identity: tuple[int, int]) -> bool:
    """Return whether the process of that id, as this process counts them, has the file open."""
    descriptors = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(descriptors):  # noqa: PTH208
            with suppress(OSError):
                found = os.stat(f"{descriptors}/{name}")  # noqa: PTH116
                if (found.st_dev, found.st_ino) == identity:
                    return True
    return False


_held: Final[weakref.WeakSet[AreaLock]] = weakref.WeakSet()


def _after_fork() -> None:
    """Close the descriptors in a child, which would otherwise keep the lock after the writer's end."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_after_fork)
