"""Environment variables of a worker: the defaults for arguments that are not given.

They are read at each use, since servers and tests set them late.
"""

from __future__ import annotations

import os
from typing import Final

from shmroute.errors import ConfigError

DEFAULT_AREA: Final = "default"


def area() -> str:
    """Return `SHMROUTE_AREA`: the area's name; by default "default"."""
    return os.environ.get("SHMROUTE_AREA") or DEFAULT_AREA


def zone() -> str:
    """Return `SHMROUTE_ZONE`: the zone that this process runs in; "" if unknown."""
    return os.environ.get("SHMROUTE_ZONE", "")


def wait_seconds(default: float) -> float:
    """Return `SHMROUTE_WAIT`: the longest wait for the first snapshot, in seconds.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    setting = os.environ.get("SHMROUTE_WAIT")
    if not setting:
        return default
    try:
        seconds = float(setting)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < float("inf"):
        raise ConfigError(f"SHMROUTE_WAIT={setting}: write a number of seconds")
    return seconds
