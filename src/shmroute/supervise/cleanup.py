"""Remove an area's shared memory once no process needs it.

Called by the process that ends last: `run`, `keep`, or a watcher whose parent was killed.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from shmroute.errors import AreaBusy, ConfigError, ShmrouteError
from shmroute.shm.writing.publisher import Publisher

_log = logging.getLogger(__name__)

AWAITED_SECONDS: Final = 2.0
"""Seconds without a sign after which a standby watcher counts as gone; it renews its sign every 0.5 s."""


def remove_area(area: str) -> None:
    """Remove the area's memory, unless another watcher writes it or is on standby for it."""
    try:
        remove_unused_area(area)
    except (AreaBusy, ConfigError):
        return  # another watcher writes it, or the area's name is invalid, which has been logged
    except ShmrouteError as error:
        _log.warning("area %s cannot be removed: %s", area, error)


def remove_unused_area(area: str) -> bool:
    """Remove the area's memory.

    Returns:
        False if the memory was kept, because a watcher is on standby for it.

    Raises:
        AreaBusy: a watcher writes the area.
        ConfigError, AreaUnreadable, NoAccess, OutOfSharedMemory: the area cannot be opened for writing.
    """
    publisher = Publisher(area)
    standing_by = time.monotonic_ns() - publisher.awaited_ns < AWAITED_SECONDS * 1e9
    publisher.close(remove=not standing_by)
    return not standing_by
