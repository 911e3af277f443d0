"""The event log: a ring of the newest events, in a file beside the control block.

The watcher writes events (`EventWriter`); commands and the status page read them (`read_events`); workers never do.
Payloads are bytes whose meaning this module does not know. Readers take no lock: each place has a checksum, and a place
that is overwritten during the read is left out. That place holds the oldest event.

The file is written by `pwrite`, and opened by name each time, which takes about 15 us. So truncating the file cannot
kill the watcher (SIGBUS), and no child inherits a descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from shmroute.errors import AreaUnreadable
from shmroute.shm import posix
from shmroute.shm.layout import (
    EVENT_BYTES,
    EVENT_HEADER,
    EVENTS_BYTES,
    EVENTS_HEADER_BYTES,
    EVENTS_MAGIC,
    EVENTS_PLACES,
    FORMAT_VERSION,
    MAX_EVENT_BYTES,
    REGISTER_HEADER,
)
from shmroute.shm.names import events_name

_CHECKED_BYTES: Final = EVENT_HEADER.size - 4
"""Bytes of the header that the checksum covers; it also covers the payload."""


class LoggedEvent(NamedTuple):
    """One place of the ring."""

    sequence: int
    """Number of the event, from 1. A new watcher continues the count."""
    when_ns: int
    """Unix time of the event, in nanoseconds."""
    payload: bytes


class EventWriter:
    """Appends to the event log of an area. Only for the process that holds the area's lock.

    The events of a former writer stay; sequence numbers continue from there.

    Args:
        area: the area's name.
        ownership: the users who may read the log.
        area_id: returns the `AREA_ID_AT` of the control block. The log of a former area of this name is replaced.
    """

    def __init__(self, area: str, ownership: posix.Ownership, area_id: Callable[[], int]) -> None:
        self._area = area
        self._name = events_name(area)
        self._ownership = ownership
        self._area_id = area_id
        self._sequence = 0
        """Sequence number of the newest event; 0 before the first append."""

    def append(self, when_ns: int, payloads: Sequence[bytes]) -> None:
        """Log events of one moment, each at most `MAX_EVENT_BYTES` long.

        Raises:
            OutOfSharedMemory, NoAccess, AreaUnreadable, ConfigError, OSError: the log cannot be made or opened.
        """
        descriptor = self._opened()
        try:
            for payload in payloads:
                assert len(payload) <= MAX_EVENT_BYTES  # noqa: S101 - the caller ensures it
                self._sequence += 1
                data = EVENT_HEADER.pack(self._sequence, when_ns, len(payload), 0)[:_CHECKED_BYTES]
                data += crc32(payload, crc32(data)).to_bytes(4, "little") + payload
                os.pwrite(descriptor, data, _place_at(self._sequence))
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        header = REGISTER_HEADER.pack(EVENTS_MAGIC, FORMAT_VERSION, 0, self._area_id())
        try:
            descriptor = posix.open_object(self._name, write=True)
        except (FileNotFoundError, AreaUnreadable):
            return self._made_anew(header)
        if os.fstat(descriptor).st_size == EVENTS_BYTES and os.pread(descriptor, len(header), 0) == header:
            if not self._sequence:
                self._ownership.apply(descriptor)
                self._sequence = max((each.sequence for each in _events_in(_content(descriptor))), default=0)
            return descriptor
        os.close(descriptor)
        return self._made_anew(header)

    def _made_anew(self, header: bytes) -> int:
        posix.make_file(self._name, header, EVENTS_BYTES, self._ownership, replace=True)
        return posix.open_object(self._name, write=True)


def read_events(area: str) -> list[LoggedEvent]:
    """Return the events in the area's log, the oldest first. Damaged places are left out.

    Raises:
        FileNotFoundError: the area has no event log.
        NoAccess, AreaUnreadable: the log cannot be read.
    """
    name = events_name(area)
    descriptor = posix.open_object(name)
    try:
        data = _content(descriptor)
    finally:
        os.close(descriptor)
    if len(data) < EVENTS_BYTES or REGISTER_HEADER.unpack_from(data)[:2] != (EVENTS_MAGIC, FORMAT_VERSION):
        raise AreaUnreadable(name, "it is not an event log of this format version")
    return sorted(_events_in(data))


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, EVENTS_BYTES, 0)


def _events_in(data: bytes) -> Iterator[LoggedEvent]:
    for start in range(EVENTS_HEADER_BYTES, EVENTS_BYTES, EVENT_BYTES):
        sequence, when_ns, length, checksum = EVENT_HEADER.unpack_from(data, start)
        begin = start + EVENT_HEADER.size
        payload = data[begin : begin + length]
        if not sequence or length > MAX_EVENT_BYTES or _place_at(sequence) != start:
            continue
        if crc32(payload, crc32(data[start : start + _CHECKED_BYTES])) == checksum:
            yield LoggedEvent(sequence, when_ns, payload)


def _place_at(sequence: int) -> int:
    return EVENTS_HEADER_BYTES + sequence % EVENTS_PLACES * EVENT_BYTES
