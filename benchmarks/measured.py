"""What a measure gives: a row of the table, with the target it is held against and the peers beside it."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.timing import Figure


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    what: str
    at: str
    unit: str
    """Of the figures: "s" or "bytes", or "per s"."""
    ours: Figure
    peers: dict[str, Figure | None] = {}
    """None: this competitor cannot do that, or not at this size."""
    compared: str
    """What `value` is, in words."""
    value: float
    target: float | None = None
    """`value` at most this; None where the comparison is all there is to say."""
    at_least: bool = False
    """The target is a lower bound."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


class Results(msgspec.Struct):
    """One run."""

    machine: dict[str, Any]
    versions: dict[str, str]
    quick: bool
    rows: list[Measured]
