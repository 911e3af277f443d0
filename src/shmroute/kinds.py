"""The kinds of rows. Everyone but a worker's first look-up takes them from `shmroute.rows`, with the rows' structs.

Every worker imports this module at its start, so it imports nothing of shmroute and defines no struct. Pure.
"""

from __future__ import annotations

import enum
from typing import TypeAlias


class Kind(enum.IntEnum):
    """The kind of a row. The comment beside each kind gives the key and the value."""

    MODEL = 1  # model name -> RouteRow of the winner; the rows of other namespaces are in `others`
    APP = 2  # app name -> tuple of App, one for each AppModel of that app, the oldest first
    ENDPOINTS = 3  # "namespace/appmodel" -> EndpointsRow
    METADATA = 4  # "namespace/model" -> MetadataRow
    CONFLICT = 5  # "namespace/model" -> ConflictRow
    INVALID = 6  # "Kind namespace/name", or the file's path -> InvalidRow
    SETTINGS = 7  # "" -> SettingsRow
    TABLES = 8  # name of a declared table -> TableRow


BUILT_IN_TABLES: dict[str, Kind] = {"models": Kind.MODEL, "apps": Kind.APP, "endpoints": Kind.ENDPOINTS}
"""Kind of the rows of each table that exists without a declaration. These tables have no TABLES row."""

FIRST_TABLE_NUMBER = 16
LAST_TABLE_NUMBER = 0xFFFF
"""First and last kind for rows of declared tables."""
TABLE_KINDS = 4
"""Number of kinds for each table: its rows, its indexes, the metadata of its rows, and a spare one."""


RowKey: TypeAlias = tuple[int, str]
"""`(kind, key)`; a key contains no NUL character."""


def table_kinds(number: int) -> tuple[int, int, int]:
    """Return a table's kinds: of its rows, of its indexes (`bucket_key`), of its rows' metadata (`MetadataRow`)."""
    return number, number + 1, number + 2
