"""The metadata of one row of a declared table, as a worker gets it. Loaded when it is first asked for."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from shmroute.errors import TableValueError
from shmroute.rows import MetadataRow, MetadataState

__all__ = ["TableMetadata", "decoded"]

M = TypeVar("M")

_decode = msgspec.msgpack.Decoder(MetadataRow).decode


class TableMetadata(msgspec.Struct, Generic[M], frozen=True):
    """A value of the metadata store, with the version that it was read for.

    A value is never shown under another version: while the newest one is not there yet, `value` and `version` are the
    last ones.
    """

    value: M | None
    """The value; None if there is none."""
    version: str | None
    """The version that `value` was read for; None if there is no value."""
    wanted: str
    """The version that the row's object has now."""
    state: str
    """"loaded"; why there is no newer value: "pending", "missing", "outdated", "too-large", "wrong-type"; "off" if the
    table declares no `redis` or the watcher reads no store."""

    @property
    def current(self) -> bool:
        """Whether `value` is that of the wanted version."""
        return self.state == "loaded"


_OFF: TableMetadata[Any] = TableMetadata(None, None, "", "off")


def decoded(table: str, key: str, row: bytes | None, form: Any) -> TableMetadata[Any]:
    """The metadata in a row.

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
