"""The writer's view of the control block: takes the area, and stores every word of the writer."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from typing import Final
from zlib import crc32

from shmroute.errors import AreaBusy, AreaUnreadable, NoAccess
from shmroute.shm import posix
from shmroute.shm.control import ControlReader
from shmroute.shm.fences import fence
from shmroute.shm.layout import (
    AREA_ID_AT,
    AWAITED_AT,
    CONTACT_AT,
    CONTROL_BYTES,
    CONTROL_HEADER,
    CONTROL_MAGIC,
    FIRST_SEGMENT_AT,
    FORMAT_VERSION,
    GENERATION_AT,
    HEARTBEAT_AT,
    OLDEST_AT,
    RETIRED,
    SECOND_SEGMENT_AT,
    SEGMENT_AT,
    STATUS_AT,
    STATUS_BYTES,
    STATUS_HEADER,
    SYNCED_AT,
    WORD_BYTES,
    WRITER_PID_AT,
    WRITER_STARTED_AT,
    check_control_header,
)
from shmroute.shm.names import control_name, lock_name
from shmroute.shm.writing.lock import AreaLock

_ATTEMPTS: Final = 100
"""Maximum attempts to open the block. A lost race means that another process made progress: many are a fault."""


class ControlWriter(ControlReader):
    """A writable control block, for the process that holds the area's lock.

    Made by `acquire`. Creates the block if there is none, and replaces one of another format version (readers of that
    version keep their mapping, whose age grows). A forked child does not hold the lock, and must not write.
    """

    def __init__(self, area: str, lock: AreaLock, old_lock: AreaLock) -> None:
        super().__init__(area)
        self._area = area
        self._lock = lock
        self._old_lock = old_lock
        """The lock of watchers before format version 3, on the control block. While we hold it, they stand by."""
        self._writable = posix.attach(self.name, write=True)
        self._buffer = memoryview(self._writable)
        self._store = self._buffer[:CONTROL_BYTES].cast("Q")
        self._store_head = self._buffer[GENERATION_AT : GENERATION_AT + WORD_BYTES].cast("d")
        self._sequence = max(STATUS_HEADER.unpack_from(self._map, start)[0] for start in STATUS_AT)

    @classmethod
    def acquire(cls, area: str, ownership: posix.Ownership) -> ControlWriter:
        """Take the area's lock, which this process keeps until `close` or its end.

        Raises:
            AreaBusy: another process holds the lock, or a watcher of format version 2 or older writes the area.
            OutOfSharedMemory: there is no room for the control block.
            NoAccess: the block or the lock belongs to an untrusted user.
            AreaUnreadable: the name of the block or the lock belongs to something other than a file.
            ConfigError: this process may not give files to the group.
        """
        name = control_name(area)
        lock = AreaLock.acquire(area)
        try:
            for _ in range(_ATTEMPTS):
                try:
                    old_lock = AreaLock(name)
                except FileNotFoundError:
                    posix.make_file(name, _empty_block(), CONTROL_BYTES, ownership)
                    continue
                writer = None
                try:
                    writer = cls._opened(area, lock, old_lock, ownership)
                finally:
                    if writer is None:
                        old_lock.forget()
                if writer is not None:
                    return writer
            raise AreaUnreadable(name, "it keeps being replaced")  # noqa: TRY301 - the lock is released in one place
        except BaseException:
            if not posix.exists(name):
                posix.unlink(lock_name(area))
            lock.release()
            raise

    @classmethod
    def _opened(cls, area: str, lock: AreaLock, old_lock: AreaLock, ownership: posix.Ownership) -> ControlWriter | None:
        """Return the writer of the control block that `old_lock` has open; None if it was replaced or removed."""
        name = control_name(area)
        alone = old_lock.take()
        if not old_lock.intact:
            return None
        try:
            check_control_header(name, os.pread(old_lock.descriptor, CONTROL_BYTES, 0))
        except AreaUnreadable:
            if not alone:
                raise AreaBusy(area, 0) from None
            posix.unlink(name)
            posix.sweep(area)
            return None
        ownership.apply(old_lock.descriptor)
        writer = cls(area, lock, old_lock)
        if writer.retired:  # a former writer was killed while it removed the area
            posix.sweep(area)
            posix.unlink(name)
            writer.release()
            return None
        return writer

    # --- the lock ------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether this process holds the lock. False after `close`, and in a forked child."""
        return self._lock.held

    def check_held(self) -> None:
        """Raise `AreaBusy` unless this process holds the lock."""
        if not self._lock.held:
            raise AreaBusy(self._area, self.writer_pid)

    @property
    def intact(self) -> bool:
        """Whether block and lock still have their names, and the lock still excludes others."""
        return self._lock.intact and self._old_lock.intact

    # --- words ---------------------------------------------------------------------------------------------

    def _set(self, offset: int, value: int) -> None:
        self._store[offset // WORD_BYTES] = value

    def store_generation(self, generation: int) -> None:
        """Publish: from this store on, readers go to `generation`."""
        fence()
        self._store_head[0] = float(generation)

    def store_oldest(self, generation: int) -> None:
        """Say that segments whose base is older than `generation` must not be read any more.

        Call it before overwriting one of them.
        """
        self._set(OLDEST_AT, generation)
        fence()

    def store_segment(self, identity: int) -> None:
        """Store the current segment, which processes open when they attach."""
        fence()
        self._set(SEGMENT_AT, identity)

    def store_segments(self, first: int, second: int) -> None:
        """Store the area's two segments, so that the next writer keeps them."""
        self._set(FIRST_SEGMENT_AT, first)
        self._set(SECOND_SEGMENT_AT, second)

    def retire(self) -> None:
        """Tell all processes that map this area that it is about to be removed."""
        self._store_head[0] = RETIRED

    def introduce(self, now_ns: int) -> None:
        """Store the identity of the new writer."""
        self._set(SYNCED_AT, 0)
        self._set(AWAITED_AT, 0)
        self._set(WRITER_PID_AT, os.getpid())
        self._set(WRITER_STARTED_AT, now_ns)
        self._set(HEARTBEAT_AT, now_ns)

    def beat(self, now_ns: int, contact_ns: int, *, synced: bool) -> None:
        """Store a heartbeat, and the time at which every source last answered; 0 keeps the former time."""
        self._set(HEARTBEAT_AT, now_ns)
        if contact_ns:
            self._set(CONTACT_AT, contact_ns % (1 << 64))
        self._set(SYNCED_AT, int(synced))

    def pulse(self, now_ns: int) -> None:
        """Store a heartbeat in the middle of long work."""
        self._set(HEARTBEAT_AT, now_ns)

    def store_status(self, payload: bytes) -> None:
        """Store a status page. A page that is too long is dropped."""
        if len(payload) > STATUS_BYTES - STATUS_HEADER.size:
            return
        self._sequence += 1
        start = STATUS_AT[self._sequence % len(STATUS_AT)]
        begin = start + STATUS_HEADER.size
        self._buffer[begin : begin + len(payload)] = payload
        STATUS_HEADER.pack_into(self._buffer, start, self._sequence, len(payload), crc32(payload))

    # --- leaving -------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Unmap the writable mapping. The lock stays held."""
        for view in (self._store_head, self._store, self._buffer):
            view.release()
        self._writable.close()

    def close(self) -> None:
        """Release the lock. The area stays."""
        self.release()
        self._old_lock.release()
        self._lock.release()


def stand_by(area: str, now_ns: int) -> None:
    """Note that a watcher waits for the area, so that its writer does not remove it at the end. Needs no lock."""
    with suppress(FileNotFoundError, AreaUnreadable, NoAccess):
        name = control_name(area)
        descriptor = posix.open_object(name, write=True)
        try:
            check_control_header(name, os.pread(descriptor, CONTROL_BYTES, 0))
            os.pwrite(descriptor, now_ns.to_bytes(WORD_BYTES, sys.byteorder), AWAITED_AT)
        finally:
            os.close(descriptor)


def new_identity() -> int:
    """Return a random number of 64 bits, not 0."""
    return secrets.randbits(64) or 1


def _empty_block() -> bytes:
    """Return the first bytes of a control block without rows; the others are zeros."""
    header = CONTROL_HEADER.pack(CONTROL_MAGIC, FORMAT_VERSION, 0)
    return header.ljust(AREA_ID_AT, b"\0") + new_identity().to_bytes(WORD_BYTES, sys.byteorder)
