"""The share of an area that one namespace's objects may take, and the choice of those that do not fit.

Used by the tables of AppModels, of endpoints and by declared tables. Pure. Shares have limits only if several
namespaces of a cluster are watched: a namespace that is watched alone may fill the area.

The rule: a namespace's objects are sorted by the conflict rule (the oldest first), and served from the beginning as
long as their sums stay within the share. The youngest are set aside, whatever the order of the events. Only the
namespace's own objects matter. A change costs a binary search and the objects that it moves in or out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

BYTES_PER_OBJECT: Final = 1024
"""Bytes of a share for each object that it allows: each object has its own rows, a name and a reason."""

BYTES_PER_MODEL: Final = 100
"""Bytes of a share for each model that it allows: a model's rows take 100 bytes and more."""

_Rank: TypeAlias = tuple[Any, ...]
"""Sort key of a namespace's objects; no two have the same."""


class Share(NamedTuple):
    """Numbers of objects, models and bytes, as a limit or as a sum."""

    objects: int = 0
    models: int = 0
    bytes: int = 0

    @classmethod
    def of_bytes(cls, size: int) -> Share:
        """Return the limit for a share of `size` bytes."""
        return cls(size // BYTES_PER_OBJECT, size // BYTES_PER_MODEL, size)

    def holds(self, taken: Share) -> bool:
        """Return whether `taken` is within this limit."""
        return taken.objects <= self.objects and taken.models <= self.models and taken.bytes <= self.bytes

    def plus(self, other: Share, sign: int = 1) -> Share:
        """Return the sum, or with `sign` -1 the difference."""
        return Share(*(mine + sign * its for mine, its in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.objects:,} objects, {self.models:,} models, {self.bytes:,} bytes"


class Crowded(NamedTuple):
    """A namespace with objects that have no room."""

    namespace: str
    what: str
    """"routes" (AppModels), "endpoints" (addresses of AppModels), "metadata" (values) or a declared table."""
    objects: int
    """Number of objects that are set aside."""


class Room(NamedTuple):
    """The share of each namespace for each purpose; None: no limit."""

    routes: Share | None = None
    endpoints: Share | None = None
    metadata: int | None = None
    """Bytes of metadata values."""
    metadata_in_all: int | None = None
    """Bytes of metadata values of all namespaces. It applies even if only one namespace is watched."""
    table: Share | None = None
    """The share for each declared table."""


class _Namespace:
    def __init__(self) -> None:
        self.ranks: list[_Rank] = []
        self.keys: list[Any] = []
        """The key at the same place as its rank."""
        self.weights: dict[Any, tuple[_Rank, Share]] = {}
        self.admitted = 0
        """Number of served objects, the first ones of `ranks`."""
        self.taken = Share()
        """The sum of the served objects."""


class Shares:
    """Decides which objects fit into the share of their namespace. Keys are hashable; a key belongs to one namespace.

    Args:
        limit: the limit of each namespace; None: everything fits.
    """

    def __init__(self, limit: Share | None) -> None:
        self.limit = limit
        self._namespaces: dict[str, _Namespace] = {}
        self._served: dict[Any, bool] = {}
        """Whether each key is served, as last returned by `settle`."""
        self._touched: dict[Any, str] = {}
        """Keys that may have moved in or out since then, with their namespaces."""
        self._unsettled: dict[str, None] = {}

    @property
    def crowded(self) -> Iterator[tuple[str, int]]:
        """Each namespace that has objects set aside, and their number."""
        for name, space in self._namespaces.items():
            if space.admitted < len(space.ranks):
                yield name, len(space.ranks) - space.admitted

    def put(self, namespace: str, key: Any, rank: _Rank, weight: Share) -> None:
        """Add or change an object. `settle` decides whether it is served."""
        space = self._namespaces.get(namespace)
        if space is None:
            space = self._namespaces[namespace] = _Namespace()
        elif (known := space.weights.get(key)) is not None:
            if known == (rank, weight):
                return
            self._take_out(space, *known)
        place = bisect_left(space.ranks, rank)
        space.ranks.insert(place, rank)
        space.keys.insert(place, key)
        space.weights[key] = rank, weight
        if place < space.admitted:
            space.admitted += 1
            space.taken = space.taken.plus(weight)
        self._touched[key] = namespace
        self._unsettled[namespace] = None

    def remove(self, namespace: str, key: Any) -> None:
        """Remove an object."""
        space = self._namespaces.get(namespace)
        known = space.weights.pop(key, None) if space is not None else None
        if space is None or known is None:
            return
        self._take_out(space, *known)
        self._touched.pop(key, None)
        self._served.pop(key, None)
        self._unsettled[namespace] = None

    def fits(self, key: Any) -> bool:
        """Whether the object fits, as `settle` last said."""
        return self._served.get(key, False)

    def settle(self) -> list[tuple[Any, bool]]:
        """End an event: return the keys that now fit (True) or no longer fit (False), and every new key."""
        for name in self._unsettled:
            self._fit(name, self._namespaces[name])
        moved = []
        for key, name in self._touched.items():
            space = self._namespaces[name]
            now = bisect_left(space.ranks, space.weights[key][0]) < space.admitted
            if self._served.get(key) is not now:
                self._served[key] = now
                moved.append((key, now))
        for name in self._unsettled:
            if not self._namespaces[name].ranks:
                del self._namespaces[name]
        self._touched.clear()
        self._unsettled.clear()
        return moved

    def reason(self, namespace: str, what: str) -> str:
        """Return why an object is set aside, and what can be done."""
        return (
            f"no room: namespace {namespace!r} may take {self.limit} of {what}, and its older objects take them:"
            " remove some, or give the area more memory or the namespace a larger --share"
        )

    def _fit(self, name: str, space: _Namespace) -> None:
        limit = self.limit
        while space.admitted and limit is not None and not limit.holds(space.taken):
            space.admitted -= 1
            key = space.keys[space.admitted]
            space.taken = space.taken.plus(space.weights[key][1], -1)
            self._touched[key] = name
        while space.admitted < len(space.ranks):
            key = space.keys[space.admitted]
            taken = space.taken.plus(space.weights[key][1])
            if limit is not None and not limit.holds(taken):
                break
            self._touched[key] = name
            space.taken = taken
            space.admitted += 1

    def _take_out(self, space: _Namespace, rank: _Rank, weight: Share) -> None:
        place = bisect_left(space.ranks, rank)
        del space.ranks[place], space.keys[place]
        if place < space.admitted:
            space.admitted -= 1
            space.taken = space.taken.plus(weight, -1)
