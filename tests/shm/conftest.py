"""What tests of shared memory share: segments so small that rebuilds and whole new tables come often."""

from __future__ import annotations

import itertools

import pytest

from shmroute.shm import layout
from shmroute.shm.writing import publisher, rebuild

SMALL_LOG_BYTES = 1024
SMALL_SLOTS = 16


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 1 KiB is worth a rebuild, and a table of slots can be full with 14 rows.

    A slice of a rebuild is as short as can be, whatever the machine: the same steps lead to the same generations.
    """
    ticks = itertools.count(0.0)
    monkeypatch.setattr(rebuild, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(publisher, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(publisher, "MIN_LOG_BYTES", SMALL_LOG_BYTES)
    monkeypatch.setattr(layout, "MIN_SLOTS", SMALL_SLOTS)
