"""Limits the bytes of all metadata values, and of each namespace's. Pure. Used by `metadata_feed` only.

Values are optional and routes are not: without limits, a few large values could keep routes out of the area. Values
that came first stay, since nothing else orders them.
"""

from __future__ import annotations

from collections import Counter

from shmroute.rows import RowKey
from shmroute.tables import Crowded, Room

_Name = tuple[str, RowKey]
"""Namespace of the object that wants the value, and key of the METADATA row."""


class MetadataRoom:
    """Counts the bytes of METADATA rows by namespace, and remembers the rows without room."""

    def __init__(self, room: Room) -> None:
        self._each = room.metadata
        self._all = room.metadata_in_all
        self._sizes: dict[_Name, int] = {}
        self._sums: Counter[str] = Counter()
        self._sum = 0
        self._refused: dict[_Name, int] = {}
        """Row without room -> its size in bytes."""

    @property
    def crowded(self) -> list[Crowded]:
        """The namespaces that have values without room."""
        counts = Counter(namespace for namespace, _ in self._refused)
        return [Crowded(namespace, "metadata", count) for namespace, count in counts.items()]

    def taken(self, name: _Name, size: int) -> None:
        """Count the row of `name` with `size` bytes."""
        change = size - self._sizes.get(name, 0)
        self._sizes[name] = size
        self._sums[name[0]] += change
        self._sum += change
        self._refused.pop(name, None)

    def forget(self, name: _Name) -> None:
        """Stop counting the row of `name`: it is removed."""
        self.taken(name, 0)
        del self._sizes[name]
        if not self._sums[name[0]]:
            del self._sums[name[0]]

    def refused(self, name: _Name, size: int) -> str:
        """Count a row of `size` bytes if there is room. Returns why there is none; "" if there is."""
        reason = self._reason(name, size)
        if reason:
            self._refused[name] = size
        else:
            self.taken(name, size)
        return reason

    def fitting(self) -> list[_Name]:
        """Return rows without room that, taken together, would fit now."""
        names = []
        size_of_all = 0
        for name, size in self._refused.items():
            if not self._reason(name, size + size_of_all):
                names.append(name)
                size_of_all += size
        return names

    def _reason(self, name: _Name, size: int) -> str:
        more = size - self._sizes.get(name, 0)
        if more <= 0:
            return ""
        if self._each is not None and self._sums[name[0]] + more > self._each:
            return f"no room: the metadata of namespace {name[0]!r} may take {self._each:,} bytes (--share)"
        if self._all is not None and self._sum + more > self._all:
            return f"no room: metadata may take {self._all:,} bytes in all, so that routes have room too"
        return ""
