"""Delays before the next attempt."""

from __future__ import annotations

import pytest

from shmroute.backoff import CAP_SECONDS, FIRST_SECONDS, RESET_AFTER_SECONDS, Backoff
from tests.sources.conftest import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, dice: float = 0.0) -> Backoff:
    return Backoff(clock=clock, dice=lambda: dice)


def test_waits_double_up_to_the_cap(clock: Clock) -> None:
    backoff = make(clock)

    assert [backoff.failed() for _ in range(8)] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert CAP_SECONDS == 30.0


@pytest.mark.parametrize("dice", [0.0, 0.5, 0.999])
def test_each_wait_is_jittered_up_to_its_double(clock: Clock, dice: float) -> None:
    backoff = make(clock, dice)

    assert backoff.failed() == pytest.approx(FIRST_SECONDS * (1 + dice))


def test_a_healthy_period_resets_the_back_off(clock: Clock) -> None:
    backoff = make(clock)
    for _ in range(5):
        clock.now += backoff.failed()

    clock.now += RESET_AFTER_SECONDS - 0.1
    assert backoff.failed() > FIRST_SECONDS * 10

    clock.now += CAP_SECONDS + RESET_AFTER_SECONDS
    assert backoff.failed() == FIRST_SECONDS


def test_waiting_does_not_count_as_healthy(clock: Clock) -> None:
    backoff = make(clock)
    for _ in range(12):
        clock.now += backoff.refused(RESET_AFTER_SECONDS * 2)  # longer than it takes to be healthy, but waited
    assert backoff.failed() == CAP_SECONDS


def test_a_wait_requested_by_the_server_is_obeyed(clock: Clock) -> None:
    backoff = make(clock)

    assert [backoff.refused(1.0) for _ in range(9)] == [1.0] * 9


def test_jitter_grows_with_each_refusal_to_spread_clients(clock: Clock) -> None:
    backoff = make(clock, dice=1.0)

    assert [backoff.refused(1.0) for _ in range(4)] == pytest.approx([1.8, 2.6, 4.2, 7.4])


def test_a_reset_makes_the_next_wait_the_shortest(clock: Clock) -> None:
    backoff = make(clock)
    for _ in range(4):
        backoff.failed()
    backoff.reset()

    assert backoff.failed() == FIRST_SECONDS
