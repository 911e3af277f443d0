"""Forks of a process with readers: no child starts in the middle of a change, or with a lock nobody will give back."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shmroute.worker.reader import Reader

__all__ = ["watch_over"]

_readers: Final[weakref.WeakSet[Reader]] = weakref.WeakSet()
"""All readers of this process: a fork waits until none is in the middle of a change, so that a child starts whole."""

_readers_lock = threading.Lock()
"""Held while the set of readers changes, and during a fork."""

_stopped_for_fork: Final[list[Reader]] = []


def watch_over(reader: Reader) -> None:
    """Have forks from now on leave this reader whole: `lock` is taken around them, `start_in_child` called after."""
    with _readers_lock:
        _readers.add(reader)


def _before_fork() -> None:
    _readers_lock.acquire()
    _stopped_for_fork.extend(_readers)
    for reader in _stopped_for_fork:
        reader.lock.acquire()


def _after_fork_in_parent() -> None:
    while _stopped_for_fork:
        _stopped_for_fork.pop().lock.release()
    _readers_lock.release()


def _after_fork_in_child() -> None:
    """Begin with new locks: uWSGI, which forks in C, may call this hook alone, with a thread in the middle of a look-up
    that is not here to give its lock back."""
    global _readers_lock
    _readers_lock = threading.Lock()
    _stopped_for_fork.clear()
    for reader in list(_readers):
        reader.start_in_child()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)
