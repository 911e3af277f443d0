"""Delays before a key is read again. Pure: clock and dice are arguments.

Two independent schedules: one for a key whose value is missing (`key_delay`), one for a store that is unavailable
(`store_backoff`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from shmroute.backoff import Backoff

FIRST_SECONDS: Final = 0.25
"""First delay, in seconds: a value is often written within the same second as the AppModel."""

EAGER_CAP_SECONDS: Final = 1.5
"""Longest delay in the first two minutes, in seconds, while a roll-out may be running: a value must be read within 2 s
after it is written, and this leaves half a second to spare."""

AGE_FRACTION: Final = 80
"""Divisor of the age that gives the delay after two minutes (80 times the delay above): 45 s after an hour."""

CAP_SECONDS: Final = 60.0
"""Longest delay, in seconds: a key that is never written costs each pod one read a minute."""

KEYS_A_SECOND: Final = 20_000
"""Maximum re-reads of missing keys per second and pod: a hundred pods ask one Redis, which does about 1,000,000."""

BYTES_A_SECOND: Final = 16 * 1024 * 1024
"""Maximum bytes of outdated values read again per second and pod: 1/8 of a 1 Gbit/s link, if every value is late."""

STORE_FIRST_SECONDS: Final = 0.25
"""First delay after a failure, in seconds: a lost connection, or a restart of the server, is soon over."""

STORE_CAP_SECONDS: Final = 1.0
"""Longest delay after a failure before jitter, in seconds. With jitter it is 2 s, and with the read timeout of 2 s a
store that is available again is read within 4 s; the documented limit is 5 s."""


def key_delay(age: float, pending_keys: int, pending_bytes: int, dice: Callable[[], float] = random.random) -> float:
    """Return the seconds until a key is read again.

    Args:
        age: seconds since the store first answered for this version without the value.
        pending_keys: number of keys that are being read again.
        pending_bytes: size of all values that are being read again.
        dice: jitter, 0 to 1, so that pods do not read at the same moment.
    """
    delay = min(max(FIRST_SECONDS, min(age, EAGER_CAP_SECONDS), age / AGE_FRACTION), CAP_SECONDS)
    return max(delay * (1 - dice() / 4), pending_keys / KEYS_A_SECOND, pending_bytes / BYTES_A_SECOND)


def store_backoff() -> Backoff:
    """Return the delays while a store is unavailable, until `Backoff.reset`."""
    return Backoff(STORE_FIRST_SECONDS, STORE_CAP_SECONDS, float("inf"))
