"""A memory limit for a process of a test: a cgroup of version 1 or 2, where this user may make one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["memory_cgroup"]

_ROOT: Final = Path("/sys/fs/cgroup")


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[tuple[Path, Path] | None]:
    """Yield the file that takes process ids, and the one that shows the bytes in use. None: there can be no cgroup."""
    for parent, limit, usage in (
        (_ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        (_ROOT, "memory.max", "memory.current"),
    ):
        group = parent / f"shmroute-test-{os.getpid()}"
        try:
            if not (parent / "cgroup.procs").exists():
                continue
            group.mkdir()
            (group / limit).write_text(str(limit_bytes))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group / "cgroup.procs", group / usage
        finally:
            group.rmdir()
        return
    yield None
