"""The interface of a store of metadata (Redis, or a folder), its answers and its error. Called by the loader."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from shmroute.errors import ShmrouteError
from shmroute.rows import MetadataState


class StoreUnavailable(ShmrouteError):
    """The store did not answer, or its answer is not about any key. The text says why; try again later."""


class Absent(msgspec.Struct, frozen=True):
    """A key without a usable value, and the reason."""

    state: MetadataState
    """MISSING, TOO_LARGE or WRONG_TYPE; PENDING if only this key could not be read."""
    reason: str


Found: TypeAlias = bytes | Absent


class Reading(NamedTuple):
    """Result of one `read`: the answer for each key, and the number of commands.

    A key that is not in `found` was not read, since the others filled the batch: read it again.
    """

    found: dict[str, Found]
    commands: int


class Store(Protocol):
    """Values by key. One thread at a time calls it, except for `close`."""

    name: str
    """Address of the store, without credentials."""

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        """Read the values of `keys`, at least one of them.

        Args:
            keys: the keys to read.
            limit_bytes: largest value; the answer for a larger one is TOO_LARGE, and it is never in memory.
            batch_bytes: approximate maximum of bytes of values in one call; the rest is left for the next call.
            check_size_first: keys whose size is read before their value, since they were too large before.

        Raises:
            StoreUnavailable: no key could be read; raised within the store's own time limit.
        """

    def write(self, values: Mapping[str, bytes]) -> None:
        """Write values by key; every reader can see them when this returns.

        Raises:
            StoreUnavailable: some values may have been written.
        """

    def close(self) -> None:
        """Close all connections. Any thread may call this, also during a `read`, which then fails."""


def too_large(size_bytes: int, limit_bytes: int) -> Absent:
    """Return the answer for a value over the limit."""
    return Absent(MetadataState.TOO_LARGE, f"the value has {size_bytes} bytes, the limit is {limit_bytes}")
