"""The claimants of every name, sorted by the conflict rule.

Used by `shmroute.tables.models`, for models and for apps. The cost depends only on the change: adding a claimant to a
name that 5,000 AppModels claim takes a binary search in the list of its namespace, not a copy.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import NamedTuple, TypeAlias

from shmroute.resources.appmodel import AppModel


class Claim(NamedTuple):
    """One AppModel as a claimant. Claims compare by the conflict rule: the older wins, then the smaller namespace,
    then the smaller name.

    `created` compares as text, which is right for the UTC timestamps of the API. An object without it, from a folder,
    counts as older than any with it: a manifest in the folder does not lose its models to a copy of a
    cluster's object. Among objects without it, the one that was seen first wins.
    """

    created: str
    first_seen: str
    namespace: str
    name: str
    appmodel: AppModel

    @property
    def rank(self) -> tuple[object, ...]:
        """Sort key of claims. No two claimants of a name have the same."""
        return self[:4]


def claim_of(appmodel: AppModel) -> Claim:
    """Return the claim of an AppModel, the same for all its names."""
    return Claim(appmodel.created, appmodel.first_seen, appmodel.key.namespace, appmodel.key.name, appmodel)


class Contest:
    """The claimants of a name that has several. Mutable; only `Claims` makes and changes it."""

    def __init__(self, first: Claim) -> None:
        self.winners: list[Claim] = [first]
        """The first claimant of each namespace, in the order of the rule."""
        self._claims: dict[str, list[Claim]] = {first.namespace: [first]}
        self.count = 1
        """Number of claimants."""

    def add(self, claim: Claim) -> int:
        """Add `claim`. Return the change in the number of namespaces with a conflict."""
        self.count += 1
        claims = self._claims.get(claim.namespace)
        if claims is None:
            self._claims[claim.namespace] = [claim]
            insort(self.winners, claim)
            return 0
        first = claims[0]
        insort(claims, claim)
        if claims[0] is not first:
            self._take_away(self.winners, first)
            insort(self.winners, claim)
        return int(len(claims) == 2)

    def remove(self, claim: Claim) -> int:
        """Remove `claim`. Return the change in the number of namespaces with a conflict."""
        self.count -= 1
        claims = self._claims[claim.namespace]
        was_first = claims[0].rank == claim.rank
        self._take_away(claims, claim)
        if was_first:
            self._take_away(self.winners, claim)
            if claims:
                insort(self.winners, claims[0])
            else:
                del self._claims[claim.namespace]
        return -int(len(claims) == 1)

    def conflicts(self) -> Iterator[list[Claim]]:
        """Return the claims of each namespace that has several, in the order of the rule. Do not change them."""
        return (claims for claims in self._claims.values() if len(claims) > 1)

    def in_order(self) -> list[Claim]:
        """Return all claims of all namespaces, in the order of the rule."""
        return list(merge(*self._claims.values()))

    @staticmethod
    def _take_away(claims: list[Claim], claim: Claim) -> None:
        # A tuple without the AppModel sorts directly before the claim, so AppModels are never compared.
        del claims[bisect_left(claims, claim[:4])]


Claimants: TypeAlias = Claim | Contest | None
"""The claimants of a name: none, one AppModel, or several. Most names have one."""


class Claims:
    """Names and their claimants, and the names that were touched since `take_touched`."""

    def __init__(self) -> None:
        self._held: dict[str, Claim | Contest] = {}
        self._touched: dict[str, Claimants] = {}
        self.conflicts = 0
        """Number of pairs of namespace and name with more than one claimant."""

    def __len__(self) -> int:
        return len(self._held)

    def items(self) -> Iterator[tuple[str, Claim | Contest]]:
        """Return every claimed name with its claimants."""
        return iter(self._held.items())

    def claimants(self, name: str) -> Claimants:
        """Return the current claimants of `name`."""
        return self._held.get(name)

    def add(self, names: Iterable[str], new: Claim) -> None:
        """Add `new` to names that its AppModel did not claim before. Faster than `replace`, for a first list."""
        held, touched = self._held, self._touched
        for name in names:
            if name in held:
                self.replace(name, None, new)
            else:
                held[name] = new
                touched.setdefault(name, None)

    def replace(self, name: str, old: Claim | None, new: Claim | None, *, visible: bool = True) -> None:
        """Remove the claim `old` on the name, and add the claim `new`.

        `visible` False, for speed: no row made from this name's claimants can have changed.
        """
        before = self._held.get(name)
        if visible:
            self._touched.setdefault(name, before)
        if not isinstance(before, Contest):
            if before is not None and (old is None or before.rank != old.rank):
                contest = self._held[name] = Contest(before)
                if new is not None:
                    self.conflicts += contest.add(new)
            elif new is not None:
                self._held[name] = new
            elif before is not None:
                del self._held[name]
            return
        if old is not None:
            self.conflicts += before.remove(old)
        if new is not None:
            self.conflicts += before.add(new)
        if before.count == 1:
            self._held[name] = before.winners[0]

    def take_touched(self) -> dict[str, Claimants]:
        """Return the names touched since the last call, with who claimed them then.

        A `Contest` among them shows who claims the name now: it is changed in place.
        """
        touched, self._touched = self._touched, {}
        return touched
