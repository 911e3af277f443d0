"""Waiting for the first snapshot in a worker, before it takes requests. Used by the server modules beside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Final

from shmroute.errors import ShmrouteError
from shmroute.worker import environment
from shmroute.worker.default import attach

__all__ = ["pauses"]

_log = logging.getLogger(__name__)

DEFAULT_WAIT_SECONDS: Final = 10.0
"""Servers take a worker that does not come up for dead after 30 s or more (gunicorn's `timeout`)."""

STEP_SECONDS: Final = 0.02


def pauses(seconds: float | None = None) -> Iterator[float]:
    """Seconds to sleep, again and again, until the area can be read; `seconds` at the most in all.

    By default `SHMROUTE_WAIT`, else 10. The worker goes on in any case, and that it does without routes is logged as a
    warning: its look-ups raise `NotReady` at once until there are some.

    Raises:
        ConfigError: `SHMROUTE_WAIT` is no number of seconds.
    """
    if seconds is None:
        seconds = environment.wait_seconds(DEFAULT_WAIT_SECONDS)
    deadline = time.monotonic() + seconds
    while True:
        try:
            attach()
        except ShmrouteError as error:
            if time.monotonic() >= deadline:
                _log.warning("no routes after %g s, going on without: %s", seconds, error)
                return
        else:
            return
        yield STEP_SECONDS
