"""Check that a standby watcher does about the area's writer. The owner thread calls this about twice a second."""

from __future__ import annotations

import msgspec

from shmroute.errors import AreaUnavailable, ConfigError, NotReady, SnapshotExpired
from shmroute.rows import Kind, SettingsRow
from shmroute.shm.reader import RowReader

_decode = msgspec.msgpack.Decoder(SettingsRow).decode


def check_source(area: str, own: SettingsRow) -> None:
    """Check that the area's routes come from the same source as ours would.

    Raises:
        ConfigError: they come from another source. A watcher that stands by nevertheless lets its workers answer from
            that source's routes.
    """
    try:
        row = RowReader(area).get(Kind.SETTINGS, "")
    except (NotReady, AreaUnavailable, SnapshotExpired):
        return
    theirs = _decode(row) if row is not None else own
    theirs = msgspec.structs.replace(theirs, steady_seconds=own.steady_seconds)  # the probe periods may differ
    if theirs != own:
        raise ConfigError(
            f"area {area!r} is written by another watcher, from {theirs}, and this one would write it from"
            f" {own}: choose another name with --area or SHMROUTE_AREA"
        )
