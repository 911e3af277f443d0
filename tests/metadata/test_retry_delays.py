from __future__ import annotations

from itertools import pairwise

import pytest

from shmroute.metadata.retry_delays import STORE_CAP_SECONDS, key_delay, store_backoff


def never() -> float:
    return 0.0


def attempts(until: float) -> list[float]:
    """Return the times of the attempts for one key, if each read takes no time."""
    moments = [0.0]
    while moments[-1] < until:
        moments.append(moments[-1] + key_delay(moments[-1], 1, 4_096, never))
    return moments


def test_late_value_is_found_within_1500_ms_in_the_first_two_minutes() -> None:
    moments = attempts(120.0)
    assert max(later - earlier for earlier, later in pairwise(moments)) <= 1.5


def test_value_written_with_the_appmodel_is_found_within_250_ms() -> None:
    assert attempts(1.0)[:3] == [0.0, 0.25, 0.5]


def test_a_key_that_stays_missing_is_read_once_a_minute() -> None:
    assert key_delay(1e9, 1, 0, never) == 60.0
    assert len(attempts(86_400.0)) < 2_000


def test_jitter_only_shortens_the_wait() -> None:
    assert 1.1 < key_delay(60.0, 1, 0, lambda: 1.0) < key_delay(60.0, 1, 0, lambda: 0.5) < 1.5


def test_many_missing_or_outdated_keys_are_read_less_often() -> None:
    assert key_delay(10.0, 10_000, 0, never) == 1.5
    assert key_delay(10.0, 1_000_000, 0, never) == 50.0
    assert key_delay(10.0, 1, 10_000 * 4_096, never) == pytest.approx(2.44, abs=0.01)


def test_unavailable_store_is_retried_less_often_and_used_within_5_s() -> None:
    backoff = store_backoff()
    for longest in (0.5, 1.0, 2.0, 2.0, 2.0):
        assert longest / 2 <= backoff.failed() < longest
    backoff.reset()
    assert 0.25 <= backoff.failed() < 0.5
    assert 2 * STORE_CAP_SECONDS + 2.0 < 5.0
