"""Wait for the first snapshot in a worker, before the worker takes requests. Used by gunicorn and asgi."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from shmroute.errors import ShmrouteError
from shmroute.worker import environment
from shmroute.worker.default import attach

_log = logging.getLogger(__name__)

DEFAULT_WAIT_SECONDS: Final = 10.0
"""Default of `SHMROUTE_WAIT`. Servers kill a worker that does not come up after 30 s or more (gunicorn's `timeout`)."""

STEP_SECONDS: Final = 0.02
"""Time between two attempts to attach to the area."""


def pauses(seconds: float | None = None, warn: Callable[..., object] = _log.warning) -> Iterator[float]:
    """Yield the seconds to sleep before each retry, until the area can be read or `seconds` have passed in all.

    By default `SHMROUTE_WAIT`, else 10. The worker starts in any case. Without routes `warn` is called as a logger's
    method, and look-ups raise `NotReady` at once until there are routes.

    Raises:
        ConfigError: `SHMROUTE_WAIT` is not a number of seconds.
    """
    if seconds is None:
        seconds = environment.wait_seconds(DEFAULT_WAIT_SECONDS)
    deadline = time.monotonic() + seconds
    while True:
        try:
            attach()
        except ShmrouteError as error:
            if time.monotonic() >= deadline:
                warn("shmroute: no routes after %g s, going on without: %s", seconds, error)
                return
        else:
            return
        yield STEP_SECONDS
