"""A model's metadata in a worker: its state, and its value, which is decoded at the first use.

The raw bytes stay in shared memory, once per pod. They are copied only when they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shmroute.errors import MetadataNotJson
from shmroute.rows import Kind, MetadataRow, MetadataState

if TYPE_CHECKING:
    from shmroute.shm.reader import RowReader

decode_row = msgspec.msgpack.Decoder(MetadataRow).decode
"""Decodes a METADATA row. Raises `msgspec.DecodeError`."""

_UNDECODED = object()


class MetadataValue:
    """The content of one METADATA row, or of a missing one. The reader sets `stale` when the row changes.

    Args:
        model: the model's name, for error messages.
        row: the row; None if there is none.
        read: returns the value in the row.
    """

    __slots__ = ("__weakref__", "_decoded", "_model", "_read", "app", "stale", "state", "version")

    def __init__(self, model: str, row: MetadataRow | None, read: Callable[[], bytes | None]) -> None:
        self._model = model
        self._read = read
        self._decoded: Any = _UNDECODED
        self.stale = False
        self.app = row.app if row else None
        """App that the value was read for."""
        self.version = row.version if row else None
        """Model version that the value was read for; None if there is no value."""
        self.state = MetadataState(row.state).word if row else "off"

    def keep(self, raw: bytes | None) -> None:
        """Use `raw` from now on: the row has changed, and these are its former bytes."""
        self._read = lambda: raw

    @property
    def raw(self) -> bytes | None:
        """Copy of the bytes; None if there are none."""
        return None if self.version is None else self._read()

    def value(self) -> Any:
        """Return the decoded value; None if there is none.

        Raises:
            MetadataNotJson: the bytes are not JSON.
        """
        if self._decoded is _UNDECODED:
            raw = self.raw
            if raw is None:
                self._decoded = None
            else:
                import orjson

                try:
                    self._decoded = orjson.loads(raw)
                except orjson.JSONDecodeError as error:
                    raise MetadataNotJson(self._model) from error
        return self._decoded


def bytes_in(rows: RowReader, key: str) -> bytes | None:
    """Return the value in the METADATA row of `key` ("namespace/model") at the generation of `rows`; None: no value.

    Raises:
        AreaUnreadable, msgspec.DecodeError: the row is damaged.
    """
    row = rows.get(Kind.METADATA, key)
    return decode_row(row).value if row else None
