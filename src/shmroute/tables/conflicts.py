"""Who claims a name: the conflict rule, kept ready for every name.

Used by `shmroute.tables.models`, for models and for apps.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from shmroute.resources.appmodel import AppModel

__all__ = ["Claimants", "Claims", "precedence"]

Claimants: TypeAlias = tuple[AppModel, ...]
"""All AppModels that claim one name, of all namespaces, the one that comes first in front."""

_NOBODY: Final[Claimants] = ()


def precedence(appmodel: AppModel) -> tuple[str, str, str]:
    """The conflict rule as a sort key: the older wins, then the smaller namespace, then the smaller name.

    `created` compares as text, which is right for the UTC timestamps of the API. An object without one, of a folder,
    counts as the oldest: a manifest kept in the folder does not lose its models to a copy of a cluster's object.
    """
    key = appmodel.key
    return appmodel.created, key.namespace, key.name


class Claims:
    """Names and their claimants, with the names that were touched since `take_touched`.

    The claimants of a name are an immutable tuple of immutable values, so the state before a change is kept by keeping
    the tuple. Most names have one claimant, and all names of one AppModel share the tuple that holds it alone.
    """

    def __init__(self) -> None:
        self._held: dict[str, Claimants] = {}
        self._touched: dict[str, Claimants] = {}
        self.conflicts = 0
        """Pairs of namespace and name that have more than one claimant."""

    def __len__(self) -> int:
        return len(self._held)

    def items(self) -> Iterator[tuple[str, Claimants]]:
        """Every claimed name."""
        return iter(self._held.items())

    def claimants(self, name: str) -> Claimants:
        """Who claims `name` now."""
        return self._held.get(name, _NOBODY)

    def add(self, names: Iterable[str], new: Claimants) -> None:
        """The AppModel in `new` claims names that it did not claim before. The short way for a first list."""
        held, touched = self._held, self._touched
        for name in names:
            if name in held:
                self.replace(name, None, new)
            else:
                held[name] = new
                touched.setdefault(name, _NOBODY)

    def replace(self, name: str, old: AppModel | None, new: Claimants, *, visible: bool = True) -> None:
        """`old` lets go of the name, and the AppModel in `new` claims it. `new` holds one AppModel or none.

        `visible` False: no row that is made from this name's claimants can have changed.
        """
        before = self._held.get(name, _NOBODY)
        if visible:
            self._touched.setdefault(name, before)
        if not before or (len(before) == 1 and before[0] is old):
            if new:
                self._held[name] = new
            elif before:
                del self._held[name]
            return
        left = [claimant for claimant in before if claimant is not old]
        for claimant in new:
            insort(left, claimant, key=precedence)
        if left:
            self._held[name] = tuple(left)
        else:
            del self._held[name]
        self.conflicts += _conflicts(left) - _conflicts(before)

    def take_touched(self) -> dict[str, Claimants]:
        """The names touched since the last call, with the claimants they had then."""
        touched, self._touched = self._touched, {}
        return touched


def _conflicts(claimants: Claimants | list[AppModel]) -> int:
    counts: dict[str, int] = {}
    for claimant in claimants:
        namespace = claimant.key.namespace
        counts[namespace] = counts.get(namespace, 0) + 1
    return sum(count > 1 for count in counts.values())
