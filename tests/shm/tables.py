"""Complete tables as dicts, to compare an area with the published rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from shmroute.shm.control import ControlReader
from shmroute.shm.names import segment_name, segment_names
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher

Key: TypeAlias = tuple[int, str]
Table: TypeAlias = dict[Key, bytes]
Changes: TypeAlias = Mapping[Key, bytes | None]


def table(reader: RowReader) -> Table:
    """Return all rows at the reader's generation, each found twice: listed, and looked up."""
    listed = {(kind, key): value for kind, key, value in reader.rows()}
    assert {key: reader.get(*key) for key in listed} == listed
    return listed


def changed(rows: Table, changes: Changes) -> Table:
    """Return `rows` after `changes`."""
    after = dict(rows)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after


def published(area: str) -> Table:
    """Return what the next writer finds."""
    with Publisher(area) as publisher:
        return {(kind, key): value for kind in range(256) for key, value in publisher.rows(kind)}


def current_segment(area: str) -> str:
    """Return the name of the segment that the control block names."""
    return segment_name(area, ControlReader(area).segment)


def segments(area: str) -> list[str]:
    """Return the names in /dev/shm that begin like a segment of the area."""
    return segment_names(area)
