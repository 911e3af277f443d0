"""The files of an area: create, reserve, map, list, unlink. The only module that touches the area's folder.

The folder is `/dev/shm` by default; its files are POSIX shared memory objects, which
`multiprocessing.shared_memory.SharedMemory(name=...)` opens too. That class is not used here: it opens read-write,
costs a worker 30 ms of imports, and registers the object with a tracker process that unlinks files still in use by
others (https://github.com/python/cpython/issues/82300). Elsewhere than on Linux
the folder is one of ordinary files.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from shmroute.errors import AreaUnreadable, ConfigError, NoAccess, OutOfSharedMemory
from shmroute.shm.names import DIRECTORY, fixed_names, path_of, segment_names
from shmroute.shm.trust import MAX_ID, TRUST_VARIABLE, check_opened

FIRST_DESCRIPTOR: Final = 3
"""Lowest descriptor to use. 0 to 2 are the standard streams: a file there would receive text that libraries print."""

_STEP_BYTES: Final = 1 << 20
"""Bytes that are copied at once where pages are taken by writing."""

_BLOCK_BYTES: Final = 512
"""Unit of `st_blocks` on all file systems."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
_NO_REGULAR_FILE: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
"""Errors of opening a symbolic link (not followed), a directory or a socket."""


# --- files -------------------------------------------------------------------------------------------------


def unlink(name: str) -> None:
    """Remove a file, if it exists. Processes that map it keep their mapping.

    Raises:
        NoAccess: the file belongs to another user, or is not a file at all.
    """
    try:
        os.unlink(path_of(name))  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _no_access(name, error) from error


def sweep(area: str, keep: tuple[str, ...] = ()) -> list[NoAccess]:
    """Remove the area's segments and unfinished files, except those named in `keep`. Only for the lock's holder.

    Returns:
        An error for each file that could not be removed.
    """
    problems = []
    for name in segment_names(area):
        if name not in keep:
            try:
                unlink(name)
            except NoAccess as error:
                problems.append(error)
    return problems


