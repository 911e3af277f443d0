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
from shmroute.shm.control import find_control
from shmroute.shm.names import lock_name

_ATTEMPTS: Final = 100
"""Maximum attempts to take the lock. A lost race means that another process made progress: many are a fault."""


class AreaLock:
    """A file of an area, opened in this process to lock it. `acquire` takes the area's lock.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `posix.open_object`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.descriptor = posix.open_object(name, write=True)
        """The open file; -1 after `release`, and in a forked child."""
        self._identity = posix.file_identity(self.descriptor)
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
                lock = cls(name)
            except FileNotFoundError:
                try:
                    os.close(posix.create_object(name))
                except NoAccess:
                    if not posix.exists(name):  # else another process has just created it
                        raise
                continue
            if not lock.take():
                lock.forget()
                control = find_control(area)
                pid = control.writer_pid if control else 0
                raise AreaBusy(area, pid, here=_has_open(pid, lock._identity))
            if lock.intact:
                return lock
            lock.forget()
        raise AreaUnreadable(name, "it keeps being replaced")

    def take(self) -> bool:
        """Lock the file, without waiting. Returns False if another process holds the lock."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def held(self) -> bool:
        """Whether this process has the file open. False after `release`, and in a forked child."""
        return self.descriptor >= 0

    @property
    def intact(self) -> bool:
        """Whether a lock still excludes others: the descriptor is open, and its file still has the name."""
        return posix.owns(self.descriptor, self._identity) and posix.leads_to(self._name, self._identity)

    def release(self) -> None:
        """Release the lock."""
        if posix.owns(self.descriptor, self._identity):
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # at once, even if another process shares the descriptor
        self.forget()

    def forget(self) -> None:
        """Close the descriptor. In a forked child, the parent keeps the lock."""
        descriptor, self.descriptor = self.descriptor, -1
        if posix.owns(descriptor, self._identity):
            os.close(descriptor)


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
