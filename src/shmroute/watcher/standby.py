"""What a watcher looks at while another one holds its area. Called by the owner thread, about twice a second."""

from __future__ import annotations

import msgspec

from shmroute.errors import AreaUnavailable, ConfigError, NotReady, SnapshotExpired
from shmroute.rows import Kind, SettingsRow
from shmroute.shm.reader import RowReader

__all__ = ["check_source"]

_decode = msgspec.msgpack.Decoder(SettingsRow).decode


def check_source(area: str, own: SettingsRow) -> None:
    """Look whether the area's routes come from where ours would.

    Raises:
        ConfigError: from elsewhere. Whoever stands by all the same lets its workers answer from another's routes.
    """
    try:
        row = RowReader(area).get(Kind.SETTINGS, "")
    except (NotReady, AreaUnavailable, SnapshotExpired):
        return
    theirs = _decode(row) if row is not None else own
    theirs = msgspec.structs.replace(theirs, steady_seconds=own.steady_seconds)  # how often each probes is its own
    if theirs != own:
        raise ConfigError(
            f"area {area!r} is written by another watcher, from {theirs}, and this one would write it from"
            f" {own}: choose another name with --area or SHMROUTE_AREA"
        )
