"""A model's metadata as a worker holds it: the raw bytes, and the decoded value once it has been asked for."""

from __future__ import annotations

from typing import Any

from shmroute.errors import MetadataNotJson
from shmroute.rows import MetadataRow, MetadataState

__all__ = ["MetadataValue"]

_UNDECODED = object()


class MetadataValue:
    """Made by the reader for one METADATA row; `stale` is set when the row changes."""

    __slots__ = ("_decoded", "_model", "raw", "stale", "state", "version")

    def __init__(self, model: str, row: MetadataRow | None) -> None:
        self._model = model
        self._decoded: Any = _UNDECODED
        self.stale = False
        self.raw = row.value if row else None
        self.version = row.version if row else None
        self.state = MetadataState(row.state).name.lower().replace("_", "-") if row else "off"

    def value(self) -> Any:
        """The decoded value; None where there is none.

        Raises:
            MetadataNotJson: the bytes are not JSON.
        """
        if self._decoded is _UNDECODED:
            if self.raw is None:
                self._decoded = None
            else:
                import orjson

                try:
                    self._decoded = orjson.loads(self.raw)
                except orjson.JSONDecodeError as error:
                    raise MetadataNotJson(self._model) from error
        return self._decoded
