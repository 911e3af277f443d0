"""What a source has handed out so far: every object's identity, and how far it has come.

Written by the reflector, after the event has been put; read by the probe, the comparison and the audit, in threads of
their own. It knows no wire and sends nothing.

resourceVersions are compared as numbers: Kubernetes promises that those of one resource are ordered so, and an
API server's list shows the storage's own revision.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shmroute.resources.key import ObjectKey

__all__ = ["Ledger", "LedgerView", "identity_of", "revision_of"]


def revision_of(resource_version: str) -> int:
    """The number of a resourceVersion; 0 where it is not a number, which is behind everything."""
    if len(resource_version) > REVISION_MAX_DIGITS or not resource_version.isascii():
        return 0
    return int(resource_version) if resource_version.isdigit() else 0


REVISION_MAX_DIGITS = 20
"""etcd's revision is an int64, which has 19 digits."""


def identity_of(uid: str, resource_version: str) -> int:
    """One state of one object as a number, to be compared with others of this process.

    The uid is part of it: in a server that was restored from a backup an object may have been made again and come to
    the same resourceVersion. A hash, because a million of them are kept: two states are taken for the same by chance
    once in 2^61.
    """
    return hash((uid, resource_version))


class Ledger:
    """Thread-safe. `resource_version` is where a watch resumes: "" before the first list."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._identities: dict[ObjectKey, int] = {}
        self._views: list[LedgerView] = []
        self.resource_version = ""
        self.position = 0
        """`resource_version` as a number."""
        self.proven = 0
        """Up to here nothing has happened since `position` that concerns us, as a peek has shown."""
        self.highest = 0
        """The highest revision the server has ever shown: one below it means that time went back."""
        self.changes = 0
        """How often something new was handed out."""

    def __contains__(self, key: object) -> bool:
        return key in self._identities

    def __len__(self) -> int:
        return len(self._identities)

    @property
    def known(self) -> int:
        """Up to here nothing is missing."""
        return max(self.position, self.proven)

    def replace(self, resource_version: str, identities: dict[ObjectKey, int]) -> None:
        """A complete list was handed out."""
        with self._moved:
            self.changes += identities != self._identities
            self._identities = identities
            for view in self._views:
                view.superseded = True
            # A list may be older than what came last: the server has gone back in time, and we go with it.
            self.resource_version = resource_version
            self.position = self.proven = self.highest = revision_of(resource_version)
            self._moved.notify_all()

    def put(self, key: ObjectKey, identity: int, resource_version: str) -> None:
        """An object was handed out, added or changed."""
        with self._moved:
            self._identities[key] = identity
            self._touch(key, resource_version)

    def remove(self, key: ObjectKey, resource_version: str) -> None:
        """An object's deletion was handed out."""
        with self._moved:
            self._identities.pop(key, None)
            self._touch(key, resource_version)

    def advance(self, resource_version: str) -> None:
        """A bookmark: nothing more is to come up to there."""
        with self._moved:
            self._move(resource_version)

    def prove(self, revision: int) -> None:
        """A peek has shown that nothing concerns us up to there."""
        with self._moved:
            self.proven = max(self.proven, revision)
            self.highest = max(self.highest, revision)

    def saw(self, revision: int) -> None:
        """The server has shown that it is as far as that."""
        with self._moved:
            self.highest = max(self.highest, revision)

    def wait_past(self, revision: int, seconds: float, stop: threading.Event) -> bool:
        """Wait until `position` has reached `revision`; whether it has. Ends early, false, on `stop`."""
        deadline = time.monotonic() + seconds
        with self._moved:
            while self.position < revision:
                left = deadline - time.monotonic()
                if left <= 0 or stop.is_set():
                    return False
                self._moved.wait(left)
        return True

    def wake(self) -> None:
        """Let those who wait look at their `stop` again."""
        with self._moved:
            self._moved.notify_all()

    @contextmanager
    def viewed(self) -> Iterator[LedgerView]:
        """Note, for as long as the block runs, what is handed out meanwhile."""
        view = LedgerView(self)
        with self._moved:
            self._views.append(view)
        try:
            yield view
        finally:
            with self._moved:
                self._views.remove(view)

    def differences(self, listed: Mapping[ObjectKey, int]) -> set[ObjectKey]:
        """The keys that a list shows otherwise than they were handed out."""
        with self._moved:
            identities = self._identities
            differing = {key for key, identity in listed.items() if identities.get(key) != identity}
            return differing | (identities.keys() - listed.keys())

    def _touch(self, key: ObjectKey, resource_version: str) -> None:
        self.changes += 1
        for view in self._views:
            view.touched.add(key)
        self._move(resource_version)

    def _move(self, resource_version: str) -> None:
        revision = revision_of(resource_version)
        if revision < self.position or not resource_version:
            return
        self.resource_version = resource_version
        self.position = revision
        self.highest = max(self.highest, revision)
        self._moved.notify_all()


class LedgerView:
    """What happened to the ledger while a comparison ran."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.touched: set[ObjectKey] = set()
        self.superseded = False
        """A whole new list was handed out: there is nothing left to compare with."""

    def unexplained(self, candidates: set[ObjectKey]) -> set[ObjectKey]:
        """The differing keys that no event since the beginning of the comparison explains."""
        with self._ledger._moved:  # which guards `touched`
            return candidates - self.touched
