"""Makes forks safe for readers: no child starts in the middle of a change, or with a lock that is never released."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol


class Forked(Protocol):
    """An object that must not be in the middle of a change when the process forks."""

    @property
    def lock(self) -> threading.RLock:
        """Lock that is held during every change, and by the forking thread during the fork."""

    def start_in_child(self) -> None:
        """Reset the object in the child. Called before any other code of the child runs."""


_registered: Final[weakref.WeakSet[Forked]] = weakref.WeakSet()
"""The registered objects of this process. A fork waits until none of them is in the middle of a change."""

_registered_lock = threading.Lock()
"""Held while the set changes, and during a fork."""

_stopped_for_fork: Final[list[Forked]] = []


def register(forked: Forked) -> None:
    """Take `forked.lock` around every fork from now on, and call `forked.start_in_child` in every child."""
    with _registered_lock:
        _registered.add(forked)


def _before_fork() -> None:
    _registered_lock.acquire()
    _stopped_for_fork.extend(_registered)
    for forked in _stopped_for_fork:
        forked.lock.acquire()


def _after_fork_in_parent() -> None:
    while _stopped_for_fork:
        _stopped_for_fork.pop().lock.release()
    _registered_lock.release()


def _after_fork_in_child() -> None:
    """Replace all locks.

    uWSGI forks in C and may call only this hook: then a thread that the child does not have may hold a lock.
    """
    global _registered_lock
    _registered_lock = threading.Lock()
    _stopped_for_fork.clear()
    for forked in list(_registered):
        forked.start_in_child()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)
