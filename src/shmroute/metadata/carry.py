"""What is published for a model when its metadata changes: the last value stays, under the version it was read for.

Values are kept nowhere but in shared memory, so a row that says "asked for" takes its value from the row that is
published. Pure.
"""

from __future__ import annotations

import msgspec

from shmroute.rows import MetadataRow, MetadataState, encode

__all__ = ["carry_over"]

_decode = msgspec.msgpack.Decoder(MetadataRow).decode


def carry_over(row: MetadataRow, published: bytes | None) -> bytes:
    """The row to publish, given the one that is published now.

    * A row without a value keeps the published one, if it was read for the same app, and the version that one was read
      for.
    * A row that says no more than the published one leaves it as it is. So after a restart what a former watcher has
      loaded stays loaded while it is read again, and is not published anew where it reads the same.
    """
    old = _decoded(published)
    if published is None or old is None or old.app != row.app:
        return encode(row)
    if row.wanted == old.wanted and old.state == MetadataState.LOADED:
        if row.state == MetadataState.PENDING:
            return published
        if row.state == MetadataState.LOADED and row.value == old.value:
            return published
    if row.value is None and old.value is not None:
        row = msgspec.structs.replace(row, value=old.value, version=old.version)
    return encode(row)


def _decoded(published: bytes | None) -> MetadataRow | None:
    if published is None:
        return None
    try:
        return _decode(published)
    except msgspec.MsgspecError:  # of a former watcher that wrote it otherwise: as good as none
        return None
