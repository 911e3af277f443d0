"""Conditions of the system around shared memory: other users, limits of the process, foreign files of a name."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmroute.shm.names import DIRECTORY, path_of

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

Make = Callable[[Path], None]


def make_directory(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


NO_SHARED_MEMORY: tuple[Make, ...] = (make_directory, make_link, make_pipe, make_socket)


def remove(path: Path) -> None:
    """Take away what one of these made."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


@contextmanager
def limit(which: int, value: int) -> Iterator[None]:
    """Yield a limit of this process, one of `resource.RLIMIT_*`, for a while. In a child: others share it."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def become_nobody(groups: list[int] | None = None) -> None:
    """Give this process's rights up, for good."""
    os.setgroups(groups or [])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def poke(name: str, offset: int, data: bytes) -> bytes:
    """Overwrite bytes of a shared memory object. Returns the former bytes."""
    with Path(path_of(name)).open("r+b") as file:
        before = os.pread(file.fileno(), len(data), offset)
        os.pwrite(file.fileno(), data, offset)
    return before


def descriptors() -> int:
    """Return the number of descriptors that this process has open, once what earlier tests have dropped is
    collected."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def objects(area: str) -> list[str]:
    """Return the names of all shared memory of the area, the control block included."""
    return sorted(path.name for path in Path(DIRECTORY).glob(f"shmroute-{area}*"))
