"""The workers' register: the processes that read the area, their generations, and why one is stuck.

The register is a file beside the control block, so that the data stays read-only for readers. Each process takes a
place by an OFD lock, which ends with the process and works across pid namespaces. It writes there after moves to
another generation, at most every 10 ms unless there is a problem. Workers write by `Register`; `read_workers` reads for
display. Everything is best effort: a register that cannot be used does not slow a worker, its content is never trusted,
and nobody waits for it.

Written by `pwrite`, never through a mapping: truncating the register must not kill a worker (SIGBUS). A daemoniser may
close the descriptor, and another file may get its number, so `fstat` checks it before each use.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from zlib import crc32

import msgspec

from shmroute.errors import AreaUnreadable, ShmrouteError
from shmroute.native import native
from shmroute.shm import posix
from shmroute.shm.layout import (
    FORMAT_VERSION,
    LOOK_UPS,
    MAX_REASON_BYTES,
    REGISTER_BYTES,
    REGISTER_HEADER,
    REGISTER_HEADER_BYTES,
    REGISTER_MAGIC,
    REGISTER_PLACES,
    WORKER,
    WORKER_BYTES,
)
from shmroute.shm.names import register_name

_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock` on 64-bit Linux: type, whence, start, length, pid."""

_HAS_LOCKS: Final = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
"""Whether there are OFD locks here. Without them the register is unavailable, and workers are shown as unknown."""

_RETRY_NS: Final = 10_000_000_000
"""Nanoseconds until a register that could not be used is tried again."""

_NOTE_NS: Final = 10_000_000
"""Shortest time between two notes of successful moves. A note takes 5 to 10 us, as long as the rest of a move."""

_NAME_CHECK_NS: Final = 1_000_000_000
"""Time between two checks whether the register has been replaced: a system call of its own, about 1 us."""


_LOOK_UP: Final = LOOK_UPS.index("plain" if native is None else "native")


class WorkerNote(msgspec.Struct, frozen=True, gc=False):
    """The note of a live process. Do not trust it: any process that may write the register can have written it."""

    pid: int
    """Process id in the worker's own pid namespace."""
    generation: int
    """Generation that look-ups answer from. A move within 10 ms after a note is not noted."""
    started_ns: int
    """Monotonic time at which the process took its place, in nanoseconds."""
    noted_ns: int
    """Monotonic time of the process's last note, in nanoseconds."""
    stuck_at: int
    """Generation that the process could not read; 0 if it reads the newest that it has seen."""
    reason: str
    """Reason why the process could not read `stuck_at`."""
    look_up: str
    """Look-up that the process uses: "native" or "plain"; "" if unknown."""


