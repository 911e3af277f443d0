"""The last published rows on disk, for a pod that starts while its source is unavailable.

A thread of the watcher writes the rows from its own read-only view of the area, so that publishing never waits for a
disk. The watcher reads them once, before the first list, if the area itself is empty. A new file is written under
another name, fsynced and renamed, and has a checksum over its whole content: it is complete or absent. A file that is
damaged, that belongs to another user, or that holds the routes of another source is ignored with a warning.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from zlib import crc32

import msgspec

from shmroute.errors import NotReady, ShmrouteError, SnapshotExpired
from shmroute.rows import Kind, RowKey, SettingsRow, TableRow
from shmroute.shm.layout import FORMAT_VERSION, MAX_KIND
from shmroute.shm.reader import RowReader
from shmroute.watcher.status import decode_status

_log = logging.getLogger(__name__)

VERSION: Final = 1
"""Version of the file's layout; raise it with every change. The rows have the area's format version."""

_MAGIC: Final = b"shmrckpt"
_HEADER: Final = struct.Struct("<8sHHI")
"""Magic, version, format version of the area, crc32 of all bytes after this header."""
_FACTS: Final = struct.Struct("<dQ")
"""Time of the last contact (Unix seconds), number of bytes after this."""
_BODY_AT: Final = _HEADER.size + _FACTS.size

INTERVAL_SECONDS: Final = 10.0
"""Shortest time between two writes: a change may reach the disk this much later."""

CONTACT_SECONDS: Final = 60.0
"""Time after which unchanged rows are written again, since the file also says when they last matched the source."""

MAX_LOAD: Final = 0.05
"""Largest share of the time spent writing: rows that take a second to write are written every 20 s."""

MAX_BYTES: Final = 256 * 1024 * 1024
"""Largest file: twice the 128 MiB that the documentation gives the area. Loading takes twice its size in memory."""

LATEST_CONTACT_SECONDS: Final = 1e11
"""Latest valid time of a contact, in Unix seconds: 3,000 years from now. A later one is damage and would overflow."""

READ_ATTEMPTS: Final = 3
"""Maximum number of attempts to read all rows; an attempt fails if the area is rewritten meanwhile."""

_BUFFER_BYTES: Final = 1024 * 1024

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""O_NONBLOCK: else opening a FIFO would wait for its writer. O_NOFOLLOW: a link may lead to any file."""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Area and settings that the rows belong to. A checkpoint with another identity is not loaded."""

    area: str
    settings: SettingsRow
    """Source, namespaces and selector."""

    def __str__(self) -> str:
        return f"area {self.area!r} from {self.settings}"


class _Body(msgspec.Struct, array_like=True):
    identity: Identity
    rows: list[tuple[int, str, bytes]]
    contacts: dict[str, float] = {}


_decode_table = msgspec.msgpack.Decoder(TableRow).decode
_decode = msgspec.msgpack.Decoder(_Body).decode
_encode = msgspec.msgpack.Encoder().encode


class Saved(NamedTuple):
    """The content of a checkpoint."""

    identity: Identity
    rows: dict[RowKey, bytes]
    contact: float
    """Unix time at which the rows were last known to be in step with their source, in seconds."""
    contacts: dict[str, float]
    """Source's name -> its own `contact`, since each declared table has an age of its own."""


class Checkpoint:
    """The checkpoint file at `path`. Loads only rows of the same `identity`."""

    def __init__(self, path: str | os.PathLike[str], identity: Identity, left_out: Collection[int] = ()) -> None:
        self._path = Path(path)
        self._identity = identity
        self.left_out = left_out
        """Kinds of rows that must never be written to disk. May be replaced while `run` runs."""
        self._saved_generation = -1
        self._saved_contact = 0.0
        self._problem = ""

    def load(self) -> Saved | None:
        """Return the content of the file; None if there is no file, or if it is ignored. Logs why it is ignored."""
        try:
            data = _read(self._path)
            saved = parse(data) if data is not None else None
        except OSError as error:
            _log.warning("checkpoint %s cannot be read: %s", self._path, error)
            return None
        except ValueError as error:
            _log.warning("checkpoint %s is ignored: %s", self._path, error)
            return None
        if saved is not None and saved.identity != self._identity:
            _log.warning(
                "checkpoint %s is ignored: it holds %s, and this watcher publishes %s",
                self._path,
                saved.identity,
                self._identity,
            )
            return None
        return saved

    def run(self, stop: threading.Event) -> None:
        """Write the file whenever the area has changed, until `stop` is set, and once more at the end."""
        pause = INTERVAL_SECONDS
        stopped = False
        while not stopped:
            stopped = stop.wait(pause)
            started = time.monotonic()
            self._save_or_warn()
            pause = max(INTERVAL_SECONDS, (time.monotonic() - started) / MAX_LOAD)

    def _save_or_warn(self) -> None:
        """Write the file. Logs a failure once, and again when its reason changes."""
        try:
            self._save()
        except (OSError, ValueError, ShmrouteError) as error:
            if str(error) != self._problem:
                _log.warning("checkpoint %s cannot be written: %s", self._path, error)
            self._problem = str(error)
        else:
            self._problem = ""

    def _save(self) -> None:
        for attempt in range(READ_ATTEMPTS):
            try:
                self._save_once()
            except SnapshotExpired:
                if attempt == READ_ATTEMPTS - 1:
                    raise
            else:
                return

    def _save_once(self) -> None:
        try:
            reader = RowReader(self._identity.area)
        except NotReady:
            return
        contact_ns = reader.control.contact_ns
        if not reader.control.synced or not contact_ns:
            return
        contact = time.time() - (time.monotonic_ns() - contact_ns) / 1e9
        if reader.generation == self._saved_generation and contact < self._saved_contact + CONTACT_SECONDS:
            return
        _check_replaceable(self._path)
        descriptor, temporary = _create_beside(self._path)
        try:
            with os.fdopen(descriptor, "wb", _BUFFER_BYTES) as file:
                _write(file, self._identity, reader, contact, self.left_out)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # half a file is useless, and a full disk needs the room
            raise
        _sync_folder(self._path.parent)
        self._saved_generation, self._saved_contact = reader.generation, contact


