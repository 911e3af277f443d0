"""The lock of an area: whoever holds it is the writer.

`flock` on a file of its own with mode 0600, so that only its owner can open it: a reader of the area cannot take or
block the lock. It dies with its process and is not left to forked children.
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

__all__ = ["AreaLock"]

_ATTEMPTS: Final = 100
"""Each lost race means that somebody else made progress; more than a few in a row do not happen."""


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
            AreaBusy: another process has it.
            NoAccess: an untrusted user owns the file of that name, or this process may not create it.
            AreaUnreadable: something else than a file has that name.
            OutOfSharedMemory: no more files are allowed.
        """
        name = posix.lock_name(area)
        for _ in range(_ATTEMPTS):
            try:
                descriptor = posix.open_object(name, write=True)
            except FileNotFoundError:
                try:
                    os.close(posix.create_object(name))
                except NoAccess:
                    if not posix.exists(name):  # else somebody was faster
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
        """The lock by that descriptor; None if the name belongs to another file by now."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AreaBusy(area, _writer_pid(area)) from None
        return cls(name, descriptor) if posix.leads_to(name, posix.file_identity(descriptor)) else None

    @property
    def held(self) -> bool:
        """Whether this process has the lock: False after `release`, and in a child that was forked since."""
        return self._descriptor >= 0

    @property
    def intact(self) -> bool:
        """Whether the lock still keeps others out: nobody closed its descriptor, and its file keeps its name."""
        return self._owns_descriptor() and posix.leads_to(self._name, self._identity)

    def _owns_descriptor(self) -> bool:
        try:
            return self.held and posix.file_identity(self._descriptor) == self._identity
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back."""
        if self._owns_descriptor():
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # not left to the last of several processes to close it
        self.forget()

    def forget(self) -> None:
        """Close the descriptor, which takes the lock from nobody else. For a forked child."""
        owned = self._owns_descriptor()
        descriptor, self._descriptor = self._descriptor, -1
        if owned:
            os.close(descriptor)


def _writer_pid(area: str) -> int:
    with suppress(FileNotFoundError, AreaUnreadable, NoAccess):
        return ControlReader(area).writer_pid
    return 0


_held: Final[weakref.WeakSet[AreaLock]] = weakref.WeakSet()


def _after_fork() -> None:
    """A child would keep the lock beyond the writer's death."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_after_fork)
