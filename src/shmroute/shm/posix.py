"""Files of an area by name: create, reserve, map, list, unlink. The only module that touches the area's folder.

The folder is `/dev/shm` by default; what lies there are POSIX shared memory objects, which
`multiprocessing.shared_memory.SharedMemory(name=...)` opens too. Mapped here without that class: its attach opens
read-write, costs a worker 30 ms of imports, and registers the object with a tracker process that unlinks what others
use (https://github.com/python/cpython/issues/82300). Linux only.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import mmap
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from shmroute.errors import AreaUnreadable, ConfigError, NoAccess, OutOfSharedMemory
from shmroute.shm.trust import MAX_ID, TRUST_VARIABLE, check_opened

DIRECTORY: Final = os.environ.get("SHMROUTE_DIR") or "/dev/shm"  # noqa: S108 - this is the point
"""Folder of all areas. Read once: all processes of an area name the same one."""

_AREA_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""No dot: it separates the area from what follows in a name."""

FIRST_DESCRIPTOR: Final = 3
"""Descriptors 0 to 2 are the standard streams: a file there would receive what a library prints."""

FRESH_BYTES: Final = 1 << 20
"""Address space of a new segment, before its writer enlarges it."""

_BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`, whatever the file system."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
_NO_REGULAR_FILE: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
"""What opening a symbolic link (not followed), a directory or a socket ends in."""


# --- names -------------------------------------------------------------------------------------------------


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


def segment_name(area: str, identity: int) -> str:
    """The name of the segment of `area` with that random number."""
    return f"{control_name(area)}.{identity:016x}"


def lock_name(area: str) -> str:
    """The name of the file whose lock the writer holds."""
    return f"{control_name(area)}.lock"


def register_name(area: str) -> str:
    """The name of the workers' register."""
    return f"{control_name(area)}.workers"


def events_name(area: str) -> str:
    """The name of the event log."""
    return f"{control_name(area)}.events"


def segment_names(area: str) -> list[str]:
    """Names of the area's segments, and of what a crash left unfinished: all but the files of fixed names."""
    kept = {lock_name(area), register_name(area), events_name(area)}
    prefix = control_name(area) + "."
    return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix) and name not in kept)  # noqa: PTH208


def area_names() -> list[str]:
    """Names of the areas that the folder holds files of, in order."""
    prefix = control_name("x")[:-1]
    found = {name.removeprefix(prefix).partition(".")[0] for name in os.listdir(DIRECTORY) if name.startswith(prefix)}  # noqa: PTH208
    return sorted(name for name in found if _AREA_NAME.fullmatch(name))


def fixed_names(area: str) -> tuple[str, ...]:
    """Names of the area's files whose names are not random, the lock last: who has it may remove the others."""
    return control_name(area), register_name(area), events_name(area), lock_name(area)


def path_of(name: str) -> str:
    """Where the file of that name lies. A plain string: pathlib would cost each worker its import."""
    return f"{DIRECTORY}/{name}"


# --- files -------------------------------------------------------------------------------------------------


def unlink(name: str) -> None:
    """Take the name away; processes that map the file keep it. No error if it is gone already.

    Raises:
        NoAccess: it belongs to another user, or is not a file at all.
    """
    try:
        os.unlink(path_of(name))  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _no_access(name, error) from error


def sweep(area: str, keep: tuple[str, ...] = ()) -> list[NoAccess]:
    """Take away segments and leftovers of the area but those named in `keep`. For the lock's holder.

    Returns:
        What could not be taken away.
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
    """A descriptor of the file, not below 3, whose owner and mode have been checked.

    Raises:
        FileNotFoundError: no such file.
        NoAccess: the operating system refuses it to this process, or `trust.check_opened` does.
        AreaUnreadable: something else than a regular file has that name.
    """
    flags = os.O_RDWR if write else os.O_RDONLY
    try:
        # Non-blocking: a named pipe of that name would keep us waiting.
        descriptor = _open(path_of(name), flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _NO_REGULAR_FILE:
            raise AreaUnreadable(name, "it is no shared memory object") from error
        raise _no_access(name, error) from error
    try:
        check_opened(name, os.fstat(descriptor), group_writes=group_writes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create_object(name: str) -> int:
    """A descriptor, not below 3, of a new, empty file of that name with mode 0600.

    Raises:
        OutOfSharedMemory: no more files are allowed.
        NoAccess: the operating system refuses it, for instance since the name is taken.
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
    """Device and inode: which file a descriptor leads to."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def exists(name: str) -> bool:
    """Whether anything has that name."""
    return os.path.lexists(path_of(name))


def taken_bytes(name: str) -> int:
    """Bytes of shared memory that the file takes; 0 if it has been removed."""
    try:
        return os.lstat(path_of(name)).st_blocks * _BLOCK_BYTES
    except OSError:
        return 0


def leads_to(name: str, identity: tuple[int, int]) -> bool:
    """Whether that name still belongs to that file."""
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
    """Who may read an area: its user alone (0600), or also a group (0640).

    Raises:
        ConfigError: there is no such group, or a number that no group can have.
    """

    def __init__(self, group: str | int | None = None) -> None:
        try:
            self.group_id = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
        except KeyError as error:
            raise ConfigError(f"there is no group {group!r} here; give its number instead") from error
        if self.group_id is not None and not 0 <= self.group_id <= MAX_ID:
            raise ConfigError(f"a group cannot have the number {self.group_id}: it is from 0 to {MAX_ID}")

    def apply(self, descriptor: int, *, group_writes: bool = False) -> None:
        """Set group and mode of a file that this process owns; `group_writes`: for the workers' register.

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


# --- mappings ----------------------------------------------------------------------------------------------


def attach(name: str, *, write: bool = False) -> Mapping:
    """Map the whole file.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `open_object`; the last also where the file is empty.
    """
    descriptor = open_object(name, write=write)
    try:
        return _map(descriptor, name, write=write)
    finally:
        os.close(descriptor)


def _map(descriptor: int, name: str, *, write: bool) -> Mapping:
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
    """Occupy descriptors 0 to 2 where they are free: an mmap duplicates its descriptor to the lowest free number."""
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
    """A mapping that closes no descriptor but its own.

    Before Python 3.13 (`trackfd=False`) an mmap keeps a duplicate of the descriptor it was made of and closes that
    number at its end. A daemoniser may have closed the number meanwhile and somebody else may own it. Then the mapping
    is kept for ever: it costs address space, where closing it would cut somebody's connection.
    """

    if sys.version_info < (3, 13):

        def _owns_descriptor(self) -> bool:
            try:
                size = self.size()  # asks the descriptor
            except ValueError:  # closed: there is nothing left to close
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


class WritableSegment:
    """A segment's file under the writer's hands, its pages reserved as they are needed.

    No descriptor is kept: the file is opened by name whenever it must grow, and compared with what was mapped.

    Args:
        name: of an existing file.
        ownership: who may read it.

    Raises:
        FileNotFoundError, NoAccess, AreaUnreadable: as `attach`.
        ConfigError: this process may not give it to the group.
    """

    RESERVE_STEP_BYTES: Final = 256 * 1024
    """Reserving costs a system call and zeroing: a step of this size keeps both rare and small."""

    def __init__(self, name: str, ownership: Ownership) -> None:
        self.name = name
        self.fresh = False
        """Whether `create` has made it."""
        self._reserved = 0
        descriptor = open_object(name, write=True)
        try:
            self._identity = file_identity(descriptor)
            ownership.apply(descriptor)
            self._map = _map(descriptor, name, write=True)
        finally:
            os.close(descriptor)
        self.buffer = memoryview(self._map)

    @classmethod
    def create(cls, name: str, size: int, ownership: Ownership) -> WritableSegment:
        """Make one; `size` is the address space it may grow into, memory is taken only by `ensure`.

        Raises:
            OutOfSharedMemory, NoAccess, ConfigError: it cannot be made; nothing is left of it.
        """
        descriptor = create_object(name)
        try:
            try:
                _set_size(descriptor, name, size)
            finally:
                os.close(descriptor)
            self = cls(name, ownership)
        except BaseException:
            unlink(name)
            raise
        self.fresh = True
        return self

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return len(self._map)

    @property
    def present(self) -> bool:
        """Whether the name still leads to this file."""
        return leads_to(self.name, self._identity)

    def enlarge(self, size: int) -> None:
        """Make the address space at least `size` bytes. Readers' mappings stay valid. `buffer` is a new one after it.

        Raises:
            OutOfSharedMemory: the file may not become so large.
            AreaUnreadable, NoAccess: the file has been removed or replaced.
        """
        if size <= self.size:
            return
        with self._opened() as descriptor:
            _set_size(descriptor, self.name, size)
            larger = _map(descriptor, self.name, write=True)
        self.buffer.release()
        self._map.close()
        self._map = larger
        self.buffer = memoryview(larger)

    def ensure(self, end: int, *, exactly: bool = False) -> None:
        """Make sure that bytes up to `end` have pages.

        Raises:
            OutOfSharedMemory: no room; nothing has changed.
            AreaUnreadable, NoAccess: the file has been removed or replaced.
        """
        if end <= self._reserved:
            return
        target = end if exactly else min(self.size, end + self.RESERVE_STEP_BYTES)
        with self._opened() as descriptor:
            try:
                reserve(descriptor, self.name, self._reserved, target - self._reserved)
            except OutOfSharedMemory:
                if target == end:
                    raise
                target = end
                reserve(descriptor, self.name, self._reserved, target - self._reserved)
        self._reserved = target

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = open_object(self.name, write=True)
        except FileNotFoundError as error:
            raise AreaUnreadable(self.name, "somebody has removed it") from error
        try:
            if file_identity(descriptor) != self._identity:
                raise AreaUnreadable(self.name, "somebody has replaced it")
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap it; the file stays until it is unlinked."""
        self.buffer.release()
        self._map.close()


def _set_size(descriptor: int, name: str, size: int) -> None:
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:  # EFBIG: RLIMIT_FSIZE
        if error.errno in (*_NO_ROOM, errno.EFBIG, errno.EINVAL):
            raise no_room(name, size) from error
        raise _no_access(name, error) from error
