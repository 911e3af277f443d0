"""A /dev/shm of a test's own, of any size, in a mount namespace of a forked child.

    with Forks() as forks:
        forks.start(in_own_shm, "1m", work).finish()

This needs root or user namespaces; otherwise the test is skipped with the reason.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.forks import Forks, Pipe

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_MS_REMOUNT: Final = 0x20

_SHM: Final = b"/dev/shm"


def enter_own_shm(size: str) -> None:
    """Give this process, and those it forks, an empty /dev/shm of that size ("1m").

    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    _call("unshare", flags)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", b"tmpfs", _SHM, b"tmpfs", 0, f"size={size},mode=1777".encode())


def resize_own_shm(size: str) -> None:
    """Give it another size."""
    _call("mount", b"tmpfs", _SHM, b"tmpfs", _MS_REMOUNT, f"size={size}".encode())


def in_own_shm(pipe: Pipe, size: str, work: Callable[..., object], *arguments: Any) -> None:
    """Call `work(pipe, *arguments)` in a child with a /dev/shm of its own; for `Forks.start`."""
    enter_own_shm(size)
    work(pipe, *arguments)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_LIBC, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _problem() -> str:
    """Return why there cannot be one; empty if there can."""

    def attempt(pipe: Pipe) -> None:
        try:
            enter_own_shm("1m")
        except OSError as error:
            pipe.send(str(error))
        else:
            pipe.send("")

    with Forks() as forks:
        child = forks.start(attempt)
        problem: str = child.pipe.recv()
        child.finish()
        return problem


_PROBLEM: Final = _problem()

needs_own_shm = pytest.mark.skipif(bool(_PROBLEM), reason=f"no mount namespace of one's own here: {_PROBLEM}")
