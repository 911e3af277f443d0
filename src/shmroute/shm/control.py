"""The control block of an area: the generation word, and what a writer says of itself.

`ControlReader` is for every process (read-only mapping), `ControlWriter` for the one that holds the area's lock. Only
the generation word and the current segment's start are needed to read correctly; the rest is information.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import weakref
from contextlib import suppress
from typing import Final
from zlib import crc32

from shmroute.errors import AreaBusy, AreaUnreadable, NoAccess
from shmroute.shm import memory
from shmroute.shm.layout import (
    AWAITED_AT,
    CONTACT_AT,
    CONTROL_BYTES,
    CONTROL_HEADER,
    CONTROL_MAGIC,
    FORMAT_VERSION,
    GENERATION_AT,
    HEARTBEAT_AT,
    MAX_GENERATION,
    RETIRED,
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

_CREATE_ATTEMPTS: Final = 100
"""Each lost race means that somebody else made progress; more than a few in a row do not happen."""


def fence() -> None:
    """Order what was stored before against what is stored after, for readers in other processes.

    Releasing and taking a lock are a full barrier on every processor CPython runs on (a no-op's worth on x86-64).
    """
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
    lock.release()


class ControlReader:
    """A read-only view of an area's control block.

    Raises:
        FileNotFoundError: the area has never been written.
        AreaUnreadable: it is damaged, foreign or of another format version.
        NoAccess: the operating system refuses it to this process.
    """

    def __init__(self, area: str) -> None:
        self.name = memory.control_name(area)
        self._map = memory.attach(self.name)
        check_control_header(self.name, self._map[:CONTROL_BYTES])
        view = memoryview(self._map)
        self._words = view[:CONTROL_BYTES].cast("Q")
        self._signed = view[:CONTROL_BYTES].cast("q")
        self.head: memoryview[float] = view[GENERATION_AT : GENERATION_AT + WORD_BYTES].cast("B").cast("d", shape=())
        """The generation as `head[()]`, a float: a memoryview without dimensions is the quickest to read."""

    def _word(self, offset: int) -> int:
        return int(self._words[offset // WORD_BYTES])

    @property
    def generation(self) -> int:
        """The newest published generation, 0 before the first and in a retired area.

        Raises:
            AreaUnreadable: the word is no generation.
        """
        word = self.head[()]
        if word == RETIRED:
            return 0
        if not 0 <= word < MAX_GENERATION or word % 1:
            raise AreaUnreadable(self.name, f"its generation is damaged ({word})")
        return int(word)

    @property
    def retired(self) -> bool:
        """Whether the area's name has been taken away, so that another of that name may be there."""
        return bool(self.head[()] == RETIRED)

    @property
    def segment(self) -> int:
        """The start generation of the current segment, 0 before the first."""
        return self._word(SEGMENT_AT)

    @property
    def writer_pid(self) -> int:
        """The writer's process id, in its own pid namespace."""
        return self._word(WRITER_PID_AT)

    @property
    def writer_started_ns(self) -> int:
        """When the writer took the area, on the monotonic clock."""
        return self._word(WRITER_STARTED_AT)

    @property
    def heartbeat_ns(self) -> int:
        """When the writer's loop last turned, on the monotonic clock."""
        return self._word(HEARTBEAT_AT)

    @property
    def contact_ns(self) -> int:
        """When the published rows were last known to be in step with every source, on the monotonic clock.

        0 if never; negative where that was before the clock began, as with a checkpoint from before a restart.
        """
        return self._signed[CONTACT_AT // WORD_BYTES]

    @property
    def synced(self) -> bool:
        """Whether the present writer has published a complete list of its own."""
        return self._word(SYNCED_AT) != 0

    @property
    def awaited_ns(self) -> int:
        """When a watcher that stands by last tried to take the area, on the monotonic clock; 0 if none has."""
        return self._word(AWAITED_AT)

    def status(self) -> bytes | None:
        """The newest status page that is whole, or None."""
        pages = []
        for start in STATUS_AT:
            sequence, length, checksum = STATUS_HEADER.unpack_from(self._map, start)
            begin = start + STATUS_HEADER.size
            payload = self._map[begin : begin + min(length, STATUS_BYTES)]
            if sequence and crc32(payload) == checksum:
                pages.append((sequence, payload))
        return max(pages)[1] if pages else None


class ControlWriter(ControlReader):
    """The control block in the hands of the one process that holds the area's lock.

    Made by `acquire`. Creates the block where there is none, and replaces one of another format version (readers of
    that version keep what they mapped and see it grow stale). The lock stays with this process: a child it forks does
    not hold it, and may not write.
    """

    def __init__(self, area: str) -> None:
        super().__init__(area)
        self._area = area
        self._descriptor = -1
        self._writable = memory.attach(self.name, write=True)
        self._buffer = memoryview(self._writable)
        self._store = self._buffer[:CONTROL_BYTES].cast("Q")
        self._store_head = self._buffer[GENERATION_AT : GENERATION_AT + WORD_BYTES].cast("d")
        self._sequence = max(STATUS_HEADER.unpack_from(self._map, start)[0] for start in STATUS_AT)

    @classmethod
    def acquire(cls, area: str, ownership: memory.Ownership) -> ControlWriter:
        """Take the area's lock, which this process keeps until `close` or its death.

        Raises:
            AreaBusy: another process has it.
            OutOfSharedMemory: no room for the control block.
            NoAccess: it belongs to another user.
            AreaUnreadable: something that is no shared memory object has its name.
            ConfigError: this process may not give files to the group.
        """
        name = memory.control_name(area)
        for _ in range(_CREATE_ATTEMPTS):
            try:
                descriptor = memory.open_object(name, write=True)
            except FileNotFoundError:
                _create(name, ownership)
                continue
            writer = None
            try:
                writer = cls._locked(area, name, descriptor, ownership)
            finally:
                if writer is None:
                    os.close(descriptor)
            if writer is not None:
                writer._descriptor = descriptor
                _holders.add(writer)
                return writer
        raise AreaUnreadable(name, "it keeps being replaced")

    @classmethod
    def _locked(cls, area: str, name: str, descriptor: int, ownership: memory.Ownership) -> ControlWriter | None:
        """The writer, with the lock of the control block at `descriptor`; None if that is not the area's any more."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = 0
            with suppress(FileNotFoundError, AreaUnreadable, NoAccess):
                pid = ControlReader(area).writer_pid
            raise AreaBusy(area, pid) from None
        if not _is_named(descriptor, name):  # replaced between open and lock
            return None
        try:
            check_control_header(name, os.pread(descriptor, CONTROL_BYTES, 0))
        except AreaUnreadable:
            memory.unlink(name)
            return None
        ownership.apply(descriptor)
        writer = cls(area)
        if writer.retired:  # a former writer was killed while it took the area away
            memory.sweep(area)
            memory.unlink(name)
            writer.release()
            return None
        return writer

    @property
    def held(self) -> bool:
        """Whether this process has the lock: False after `close`, and in a child that was forked since."""
        return self._descriptor >= 0

    def check_held(self) -> None:
        """Raises `AreaBusy` unless this process has the lock."""
        if not self.held:
            raise AreaBusy(self._area, self.writer_pid)

    def store_generation(self, generation: int) -> None:
        """Publish: from this store on, readers go to `generation`."""
        fence()
        self._store_head[0] = float(generation)

    def retire(self) -> None:
        """Tell those who map this area that its name is about to be taken away."""
        self._store_head[0] = RETIRED

    def _set(self, offset: int, value: int) -> None:
        self._store[offset // WORD_BYTES] = value

    def store_segment(self, start: int) -> None:
        """Name the segment that those who attach from now on open."""
        fence()
        self._set(SEGMENT_AT, start)

    def introduce(self, now_ns: int) -> None:
        """Say who writes now."""
        self._set(SYNCED_AT, 0)
        self._set(AWAITED_AT, 0)
        self._set(WRITER_PID_AT, os.getpid())
        self._set(WRITER_STARTED_AT, now_ns)
        self._set(HEARTBEAT_AT, now_ns)

    def beat(self, now_ns: int, contact_ns: int, *, synced: bool) -> None:
        """Say that the writer's loop turns, and when its rows were last in step with every source."""
        self._set(HEARTBEAT_AT, now_ns)
        if contact_ns:
            self._set(CONTACT_AT, contact_ns % (1 << 64))
        self._set(SYNCED_AT, int(synced))

    def store_status(self, payload: bytes) -> None:
        """Show a status page; one that is too long is left out."""
        if len(payload) > STATUS_BYTES - STATUS_HEADER.size:
            return
        self._sequence += 1
        start = STATUS_AT[self._sequence % len(STATUS_AT)]
        begin = start + STATUS_HEADER.size
        self._buffer[begin : begin + len(payload)] = payload
        STATUS_HEADER.pack_into(self._buffer, start, self._sequence, len(payload), crc32(payload))

    def release(self) -> None:
        """Let go of the writable mapping, not of the lock."""
        for view in (self._store_head, self._store, self._buffer):
            view.release()
        self._writable.close()

    def close(self) -> None:
        """Give the lock back; the area stays."""
        self.release()
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # not left to the last of several processes to close it
            self.forget()

    def forget(self) -> None:
        """Close the lock's descriptor, which takes the lock from nobody else. For a forked child."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_holders: Final[weakref.WeakSet[ControlWriter]] = weakref.WeakSet()


def _after_fork() -> None:
    """A child would keep the lock beyond the writer's death."""
    for writer in list(_holders):
        writer.forget()


os.register_at_fork(after_in_child=_after_fork)


def stand_by(area: str, now_ns: int) -> None:
    """Say that a watcher waits for the area, so that its writer leaves the memory behind. Needs no lock."""
    with suppress(FileNotFoundError, AreaUnreadable, NoAccess):
        name = memory.control_name(area)
        descriptor = memory.open_object(name, write=True)
        try:
            check_control_header(name, os.pread(descriptor, CONTROL_BYTES, 0))
            os.pwrite(descriptor, now_ns.to_bytes(WORD_BYTES, sys.byteorder), AWAITED_AT)
        finally:
            os.close(descriptor)


def _create(name: str, ownership: memory.Ownership) -> None:
    """Make a control block under a temporary name and link it into place; no harm if somebody was faster."""
    temporary = f"{name}.new-{os.urandom(8).hex()}"  # pids of two containers can be the same
    path = memory.path_of(temporary)
    descriptor = memory.create_object(temporary)
    try:
        memory.reserve(descriptor, name, 0, CONTROL_BYTES)
        os.pwrite(descriptor, CONTROL_HEADER.pack(CONTROL_MAGIC, FORMAT_VERSION, 0), 0)
        ownership.apply(descriptor)
        # Not found: whoever was faster has swept ours.
        with suppress(FileExistsError, FileNotFoundError):
            os.link(path, memory.path_of(name))
    finally:
        os.close(descriptor)
        memory.unlink(temporary)


def _is_named(descriptor: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(memory.path_of(name)))
    except FileNotFoundError:
        return False
