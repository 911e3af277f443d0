"""A profile for turns of `python -m tests.fuzz`: short enough that the time given is kept to within a few seconds.

And for all fuzzers: the memory that a file of them may leave behind.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.bounds import GROWTH_BYTES, resident_bytes

settings.register_profile(
    "turn",
    deadline=None,
    max_examples=400,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory() -> Iterator[None]:
    before = resident_bytes()
    yield
    gc.collect()
    assert resident_bytes() - before < GROWTH_BYTES