def _read(path: Path) -> bytes | None:
    """Return the bytes of the file; None if there is no file.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: the file does not belong to this user, or is too large.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_owner(status)
        if status.st_mode & stat.S_IWOTH:
            raise ValueError("everybody may write to it")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has {status.st_size} bytes, the limit is {MAX_BYTES}")
        return file.read(MAX_BYTES)


def _check_owner(status: os.stat_result) -> None:
    """Check that a file may be trusted, and replaced: only this user or root has written it.

    Raises:
        ValueError: it is not a regular file, or belongs to another user.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"it belongs to user {status.st_uid}, and this process runs as {os.geteuid()}")


def _check_replaceable(path: Path) -> None:
    """Check that writing would not replace a device, a FIFO, a folder, a link or another user's file.

    Raises:
        ValueError: it would.
    """
    with suppress(FileNotFoundError):
        _check_owner(path.lstat())


def _create_beside(path: Path) -> tuple[int, Path]:
    """Create a file beside `path` that only this user can read, since the rows hold metadata.

    The name is fixed, so that killed writers leave at most one file behind. If it is taken, a random name is used.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), temporary
    except (PermissionError, IsADirectoryError, FileExistsError):
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
        return descriptor, Path(name)


def _write(file: BinaryIO, identity: Identity, reader: RowReader, contact: float, left_out: Collection[int]) -> None:
    """Write identity and rows as one msgpack array. The header before them comes last, when the checksum is known.

    Raises:
        ValueError: the file would be too large.
    """
    items = [_encode(row) for row in reader.rows() if not _is_left_out(row, left_out)]
    begin = b"\x93" + _encode(identity) + struct.pack(">BI", 0xDD, len(items))  # msgpack: array 3, array 32
    items.append(_encode(_contacts(reader)))
    size = len(begin) + sum(map(len, items))
    if _BODY_AT + size > MAX_BYTES:
        raise ValueError(f"the rows take {size} bytes, the limit is {MAX_BYTES}")
    file.seek(_HEADER.size)
    checksum = 0
    for item in chain((_FACTS.pack(contact, size), begin), items):
        checksum = crc32(item, checksum)
        file.write(item)
    file.seek(0)
    file.write(_HEADER.pack(_MAGIC, VERSION, FORMAT_VERSION, checksum))


def _is_left_out(row: tuple[int, str, bytes], left_out: Collection[int]) -> bool:
    """Return whether a row must not be written.

    The row of a table goes with the table's rows. Else it would make a table that is ready, and empty.
    """
    kind, _, value = row
    return kind in left_out or (kind == Kind.TABLES and _decode_table(value).number in left_out)


def _contacts(reader: RowReader) -> dict[str, float]:
    """Return the time at which each source was last in step, in Unix seconds: name -> time."""
    status = decode_status(reader.control.status())
    if status is None:
        return {}
    now, now_ns = time.time(), time.monotonic_ns()
    ages = {state.resource: (now_ns - state.contact_ns) / 1e9 for state in status.sources if state.contact_ns}
    return {resource: max(0.0, now - age) for resource, age in ages.items()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse(data: bytes) -> Saved:
    """Decode the bytes of a checkpoint.

    Raises:
        ValueError: they are not a complete checkpoint of these versions.
    """
    if len(data) < _BODY_AT:
        raise ValueError(f"{len(data)} bytes are too few for a checkpoint")
    magic, version, format_version, checksum = _HEADER.unpack_from(data)
    contact, length = _FACTS.unpack_from(data, _HEADER.size)
    if magic != _MAGIC:
        raise ValueError("it is not a checkpoint of this release of shmroute (bad magic)")
    if (version, format_version) != (VERSION, FORMAT_VERSION):
        raise ValueError(
            f"it has version {version} with rows of format version {format_version}, and this process reads version"
            f" {VERSION} with format version {FORMAT_VERSION}"
        )
    if len(data) - _BODY_AT != length:
        raise ValueError(f"it is cut short: {len(data) - _BODY_AT} bytes follow its header instead of {length}")
    if crc32(memoryview(data)[_HEADER.size :]) != checksum:
        raise ValueError("it is damaged (checksum)")
    try:
        body = _decode(memoryview(data)[_BODY_AT:])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    for each in (contact, *body.contacts.values()):
        if not 0.0 <= each <= LATEST_CONTACT_SECONDS:
            raise ValueError(f"it is damaged: its last contact is {each}")
    if not all(0 < kind <= MAX_KIND and "\0" not in key for kind, key, _ in body.rows):
        raise ValueError("it is damaged: a row has an unknown kind")
    return Saved(body.identity, {(kind, key): value for kind, key, value in body.rows}, contact, body.contacts)
