"""The names of an area's files, and the folder that they are in. Opens nothing; see `posix` for the files themselves.

`shmroute-AREA` is the control block. All other names continue it after a dot: a segment's random number, or a fixed
word for the lock, the workers' register and the event log.
"""

from __future__ import annotations

import os
from typing import Final

from shmroute.errors import ConfigError

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - each file in it is checked


def _default_directory() -> str:
    """`/dev/shm`; where there is none, as on a Mac, the user's folder of temporary files."""
    return _SHARED_MEMORY if os.path.isdir(_SHARED_MEMORY) else os.environ.get("TMPDIR") or "/tmp"  # noqa: PTH112, S108


DIRECTORY: Final = os.environ.get("SHMROUTE_DIR") or _default_directory()
"""Folder of all areas. Read once; all processes of an area must use the same folder."""

_MAX_AREA_NAME: Final = 100
"""Longest name of an area, in characters."""


def _is_area_name(name: str) -> bool:
    """Return whether areas may have this name. There is no dot, since in a file's name a dot follows the area."""
    plain = name.replace("-", "").replace("_", "")
    return len(name) <= _MAX_AREA_NAME and name[:1].isalnum() and plain.isalnum() and name.isascii()


def control_name(area: str) -> str:
    """Return the name of an area's control block.

    Raises:
        ConfigError: `area` is not a letter or digit followed by at most 99 letters, digits, "-" and "_".
    """
    if not _is_area_name(area):
        raise ConfigError(
            f"area {area!r} cannot be a name: use 1 to 100 letters, digits, '-' and '_', a letter or digit first"
        )
    return f"shmroute-{area}"


def segment_name(area: str, identity: int) -> str:
    """Return the name of the segment of `area` with this random number."""
    return f"{control_name(area)}.{identity:016x}"


def lock_name(area: str) -> str:
    """Return the name of the file whose lock the writer holds."""
    return f"{control_name(area)}.lock"


def register_name(area: str) -> str:
    """Return the name of the workers' register."""
    return f"{control_name(area)}.workers"


def events_name(area: str) -> str:
    """Return the name of the event log."""
    return f"{control_name(area)}.events"


def segment_names(area: str) -> list[str]:
    """Return the names of the area's segments, and of unfinished files of a crash: all files without fixed names."""
    kept = {lock_name(area), register_name(area), events_name(area)}
    prefix = control_name(area) + "."
    return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix) and name not in kept)  # noqa: PTH208


def area_names() -> list[str]:
    """Return the names of all areas that have files in the folder, sorted."""
    prefix = control_name("x")[:-1]
    try:
        names = os.listdir(DIRECTORY)  # noqa: PTH208
    except FileNotFoundError:
        return []
    found = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return sorted(name for name in found if _is_area_name(name))


def fixed_names(area: str) -> tuple[str, ...]:
    """Return the area's fixed file names. The lock is the last one, since its holder may remove the other files."""
    return control_name(area), register_name(area), events_name(area), lock_name(area)


def path_of(name: str) -> str:
    """Return the path of a file as a plain string: pathlib would cost each worker its import."""
    return f"{DIRECTORY}/{name}"