def open_object(name: str, *, write: bool = False, group_writes: bool = False) -> int:
    """Open a file and check its owner and mode. Returns a descriptor, not below 3.

    Raises:
        FileNotFoundError: there is no such file.
        NoAccess: the operating system or `trust.check_opened` refuses access.
        AreaUnreadable: the name belongs to something other than a regular file.
    """
    flags = os.O_RDWR if write else os.O_RDONLY
    try:
        # Non-blocking, since opening a named pipe would wait.
        descriptor = _open(path_of(name), flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _NO_REGULAR_FILE:
            raise AreaUnreadable(name, "it is not a shared memory object") from error
        raise _no_access(name, error) from error
    try:
        check_opened(name, os.fstat(descriptor), group_writes=group_writes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create_object(name: str) -> int:
    """Create an empty file with mode 0600. Returns a descriptor, not below 3.

    Raises:
        OutOfSharedMemory: no more files are allowed.
        NoAccess: the operating system refuses it, for instance because the name is taken.
    """
    try:
        return _open(path_of(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise no_room(name, 0) from error
        raise _no_access(name, error) from error


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    if descriptor >= FIRST_DESCRIPTOR:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    finally:
        os.close(descriptor)


def file_identity(descriptor: int) -> tuple[int, int]:
    """Return device and inode of a descriptor's file."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def owns(descriptor: int, identity: tuple[int, int]) -> bool:
    """Return whether the descriptor is open and still has the file with this identity: a daemoniser closes them all."""
    try:
        return descriptor >= 0 and file_identity(descriptor) == identity
    except OSError:
        return False


def exists(name: str) -> bool:
    """Return whether a file of any kind has this name."""
    return os.path.lexists(path_of(name))


def taken_bytes(name: str) -> int:
    """Return the bytes of shared memory that the file takes; 0 if it has been removed."""
    try:
        return os.lstat(path_of(name)).st_blocks * _BLOCK_BYTES
    except OSError:
        return 0


def area_bytes(area: str) -> int:
    """Return the memory that all files of the area take, in bytes."""
    return sum(map(taken_bytes, (*fixed_names(area), *segment_names(area))))


def leads_to(name: str, identity: tuple[int, int]) -> bool:
    """Return whether the name still belongs to the file with this identity."""
    try:
        status = os.lstat(path_of(name))
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity


def _no_access(name: str, error: OSError) -> NoAccess:
    hint = ""
    if isinstance(error, PermissionError):
        with suppress(OSError):
            status = os.lstat(path_of(name))
            hint = (
                f" (user {status.st_uid} owns it, mode {stat.S_IMODE(status.st_mode):04o}; this process is user"
                f" {os.geteuid()}): run watcher and workers as one user, or let the watcher share it (--group) and name"
                f" the watcher's user in {TRUST_VARIABLE}"
            )
    return NoAccess(name, error.strerror or str(error), hint)


def reserve(descriptor: int, name: str, start: int, length: int) -> None:
    """Reserve pages for `length` bytes from `start`, so that writing them cannot cause a SIGBUS.

    Raises:
        OutOfSharedMemory: the file system has no room.
    """
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, start, length)
        else:
            _write_anew(descriptor, start, length)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise no_room(name, length) from error


def _write_anew(descriptor: int, start: int, length: int) -> None:
    """Write what is there, and zeros where nothing is: takes pages where the system has no call for it."""
    for at in range(start, start + length, _STEP_BYTES):
        size = min(_STEP_BYTES, start + length - at)
        os.pwrite(descriptor, os.pread(descriptor, size, at).ljust(size, b"\0"), at)


def no_room(name: str, needed_bytes: int) -> OutOfSharedMemory:
    """Return the error with the needed and the free bytes."""
    file_system = os.statvfs(DIRECTORY)
    return OutOfSharedMemory(name, needed_bytes, file_system.f_bavail * file_system.f_frsize)


def set_size(descriptor: int, name: str, size: int) -> None:
    """Set a file's size, which takes no memory.

    Raises:
        OutOfSharedMemory: the file may not become so large.
        NoAccess: the operating system refuses it.
    """
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:  # EFBIG: RLIMIT_FSIZE
        if error.errno in (*_NO_ROOM, errno.EFBIG, errno.EINVAL):
            raise no_room(name, size) from error
        raise _no_access(name, error) from error


class Ownership:
    """The users who may read an area: its owner alone (0600), or also a group (0640).

    Raises:
        ConfigError: there is no such group, or no group can have this number.
    """

    def __init__(self, group: str | int | None = None) -> None:
        import grp  # imported here, since only a watcher needs it

        try:
            self.group_id = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
        except KeyError as error:
            raise ConfigError(f"there is no group {group!r} here; give its number instead") from error
        if self.group_id is not None and not 0 <= self.group_id <= MAX_ID:
            raise ConfigError(f"a group cannot have the number {self.group_id}: it is from 0 to {MAX_ID}")

    def apply(self, descriptor: int, *, group_writes: bool = False) -> None:
        """Set group and mode of a file that this process owns. `group_writes` is for the workers' register.

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
        os.fchmod(descriptor, 0o660 if group_writes else 0o640)


def make_file(
    name: str, head: bytes, size: int, ownership: Ownership, *, group_writes: bool = False, replace: bool = False
) -> None:
    """Make a file of `size` bytes that begins with `head`. Nobody sees half of it: it gets its name at the end.

    If the name is taken by then, the other file stays, unless `replace` is set.

    Raises:
        OutOfSharedMemory, NoAccess, ConfigError, OSError: the file cannot be made; none is left behind.
    """
    temporary = f"{name}.new-{os.urandom(8).hex()}"
    descriptor = create_object(temporary)
    try:
        reserve(descriptor, name, 0, size)
        os.pwrite(descriptor, head, 0)
        ownership.apply(descriptor, group_writes=group_writes)
        if replace:
            os.rename(path_of(temporary), path_of(name))  # noqa: PTH104
        else:
            with suppress(FileExistsError, FileNotFoundError):  # not found: a faster process has swept ours away
                os.link(path_of(temporary), path_of(name))
    finally:
        os.close(descriptor)
        unlink(temporary)


# --- mappings ----------------------------------------------------------------------------------------------


def attach(name: str, *, write: bool = False) -> Mapping:
    """Map the whole file.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `open_object`; the last also if the file is empty.
    """
    descriptor = open_object(name, write=write)
    try:
        return map_file(descriptor, name, write=write)
    finally:
        os.close(descriptor)


def map_file(descriptor: int, name: str, *, write: bool) -> Mapping:
    """Map the whole file of a descriptor, which may be closed afterwards.

    Raises:
        NoAccess, AreaUnreadable: as `attach`.
    """
    access = mmap.PROT_READ | mmap.PROT_WRITE if write else mmap.PROT_READ
    try:
        if sys.version_info >= (3, 13):
            return Mapping(descriptor, 0, flags=mmap.MAP_SHARED, prot=access, trackfd=False)
        with _standard_streams_taken():
            return Mapping(descriptor, 0, flags=mmap.MAP_SHARED, prot=access)
    except ValueError as error:
        raise AreaUnreadable(name, "it is empty") from error
    except OSError as error:
        raise _no_access(name, error) from error


@contextmanager
def _standard_streams_taken() -> Iterator[None]:
    """Occupy free descriptors from 0 to 2: an mmap duplicates its descriptor to the lowest free number."""
    taken = []
    try:
        while True:
            descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            taken.append(descriptor)
            if descriptor >= FIRST_DESCRIPTOR:
                break
        os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


_abandoned: Final[list[Mapping]] = []


class Mapping(mmap.mmap):
    """A mapping that never closes another file's descriptor.

    Before Python 3.13 (`trackfd=False`) an mmap keeps a duplicate of its descriptor and closes that number at its end.
    A daemoniser may have closed the number, and another file or socket may have it now. Then the mapping is kept
    forever: that costs address space, but closing it would cut another connection.
    """

    if sys.version_info < (3, 13):

        def _owns_descriptor(self) -> bool:
            try:
                size = self.size()  # the size of the descriptor's file
            except ValueError:  # the mapping is already closed
                return True
            except OSError:
                return False
            return size >= len(self) and size & (size - 1) == 0  # our files' sizes are powers of two and never shrink

        def close(self) -> None:
            """Unmap."""
            if self._owns_descriptor():
                super().close()

        def __del__(self, abandoned: list[Any] = _abandoned) -> None:
            if not self._owns_descriptor():
                abandoned.append(self)
