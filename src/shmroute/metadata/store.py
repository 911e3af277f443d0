"""What a store of metadata does and what it answers: the seam between the loader and Redis or a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from shmroute.errors import ShmrouteError
from shmroute.rows import MetadataState

__all__ = ["Absent", "Found", "Reading", "Store", "StoreAway", "too_large"]


class StoreAway(ShmrouteError):
    """The store did not answer, or refused to: nothing was learnt about any key. Try again later."""


class Absent(msgspec.Struct, frozen=True):
    """There is no value to be had for a key, and why."""

    state: MetadataState
    """MISSING, TOO_LARGE, WRONG_TYPE; PENDING where only this key could not be read."""
    reason: str


Found: TypeAlias = bytes | Absent


class Reading(NamedTuple):
    """What one `read` found, in the order of its keys, and how many commands it took."""

    found: list[Found]
    commands: int


class Store(Protocol):
    """Values by key. Called from one thread at a time, except `close`."""

    name: str
    """Where it is, without credentials."""

    def read(self, keys: Sequence[str], *, limit_bytes: int, measure: Collection[str] = ()) -> Reading:
        """Read the values of `keys`.

        A value over `limit_bytes` is not given. Keys in `measure` were too large before: their size is asked for
        first, so that what stays too large is not carried over the wire again.

        Raises:
            StoreAway: within the store's timeouts.
        """

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key; they can be read by everyone when this returns.

        Raises:
            StoreAway: some may have been written.
        """

    def close(self) -> None:
        """Let go of connections, also under a `read` of another thread, which then fails. Any thread."""


def too_large(size_bytes: int, limit_bytes: int) -> Absent:
    """The answer for a value over the limit."""
    return Absent(MetadataState.TOO_LARGE, f"the value has {size_bytes} bytes, the limit is {limit_bytes}")
