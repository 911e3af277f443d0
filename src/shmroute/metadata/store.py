"""The interface between the loader and a store of metadata (Redis, or a folder): what is asked and what is answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from shmroute.errors import ShmrouteError
from shmroute.rows import MetadataState

__all__ = ["Absent", "Found", "Reading", "Store", "StoreUnavailable", "too_large"]


class StoreUnavailable(ShmrouteError):
    """The store did not answer, or its answer says nothing about any key. The text says why; try again later."""


class Absent(msgspec.Struct, frozen=True):
    """A key without a usable value, and the reason."""

    state: MetadataState
    """MISSING, TOO_LARGE or WRONG_TYPE; PENDING if only this key could not be read."""
    reason: str


Found: TypeAlias = bytes | Absent


class Reading(NamedTuple):
    """The result of one `read`: what was found by key, and how many commands it took.

    A key that is not in `found` was not read, since the others filled the batch: ask for it again.
    """

    found: dict[str, Found]
    commands: int


class Store(Protocol):
    """Values by key. One thread at a time calls it, except for `close`."""

    name: str
    """Where the store is, without credentials."""

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        """Read the values of `keys`, at least one of them.

        Args:
            keys: the keys to read.
            limit_bytes: largest value; a larger one is answered with TOO_LARGE and never held in memory.
            batch_bytes: about how many bytes of values one call returns; the rest is left for the next call.
            check_size_first: keys whose size is asked for before their value, since they were too large before.

        Raises:
            StoreUnavailable: within a time that the store bounds.
        """

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key; every reader can see them when this returns.

        Raises:
            StoreUnavailable: some values may have been written.
        """

    def close(self) -> None:
        """Close all connections. Any thread may call this, also during a `read`, which then fails."""


def too_large(size_bytes: int, limit_bytes: int) -> Absent:
    """The answer for a value over the limit."""
    return Absent(MetadataState.TOO_LARGE, f"the value has {size_bytes} bytes, the limit is {limit_bytes}")
