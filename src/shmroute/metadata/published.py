"""Merges a new METADATA row with the published one, so that the last value stays, with the version it was read for.

Values are kept only in shared memory, so a row without a value takes it from the published row. Pure.
"""

from __future__ import annotations

import msgspec

from shmroute.rows import MetadataRow, MetadataState, encode

_decode = msgspec.msgpack.Decoder(MetadataRow).decode


def merge_with_published(row: MetadataRow, published: bytes | None) -> bytes:
    """Return the row to publish, given the row that is published now.

    * A row without a value keeps the published value and its version, if that value belongs to the same app.
    * A row without news leaves the published one unchanged. So a value that an earlier watcher loaded stays loaded
      while it is read again, and nothing is published if it is still the same.
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
    except msgspec.MsgspecError:  # written by a watcher of another version: treated as absent
        return None
