"""Computes each namespace's share of the area's memory from the size of `/dev/shm`. Called by `build`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from shmroute.errors import ConfigError
from shmroute.shm.names import DIRECTORY
from shmroute.tables.shares import Crowded, Room, Share

SHARE_PERCENT: Final = 25.0
"""Default of `--share`, in percent: four namespaces at their limit take all memory."""

_UNSHARED: Final = 100.0
"""Percentage that switches the shares off."""

_COPIES: Final = 3
"""Bytes of the area for each byte of rows: two segments, each with a log half as large as its base (docs/tuning.md)."""

_FIXED_BYTES: Final = 1024 * 1024
"""Bytes of the area that hold no rows: control block, register and event log, with a margin."""

MAX_NAMED_NAMESPACES: Final = 10
"""Largest number of namespaces without room that a status names."""

_ROUTES, _ENDPOINTS, _METADATA, _TABLES = 4, 1, 2, 1
"""Parts of a namespace's share. The parts of metadata and tables count only if there are metadata and tables."""


def check_share(percent: float) -> float:
    """Return the percentage of `--share`. Raises `ConfigError` outside of 0.1 to 100."""
    if not 0.1 <= percent <= _UNSHARED:
        raise ConfigError(f"--share {percent:g}: give a percentage from 0.1 to 100 (100 sets no limit)")
    return percent


def area_room(percent: float, *, several_namespaces: bool, metadata: bool, tables: int) -> Room:
    """Return the share of each namespace.

    Args:
        percent: share of the rows that the area can hold, in percent.
        several_namespaces: whether several tenants write the objects; a single one may take everything.
        metadata: whether metadata is read.
        tables: number of declared tables.

    Raises:
        ConfigError: `SHMROUTE_DIR` is not the absolute path of a folder.
    """
    try:
        folder = os.statvfs(DIRECTORY)
    except OSError as error:
        raise ConfigError(f"SHMROUTE_DIR={DIRECTORY} cannot be used: {error.strerror}") from error
    path = Path(DIRECTORY)
    if not path.is_absolute() or not path.is_dir():
        # Each process would look for a relative path in its own current folder.
        raise ConfigError(f"SHMROUTE_DIR={DIRECTORY} is not the absolute path of a folder")
    rows = max(0, folder.f_blocks * folder.f_frsize - _FIXED_BYTES) // _COPIES
    in_all = rows // 2
    if not several_namespaces or percent >= _UNSHARED:
        return Room(metadata_in_all=in_all)
    parts = _ROUTES + _ENDPOINTS + metadata * _METADATA + bool(tables) * _TABLES
    part = int(rows * percent / 100) // parts
    return Room(
        routes=Share.of_bytes(_ROUTES * part),
        endpoints=Share.of_bytes(_ENDPOINTS * part),
        metadata=_METADATA * part,
        metadata_in_all=in_all,
        table=Share.of_bytes(_TABLES * part // max(1, tables)),
    )


def words_of(crowded: Collection[Crowded]) -> Iterator[str]:
    """Yield a text for each namespace with objects set aside for lack of room, the most objects first."""
    ordered = sorted(crowded, key=lambda each: (-each.objects, each.namespace, each.what))
    for each in ordered[:MAX_NAMED_NAMESPACES]:
        yield f"no room for {each.objects} of namespace {each.namespace!r} ({each.what}): its --share is taken"
    if len(ordered) > MAX_NAMED_NAMESPACES:
        yield f"no room for {sum(each.objects for each in ordered[MAX_NAMED_NAMESPACES:])} of other namespaces"
