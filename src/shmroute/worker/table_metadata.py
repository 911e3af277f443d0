"""The metadata of one row of a declared table, for workers. Loaded at its first use."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from shmroute.errors import TableValueError
from shmroute.rows import MetadataRow, MetadataState

M = TypeVar("M")

_decode = msgspec.msgpack.Decoder(MetadataRow).decode


class TableMetadata(msgspec.Struct, Generic[M], frozen=True):
    """A value of the metadata store, with the version that it was read for.

    A value is never shown under another version: until the value of the wanted version has been read, `value` and
    `version` are those of the last one.
    """

    value: M | None
    """Decoded value; None if there is none."""
    version: str | None
    """Version that `value` was read for; None if there is no value."""
    wanted: str
    """Current version of the row's object."""
    state: str
    """"loaded"; or the reason why `value` is not newer: "pending", "missing", "outdated", "too-large", "wrong-type"; or
    "off" if the table declares no `redis` or the watcher reads no store."""

    @property
    def current(self) -> bool:
        """Whether `value` belongs to the version that the object has now."""
        return self.state == "loaded"


_OFF: TableMetadata[Any] = TableMetadata(None, None, "", "off")


def decoded(table: str, key: str, row: bytes | None, form: Any) -> TableMetadata[Any]:
    """Decode the metadata in a row.

    Raises:
        TableValueError: the value is not JSON, or does not fit the type.
    """
    if row is None:
        return _OFF
    found = _decode(row)
    value = None
    if found.value is not None:
        try:
            value = msgspec.json.decode(found.value, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TableValueError(table, key, f"its metadata of version {found.version}: {error}") from error
    return TableMetadata(value, found.version, found.wanted, MetadataState(found.state).word)
