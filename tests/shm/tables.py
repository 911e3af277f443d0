"""Whole tables as dicts, to compare an area with what was published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from shmroute.shm import memory
from shmroute.shm.publisher import Publisher
from shmroute.shm.reader import RowReader

Key: TypeAlias = tuple[int, str]
Table: TypeAlias = dict[Key, bytes]
Changes: TypeAlias = Mapping[Key, bytes | None]


def table(reader: RowReader) -> Table:
    """All rows at the reader's generation, each found twice: listed, and looked up."""
    listed = {(kind, key): value for kind, key, value in reader.rows()}
    assert {key: reader.get(*key) for key in listed} == listed
    return listed


def changed(rows: Table, changes: Changes) -> Table:
    """`rows` after `changes`."""
    after = dict(rows)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after


def published(area: str) -> Table:
    """What the next writer finds."""
    with Publisher(area) as publisher:
        return {(kind, key): value for kind in range(256) for key, value in publisher.rows(kind)}


def segments(area: str) -> list[str]:
    """Names in /dev/shm of the area's segments, and whatever else begins like one."""
    return memory.segment_names(area)
