"""A segment's file as its writer sees it: mapped read-write, enlarged as needed, with every page reserved first.

A page that is not reserved would raise SIGBUS in the writer when `/dev/shm` is full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shmroute.errors import AreaUnreadable, OutOfSharedMemory
from shmroute.shm import posix

FRESH_BYTES: Final = 1 << 20
"""Address space of a new segment, before its writer enlarges it."""


class WritableSegment:
    """A segment's file, mapped for its writer. Pages are reserved as they are needed.

    No descriptor stays open: to grow, the file is opened by name and compared with the mapped one.

    Args:
        name: name of an existing file.
        ownership: the users who may read the file.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `attach`.
        ConfigError: this process may not give the file to the group.
    """

    RESERVE_STEP_BYTES: Final = 256 * 1024
    """Bytes reserved at a time. Reserving costs a system call and zeroing: this step keeps both rare and short."""

    def __init__(self, name: str, ownership: posix.Ownership) -> None:
        self.name = name
        self.fresh = False
        """Whether `create` has made the file."""
        self._reserved = 0
        descriptor = posix.open_object(name, write=True)
        try:
            self._identity = posix.file_identity(descriptor)
            ownership.apply(descriptor)
            self._map = posix.map_file(descriptor, name, write=True)
        finally:
            os.close(descriptor)
        self.buffer = memoryview(self._map)

    @classmethod
    def create(cls, name: str, size: int, ownership: posix.Ownership) -> WritableSegment:
        """Create a file with `size` bytes of address space. Only `ensure` takes memory.

        Raises:
            OutOfSharedMemory, NoAccess, ConfigError: the file cannot be made; none is left behind.
        """
        descriptor = posix.create_object(name)
        try:
            try:
                posix.set_size(descriptor, name, size)
            finally:
                os.close(descriptor)
            self = cls(name, ownership)
        except BaseException:
            posix.unlink(name)
            raise
        self.fresh = True
        return self

    @property
    def size(self) -> int:
        """Address space of the file, in bytes."""
        return len(self._map)

    @property
    def present(self) -> bool:
        """Whether the name still leads to this file."""
        return posix.leads_to(self.name, self._identity)

    def enlarge(self, size: int) -> None:
        """Grow the address space to at least `size` bytes. Readers' mappings stay valid; `buffer` is replaced.

        Raises:
            OutOfSharedMemory: the file may not become so large.
            AreaUnreadable, NoAccess: the file has been removed or replaced.
        """
        if size <= self.size:
            return
        with self._opened() as descriptor:
            posix.set_size(descriptor, self.name, size)
            larger = posix.map_file(descriptor, self.name, write=True)
        self.buffer.release()
        self._map.close()
        self._map = larger
        self.buffer = memoryview(larger)

    def ensure(self, end: int, *, exactly: bool = False) -> None:
        """Reserve pages for all bytes up to `end`.

        Raises:
            OutOfSharedMemory: there is no room; nothing has changed.
            AreaUnreadable, NoAccess: the file has been removed or replaced.
        """
        if end <= self._reserved:
            return
        target = end if exactly else min(self.size, end + self.RESERVE_STEP_BYTES)
        with self._opened() as descriptor:
            try:
                posix.reserve(descriptor, self.name, self._reserved, target - self._reserved)
            except OutOfSharedMemory:
                if target == end:
                    raise
                target = end
                posix.reserve(descriptor, self.name, self._reserved, target - self._reserved)
        self._reserved = target

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = posix.open_object(self.name, write=True)
        except FileNotFoundError as error:
            raise AreaUnreadable(self.name, "its file has been removed") from error
        try:
            if posix.file_identity(descriptor) != self._identity:
                raise AreaUnreadable(self.name, "its file has been replaced")
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap the file, which stays until it is unlinked."""
        self.buffer.release()
        self._map.close()
