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

from shmroute.errors import LayoutMismatch, NotReady
from shmroute.rows import RowKey
from shmroute.shm.layout import FORMAT_VERSION
from shmroute.shm.reader import RowReader

__all__ = ["Checkpoint", "Saved"]

_log = logging.getLogger(__name__)

_HEADER: Final = struct.Struct("<8sIIdQ")
"""magic, format version, crc32 of what follows, time of the last contact (Unix seconds), length of what follows"""
_MAGIC: Final = b"shmrckp\n"

INTERVAL_SECONDS: Final = 10.0
"""At most so often; a change is on disk that much later."""

MAX_LOAD: Final = 0.05
"""The share of time spent writing: a table that takes a second to write is written every 20 s."""

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
            except (OSError, LayoutMismatch) as error:
                _log.warning("checkpoint %s cannot be written: %s", self._path, error)
            pause = max(INTERVAL_SECONDS, (time.monotonic() - started) / MAX_LOAD)

    def _save(self) -> None:
        try:
            reader = RowReader(self._area)
        except NotReady:
            return
        if reader.generation == self._saved_generation or not reader.control.synced:
            return
        age = (time.monotonic_ns() - reader.control.contact_ns) / 1e9
        temporary = self._path.with_name(f"{self._path.name}.new")
        with temporary.open("wb") as file:
            _write(file.fileno(), reader, time.time() - age)
            os.fsync(file.fileno())
        temporary.replace(self._path)
        _sync_folder(self._path.parent)
        self._saved_generation = reader.generation


def _write(descriptor: int, reader: RowReader, contact: float) -> None:
    """Rows as one msgpack array, then the header in front of them, once length and checksum are known."""
    items = [_encode(row) for row in reader.rows()]
    chunk = bytearray(struct.pack(">BI", 0xDD, len(items)))  # msgpack's array 32
    position, checksum = _HEADER.size, 0
    for index, item in enumerate(items):
        chunk += item
        if len(chunk) >= _FLUSH_BYTES or index == len(items) - 1:
            position, checksum = _append(descriptor, chunk, position, checksum)
    position, checksum = _append(descriptor, chunk, position, checksum)
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, checksum, contact, position - _HEADER.size)
    os.pwrite(descriptor, header, 0)


def _append(descriptor: int, chunk: bytearray, position: int, checksum: int) -> tuple[int, int]:
    checksum = crc32(chunk, checksum)
    written = 0
    while written < len(chunk):
        written += os.pwrite(descriptor, memoryview(chunk)[written:], position + written)
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
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes are too few for a checkpoint")
    magic, version, checksum, contact, length = _HEADER.unpack_from(data)
    body = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC:
        raise ValueError("not a checkpoint of shmroute (bad magic)")
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version}, this process reads version {FORMAT_VERSION}")
    if len(body) != length:
        raise ValueError(f"cut short: {len(body)} bytes follow its header instead of {length}")
    if crc32(body) != checksum:
        raise ValueError("damaged (checksum)")
    try:
        rows = _decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"damaged: {error}") from error
    return Saved({(kind, key): value for kind, key, value in rows}, contact)
