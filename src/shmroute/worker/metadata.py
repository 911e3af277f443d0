"""A model's metadata as a worker holds it: how it stands, and the decoded value once it has been asked for.

The raw bytes stay in shared memory, where a pod has them once; they are copied out when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shmroute.errors import MetadataNotJson
from shmroute.rows import Kind, MetadataRow, MetadataState

if TYPE_CHECKING:
    from shmroute.shm.reader import RowReader

__all__ = ["MetadataValue", "bytes_in", "decode_row"]

decode_row = msgspec.msgpack.Decoder(MetadataRow).decode
"""A METADATA row. Raises `msgspec.DecodeError`."""

_UNDECODED = object()


class MetadataValue:
    """Made by the reader for one METADATA row; `stale` is set when the row changes. `read` gives the row's value."""

    __slots__ = ("__weakref__", "_decoded", "_model", "_read", "stale", "state", "version")

    def __init__(self, model: str, row: MetadataRow | None, read: Callable[[], bytes | None]) -> None:
        self._model = model
        self._read = read
        self._decoded: Any = _UNDECODED
        self.stale = False
        self.version = row.version if row else None
        self.state = MetadataState(row.state).word if row else "off"

    def keep(self, raw: bytes | None) -> None:
        """The row has changed; these are the bytes of the row before, to be given out from now on."""
        self._read = lambda: raw

    @property
    def raw(self) -> bytes | None:
        """A copy of the bytes; None where there are none."""
        return None if self.version is None else self._read()

    def value(self) -> Any:
        """The decoded value; None where there is none.

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
    """The value in the METADATA row of that key ("namespace/model"), at the generation of `rows`; None without one.

    Raises:
        AreaUnreadable, msgspec.DecodeError: the row is damaged.
    """
    row = rows.get(Kind.METADATA, key)
    return decode_row(row).value if row else None
