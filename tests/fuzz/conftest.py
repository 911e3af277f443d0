"""A profile for turns of `python -m tests.fuzz`: short enough that the time given is kept to within a few seconds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "turn",
    deadline=None,
    max_examples=400,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