class Register:
    """This process's place in the register of one area. Never raises and never waits.

    Args:
        area: the area's name.
        clock: returns monotonic nanoseconds.
    """

    def __init__(self, area: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._area = area
        self._clock = clock
        self._descriptor = -1
        self._identity = (0, 0)
        self._place = -1
        self._pid = 0
        self._started_ns = 0
        self._named_ns = 0
        self._noted_ns = 0
        self._stuck_at = 0
        self._retry_ns = 0
        self.problem = ""
        """Reason why this process is not in the register; "" while it is."""

    def note(self, generation: int, stuck_at: int = 0, reason: str = "") -> None:
        """Note this process's generation, at most once per `_NOTE_NS`. Call it after each move, never at a look-up."""
        now_ns = self._clock()
        if self._place < 0:
            if now_ns < self._retry_ns:
                return
        elif now_ns - self._noted_ns < _NOTE_NS and stuck_at == self._stuck_at:
            return
        try:
            if self._place < 0 or self._pid != os.getpid() or not self._owns_descriptor(now_ns):
                self._take_place(now_ns)
            text = _cut(reason)
            fields = self._pid, generation, self._started_ns, now_ns, stuck_at, len(text), _LOOK_UP, 0
            data = WORKER.pack(0, *fields)[4:] + text
            os.pwrite(self._descriptor, crc32(data).to_bytes(4, "little") + data, _place_at(self._place))
            self._noted_ns, self._stuck_at = now_ns, stuck_at
            self.problem = ""
        except (OSError, ShmrouteError) as error:
            self._forget()
            self._retry_ns = now_ns + _RETRY_NS
            self.problem = str(error)

    def leave(self) -> None:
        """Release the place."""
        self._forget()

    def start_in_child(self) -> None:
        """Close the inherited descriptor, which shares the parent's lock. The next note takes a new place."""
        self._forget()
        self._retry_ns = 0

    def _take_place(self, now_ns: int) -> None:
        self._forget()
        if not _HAS_LOCKS:
            raise OSError("this system has no OFD locks")
        descriptor = posix.open_object(register_name(self._area), write=True, group_writes=True)
        try:
            _check(self._area, os.pread(descriptor, REGISTER_HEADER.size, 0), os.fstat(descriptor).st_size)
            first = os.getpid() % REGISTER_PLACES  # most processes find this place free
            places = ((first + number) % REGISTER_PLACES for number in range(REGISTER_PLACES))
            place = next((place for place in places if _lock(descriptor, place)), None)
            if place is None:
                raise OSError("every place is locked")  # noqa: TRY301 - the descriptor is closed in one place
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._identity = posix.file_identity(descriptor)
        self._place = place
        self._pid = os.getpid()
        self._started_ns = self._named_ns = now_ns

    def _owns_descriptor(self, now_ns: int) -> bool:
        """Return whether the descriptor is still ours and, checked once a second, its file still has the name."""
        if not posix.owns(self._descriptor, self._identity):
            return False
        if now_ns - self._named_ns > _NAME_CHECK_NS:
            self._named_ns = now_ns
            return posix.leads_to(register_name(self._area), self._identity)
        return True

    def _forget(self) -> None:
        descriptor, self._descriptor, self._place = self._descriptor, -1, -1
        if posix.owns(descriptor, self._identity):
            os.close(descriptor)

    def __del__(self) -> None:
        self._forget()


def create_register(area: str, ownership: posix.Ownership, area_id: int) -> None:
    """Make the register of an area, unless it exists. For the writer.

    Raises:
        OutOfSharedMemory, NoAccess, AreaUnreadable, ConfigError: the register cannot be made.
    """
    name = register_name(area)
    with suppress(FileNotFoundError):
        descriptor = posix.open_object(name, write=True, group_writes=True)
        try:
            status = os.fstat(descriptor)
            header = os.pread(descriptor, REGISTER_HEADER.size, 0)
            if status.st_size == REGISTER_BYTES and header == _header(area_id):
                ownership.apply(descriptor, group_writes=True)
                return
        finally:
            os.close(descriptor)
    posix.make_file(name, _header(area_id), REGISTER_BYTES, ownership, group_writes=True, replace=True)


def read_workers(area: str) -> list[WorkerNote]:
    """Return the notes of all live processes in the register, in the order of their places.

    Raises:
        FileNotFoundError: the area has no register.
        NoAccess, AreaUnreadable: the register cannot be read.
    """
    name = register_name(area)
    if not _HAS_LOCKS:
        raise AreaUnreadable(name, "this system has no OFD locks (F_OFD_SETLK), which show which workers are alive")
    descriptor = posix.open_object(name, group_writes=True)
    try:
        data = os.pread(descriptor, REGISTER_BYTES, 0)
        _check(area, data[: REGISTER_HEADER.size], len(data))
        notes = []
        for place in range(REGISTER_PLACES):
            at = _place_at(place)
            note = _parsed(data[at : at + WORKER_BYTES])
            if note is not None and _is_locked(descriptor, place):
                notes.append(note)
        return notes
    finally:
        os.close(descriptor)


def _header(area_id: int) -> bytes:
    return REGISTER_HEADER.pack(REGISTER_MAGIC, FORMAT_VERSION, 0, area_id)


def _check(area: str, header: bytes, size: int) -> None:
    if size < REGISTER_BYTES or len(header) < REGISTER_HEADER.size:
        raise AreaUnreadable(register_name(area), f"{size} bytes are too few for a register")
    magic, version, _, _ = REGISTER_HEADER.unpack(header)
    if magic != REGISTER_MAGIC or version != FORMAT_VERSION:
        raise AreaUnreadable(register_name(area), "it is not a register of this format version")


def _place_at(place: int) -> int:
    return REGISTER_HEADER_BYTES + place * WORKER_BYTES


def _lock(descriptor: int, place: int) -> bool:
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _place_at(place), WORKER_BYTES, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True


def _is_locked(descriptor: int, place: int) -> bool:
    """Return whether a process holds a write lock there. A read lock, which any reader could take, does not count."""
    asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _place_at(place), WORKER_BYTES, 0)
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    return bool(_FLOCK.unpack(found)[0] == fcntl.F_WRLCK)


def _parsed(data: bytes) -> WorkerNote | None:
    checksum, pid, generation, started_ns, noted_ns, stuck_at, length, look_up, _ = WORKER.unpack_from(data)
    end = WORKER.size + length
    if length > MAX_REASON_BYTES or not pid or crc32(data[4:end]) != checksum:
        return None
    reason = data[WORKER.size : end].decode(errors="replace")
    twin = LOOK_UPS[look_up] if look_up < len(LOOK_UPS) else ""
    return WorkerNote(pid, generation, started_ns, noted_ns, stuck_at, reason, twin)


def _cut(reason: str) -> bytes:
    """Return the reason in at most `MAX_REASON_BYTES` bytes of UTF-8."""
    return reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore").encode()
