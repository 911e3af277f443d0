"""Taking an area's memory away when nobody needs it any more.

Called by whoever ends last: `run`, `keep`, or a watcher whose keeper was killed.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from shmroute.errors import AreaBusy, ConfigError, ShmrouteError
from shmroute.shm.publisher import Publisher

__all__ = ["remove_area"]

_log = logging.getLogger(__name__)

AWAITED_SECONDS: Final = 2.0
"""A watcher that stands by says so every half second; one that has not for so long has gone."""


def remove_area(area: str) -> None:
    """Take the area's memory away, unless another watcher writes it, or stands by to."""
    try:
        publisher = Publisher(area)
    except (AreaBusy, ConfigError):
        return  # another's; or of a name that no area can have, which has been said
    except ShmrouteError as error:
        _log.warning("area %s cannot be removed: %s", area, error)
        return
    standing_by = time.monotonic_ns() - publisher.awaited_ns < AWAITED_SECONDS * 1e9
    publisher.close(remove=not standing_by)
