"""Environment variables of a worker, used where it is given nothing else.

Read anew each time: servers and tests set the variables late.
"""

from __future__ import annotations

import os
from typing import Final

from shmroute.errors import ConfigError

__all__ = ["DEFAULT_AREA", "area", "wait_seconds", "zone"]

DEFAULT_AREA: Final = "default"


def area() -> str:
    """`SHMROUTE_AREA`: the area's name."""
    return os.environ.get("SHMROUTE_AREA") or DEFAULT_AREA


def zone() -> str:
    """`SHMROUTE_ZONE`: the zone this process runs in; "" where it is not known."""
    return os.environ.get("SHMROUTE_ZONE", "")


def wait_seconds(default: float) -> float:
    """`SHMROUTE_WAIT`: how long to wait for the first snapshot, in seconds.

    Raises:
        ConfigError: it is not a number of seconds.
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
