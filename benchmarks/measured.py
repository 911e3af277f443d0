"""The result of a measurement: a row of the table, with its target and the peers' figures."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.timing import Figure


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    what: str
    at: str
    unit: str
    """Unit of the figures: "s", "bytes" or "per s"."""
    ours: Figure
    peers: dict[str, Figure | None] = {}
    """Figure of each competitor; None if it cannot do this, or not at this size."""
    compared: str
    """Description of `value`."""
    value: float
    target: float | None = None
    """Largest `value` that meets the target; None if there is no target."""
    at_least: bool = False
    """Whether the target is a lower bound."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


class Results(msgspec.Struct):
    """The results of one run."""

    machine: dict[str, Any]
    versions: dict[str, str]
    quick: bool
    rows: list[Measured]
