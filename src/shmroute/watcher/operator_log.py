"""Log lines for operators: the watcher's settings, its first snapshot, and every object that is set aside.

The owner thread calls this with the rows that change. The number of lines is limited, since one tenant's objects may
cause thousands of conflicts at once; `shmroute get conflicts` and `shmroute get invalid` list all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from shmroute.rows import ConflictRow, InvalidRow, Kind, MetadataRow, MetadataState, RowKey, SettingsRow
from shmroute.watcher.report import counted

_log = logging.getLogger(__name__)

MAX_LINES: Final = 20
"""Largest number of lines about single objects in `PERIOD_NS`; then one line counts the rest."""

PERIOD_NS: Final = 10_000_000_000
"""Period of the limit: 10 s, in nanoseconds."""

_conflict = msgspec.msgpack.Decoder(ConflictRow).decode
_invalid = msgspec.msgpack.Decoder(InvalidRow).decode
_metadata = msgspec.msgpack.Decoder(MetadataRow).decode

_UNUSABLE: Final = {
    MetadataState.MISSING: "its key does not exist",
    MetadataState.OUTDATED: "the value names another version",
    MetadataState.TOO_LARGE: "the value is too large",
    MetadataState.WRONG_TYPE: "the key holds no string",
}


class OperatorLog:
    """Writes the lines. `clock` returns monotonic nanoseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._period_from = 0
        self._lines = 0
        self._left_out = 0

    def started(self, area: str, settings: SettingsRow) -> None:
        """Log that the watcher holds the area and begins to follow its sources."""
        _log.info("watching %s for area %s", settings, area)

    def first_snapshot(self, models: int, apps: int, rows: int, seconds: float, *, tables: bool) -> None:
        """Log that the first complete snapshot is published, `seconds` after the watcher took the area.

        No models are a warning, except where `tables` are declared: they may be all that is wanted.
        """
        _log.info(
            "first snapshot after %.2f s: %s, %s, %d rows of all kinds",
            seconds,
            counted(models, "model"),
            counted(apps, "app"),
            rows,
        )
        if not models:
            level = logging.INFO if tables else logging.WARNING
            _log.log(level, "no AppModel matches; check namespace, label selector and the objects themselves")

    def note(self, changes: Mapping[RowKey, bytes | None]) -> None:
        """Log conflicts, objects set aside and unusable metadata among the changed rows."""
        for (kind, key), value in changes.items():
            if kind == Kind.CONFLICT:
                self._write(*_conflict_line(key, value))
            elif kind == Kind.INVALID:
                self._write(*_invalid_line(key, value))
            elif kind == Kind.METADATA and value is not None:
                row = _metadata(value)
                if row.state in _UNUSABLE:
                    reason = row.reason or _UNUSABLE[row.state]
                    self._write(logging.WARNING, f"metadata of model {key} version {row.wanted}: {reason}")
        self._count_left_out()

    def _write(self, level: int, line: str) -> None:
        self._count_left_out()
        if self._lines < MAX_LINES:
            self._lines += 1
            _log.log(level, "%s", line)
        else:
            self._left_out += 1

    def _count_left_out(self) -> None:
        now = self._clock()
        if now - self._period_from < PERIOD_NS:
            return
        if self._left_out:
            _log.warning("%d more conflicts, invalid objects or unusable metadata values", self._left_out)
        self._period_from, self._lines, self._left_out = now, 0, 0


def _conflict_line(key: str, value: bytes | None) -> tuple[int, str]:
    if value is None:
        return logging.INFO, f"{_claimed(key)}: the conflict has ended"
    row = _conflict(value)
    losers = ", ".join(row.losers[:3]) + (" and more" if len(row.losers) > 3 else "")
    winner = f"object {row.winner} is served" if row.table else f"AppModel {row.winner} serves it"
    return logging.WARNING, f"{_claimed(key)}: {winner}; {losers} claim it too"


def _claimed(key: str) -> str:
    """Return a CONFLICT row's key in words: `namespace/model`, or `table:key`."""
    table, colon, row_key = key.partition(":")
    return f"key {row_key} of table {table}" if colon and "/" not in table else f"model {key}"


def _invalid_line(key: str, value: bytes | None) -> tuple[int, str]:
    if value is None:
        return logging.INFO, f"{key} is valid again, or gone"
    row = _invalid(value)
    served = "its last valid state is served" if row.last_good else "nothing of it is served"
    return logging.WARNING, f"{key} is set aside ({served}): {row.reason}"
