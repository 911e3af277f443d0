"""When to ask again. Pure: clock and dice are arguments.

Two schedules that do not know each other: one for a key whose value is not there yet (`key_delay`), one for a store
that does not answer at all (`StoreBackoff`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

__all__ = ["StoreBackoff", "key_delay"]

FIRST_SECONDS: Final = 0.25
"""A value is often written in the same breath as the AppModel: ask again soon, and one time more for each doubling."""

EAGER_CAP_SECONDS: Final = 1.5
"""While a roll-out may still be going on: a value is read within 2 s of being written, with half a second to spare."""

AGE_FRACTION: Final = 80
"""After two minutes (80 times the cap above) the wait grows with the age: after an hour it is 45 s."""

CAP_SECONDS: Final = 60.0
"""A key that may never come costs each pod one look-up a minute."""

KEYS_A_SECOND: Final = 20_000
"""Of keys that are not there, looked up again at most; a hundred pods ask one Redis, which does about 1,000,000."""

BYTES_A_SECOND: Final = 16 * 1024 * 1024
"""Of values that are still old, read again at most: 1/8 of a 1 Gbit/s link, for when every model of a pod is late."""

STORE_FIRST_SECONDS: Final = 0.25
"""One lost connection, or a server that restarts, is soon over."""

STORE_CAP_SECONDS: Final = 2.0
"""With the read timeout of 2 s: a store that is back has been asked within 4 s, and all must be right within 5."""


def key_delay(age: float, pending_keys: int, pending_bytes: int, dice: Callable[[], float] = random.random) -> float:
    """Seconds until a key is asked for again.

    Args:
        age: seconds since the store first answered for this version without the value.
        pending_keys: how many keys are asked for again at present.
        pending_bytes: the size of all values that are read again at present.
        dice: jitter, 0 to 1, so that pods do not stay in step.
    """
    delay = min(max(FIRST_SECONDS, min(age, EAGER_CAP_SECONDS), age / AGE_FRACTION), CAP_SECONDS)
    return max(delay * (1 - dice() / 4), pending_keys / KEYS_A_SECOND, pending_bytes / BYTES_A_SECOND)


class StoreBackoff:
    """Waits that double while a store does not answer, in seconds."""

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        self._dice = dice
        self._delay = STORE_FIRST_SECONDS

    def failed(self) -> float:
        """Count a failure; returns how long to leave the store alone."""
        delay = self._delay * (1 - self._dice() / 4)
        self._delay = min(self._delay * 2, STORE_CAP_SECONDS)
        return delay

    def answered(self) -> None:
        """The next failure is the first again."""
        self._delay = STORE_FIRST_SECONDS
