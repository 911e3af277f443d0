"""The last published rows on disk, for a pod that starts while its source is away.

Written by a thread of the watcher from its own read-only view of the area, so that publishing never waits for a disk;
read once, before the first list, when the area itself holds nothing. A file is complete or it is not there: written
beside, fsynced, renamed, with a checksum over all of it. A damaged one is ignored with a warning.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from shmroute.errors import NotReady, ShmrouteError
from shmroute.rows import RowKey
from shmroute.shm.layout import FORMAT_VERSION, MAX_KIND
from shmroute.shm.reader import RowReader

__all__ = ["Checkpoint", "Saved"]

_log = logging.getLogger(__name__)

_HEADER: Final = struct.Struct("<8sII")
"""magic, format version, crc32 of all that follows"""
_FACTS: Final = struct.Struct("<dQ")
"""time of the last contact (Unix seconds), length of what follows"""
_ROWS_AT: Final = _HEADER.size + _FACTS.size
_MAGIC: Final = b"shmrckp\n"

INTERVAL_SECONDS: Final = 10.0
"""At most so often; a change is on disk that much later."""

CONTACT_SECONDS: Final = 60.0
"""Rows that do not change are written again so often, so that the file knows how long they were known to be true."""

MAX_LOAD: Final = 0.05
"""The share of time spent writing: a table that takes a second to write is written every 20 s."""

LATEST_CONTACT_SECONDS: Final = 1e11
"""In Unix time, 3,000 years from now: a time beyond it is damage, and could not be reckoned with."""

_FLUSH_BYTES: Final = 1024 * 1024

_decode = msgspec.msgpack.Decoder(list[tuple[int, str, bytes]]).decode
_encode = msgspec.msgpack.Encoder().encode


class Saved(NamedTuple):
    """What a checkpoint holds."""

    rows: dict[RowKey, bytes]
    contact: float
    """Unix seconds at which the rows were last known to be in step with their source."""


class Checkpoint:
    """The file at `path`, for one area."""

    def __init__(self, path: str | os.PathLike[str], area: str) -> None:
        self._path = Path(path)
        self._area = area
        self._saved_generation = -1
        self._saved_contact = 0.0

    def load(self) -> Saved | None:
        """The rows in the file; None if there is none, or it is of no use (which is logged)."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("checkpoint %s cannot be read: %s", self._path, error)
            return None
        try:
            return parse(data)
        except ValueError as error:
            _log.warning("checkpoint %s is ignored: %s", self._path, error)
            return None

    def run(self, stop: threading.Event) -> None:
        """Write the file whenever the area has changed, until `stop`; once more at the end."""
        pause = INTERVAL_SECONDS
        stopped = False
        while not stopped:
            stopped = stop.wait(pause)
            started = time.monotonic()
            try:
                self._save()
            except (OSError, ShmrouteError) as error:
                _log.warning("checkpoint %s cannot be written: %s", self._path, error)
            pause = max(INTERVAL_SECONDS, (time.monotonic() - started) / MAX_LOAD)

    def _save(self) -> None:
        try:
            reader = RowReader(self._area)
        except NotReady:
            return
        contact_ns = reader.control.contact_ns
        if not reader.control.synced or not contact_ns:
            return
        contact = time.time() - (time.monotonic_ns() - contact_ns) / 1e9
        if reader.generation == self._saved_generation and contact < self._saved_contact + CONTACT_SECONDS:
            return
        temporary = self._path.with_name(f"{self._path.name}.new")
        temporary.unlink(missing_ok=True)
        try:
            # The rows hold metadata: for this user only, as the area is.
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
                _write(file.fileno(), reader, contact)
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)  # what a full disk holds of it is of no use to anyone
            raise
        _sync_folder(self._path.parent)
        self._saved_generation, self._saved_contact = reader.generation, contact


def _write(descriptor: int, reader: RowReader, contact: float) -> None:
    """Rows as one msgpack array; in front of them the facts and the header, once length and checksum are known."""
    items = [_encode(row) for row in reader.rows()]
    chunk = bytearray(struct.pack(">BI", 0xDD, len(items)))  # msgpack's array 32
    facts = _FACTS.pack(contact, len(chunk) + sum(map(len, items)))
    position, checksum = _append(descriptor, bytearray(facts), _HEADER.size, 0)
    for item in items:
        chunk += item
        if len(chunk) >= _FLUSH_BYTES:
            position, checksum = _append(descriptor, chunk, position, checksum)
    _, checksum = _append(descriptor, chunk, position, checksum)
    os.pwrite(descriptor, _HEADER.pack(_MAGIC, FORMAT_VERSION, checksum), 0)


def _append(descriptor: int, chunk: bytearray, position: int, checksum: int) -> tuple[int, int]:
    checksum = crc32(chunk, checksum)
    written = 0
    with memoryview(chunk) as view:
        while written < len(chunk):
            written += os.pwrite(descriptor, view[written:], position + written)
    position += len(chunk)
    chunk.clear()
    return position, checksum


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse(data: bytes) -> Saved:
    """What the bytes of a checkpoint hold.

    Raises:
        ValueError: they are not a whole checkpoint of this format version.
    """
    if len(data) < _ROWS_AT:
        raise ValueError(f"{len(data)} bytes are too few for a checkpoint")
    magic, version, checksum = _HEADER.unpack_from(data)
    contact, length = _FACTS.unpack_from(data, _HEADER.size)
    if magic != _MAGIC:
        raise ValueError("not a checkpoint of shmroute (bad magic)")
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version}, this process reads version {FORMAT_VERSION}")
    if len(data) - _ROWS_AT != length:
        raise ValueError(f"cut short: {len(data) - _ROWS_AT} bytes follow its header instead of {length}")
    if crc32(memoryview(data)[_HEADER.size :]) != checksum:
        raise ValueError("damaged (checksum)")
    try:
        rows = _decode(memoryview(data)[_ROWS_AT:])
    except msgspec.MsgspecError as error:
        raise ValueError(f"damaged: {error}") from error
    if not 0.0 <= contact <= LATEST_CONTACT_SECONDS:
        raise ValueError(f"damaged: last contact at {contact}")
    if not all(0 < kind <= MAX_KIND and "\0" not in key for kind, key, _ in rows):
        raise ValueError("damaged: a row of no kind")
    return Saved({(kind, key): value for kind, key, value in rows}, contact)
