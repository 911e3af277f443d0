"""State of what a source has sent so far: every object's identity, and the resourceVersion it has reached.

Written by the reflector, after it has sent the event; read by the probe, the comparison and the audit, in their own
threads. It knows no wire format and sends nothing.

resourceVersions are compared as numbers: Kubernetes promises this order within one resource, and an
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


def revision_of(resource_version: str) -> int:
    """Return a resourceVersion as a number; 0, which is older than all others, if it is none."""
    if len(resource_version) > REVISION_MAX_DIGITS or not resource_version.isascii():
        return 0
    return int(resource_version) if resource_version.isdigit() else 0


REVISION_MAX_DIGITS = 20
"""Maximum digits of a revision: etcd's is an int64, which has 19."""


def identity_of(uid: str, resource_version: str) -> int:
    """Return a number for one state of one object, comparable within this process.

    It depends on the uid too: in a server restored from a backup, an object may have been created again and reach
    the same resourceVersion. It is a hash, because a million of them are kept: two states collide by chance
    once in 2^61.
    """
    return hash((uid, resource_version))


class SyncState:
    """The state, thread-safe. A watch resumes at `resource_version`, "" before the first list."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._identities: dict[ObjectKey, int] = {}
        self._views: list[SyncStateView] = []
        self.resource_version = ""
        self.position = 0
        """`resource_version` as a number."""
        self.checked = 0
        """Revision up to which a peek has shown that nothing happened to our objects since `position`."""
        self.highest = 0
        """Highest revision that the server has shown; a lower one means that it went back in time."""

    def __contains__(self, key: object) -> bool:
        return key in self._identities

    def __len__(self) -> int:
        return len(self._identities)

    @property
    def known(self) -> int:
        """Revision up to which nothing is missing."""
        return max(self.position, self.checked)

    def replace(self, resource_version: str, identities: dict[ObjectKey, int]) -> None:
        """Note that a complete list was sent."""
        with self._moved:
            self._identities = identities
            for view in self._views:
                view.superseded = True
            # A list may be older than the last event: the server has gone back in time, and we follow it.
            self.resource_version = resource_version
            self.position = self.checked = self.highest = revision_of(resource_version)
            self._moved.notify_all()

    def put(self, key: ObjectKey, identity: int, resource_version: str) -> None:
        """Note that an added or changed object was sent."""
        with self._moved:
            self._identities[key] = identity
            self._touch(key, resource_version)

    def remove(self, key: ObjectKey, resource_version: str) -> None:
        """Note that an object's deletion was sent."""
        with self._moved:
            self._identities.pop(key, None)
            self._touch(key, resource_version)

    def advance(self, resource_version: str) -> None:
        """Note a bookmark: no more events come up to its resourceVersion."""
        with self._moved:
            self._move(resource_version)

    def note_checked(self, revision: int) -> None:
        """Note that a peek has shown no event of our objects up to `revision`."""
        with self._moved:
            self.checked = max(self.checked, revision)
            self.highest = max(self.highest, revision)

    def note_server(self, revision: int) -> None:
        """Note that the server has shown `revision`."""
        with self._moved:
            self.highest = max(self.highest, revision)

    def wait_past(self, revision: int, seconds: float, stop: threading.Event) -> bool:
        """Wait until `position` has reached `revision`, and return True; False after `seconds` or on `stop`."""
        deadline = time.monotonic() + seconds
        with self._moved:
            while self.position < revision:
                left = deadline - time.monotonic()
                if left <= 0 or stop.is_set():
                    return False
                self._moved.wait(left)
        return True

    def wake(self) -> None:
        """Wake all waiting threads, so that they check their `stop` again."""
        with self._moved:
            self._moved.notify_all()

    @contextmanager
    def viewed(self) -> Iterator[SyncStateView]:
        """Record which keys are sent while the block runs."""
        view = SyncStateView(self)
        with self._moved:
            self._views.append(view)
        try:
            yield view
        finally:
            with self._moved:
                self._views.remove(view)

    def differences(self, listed: Mapping[ObjectKey, int]) -> set[ObjectKey]:
        """Return the keys whose state in a list differs from the state that was sent."""
        with self._moved:
            identities = self._identities
            differing = {key for key, identity in listed.items() if identities.get(key) != identity}
            return differing | (identities.keys() - listed.keys())

    def _touch(self, key: ObjectKey, resource_version: str) -> None:
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


class SyncStateView:
    """The keys sent while a comparison runs."""

    def __init__(self, sync: SyncState) -> None:
        self._sync = sync
        self.touched: set[ObjectKey] = set()
        self.superseded = False
        """Whether a complete new list was sent: the comparison then means nothing."""

    def unexplained(self, candidates: set[ObjectKey]) -> set[ObjectKey]:
        """Return the differing keys that no event since the start of the comparison explains."""
        with self._sync._moved:  # it guards `touched`
            return candidates - self.touched
