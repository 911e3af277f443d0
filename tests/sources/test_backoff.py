"""How long the next attempt waits."""

from __future__ import annotations

import pytest

from shmroute.sources.backoff import CAP_SECONDS, FIRST_SECONDS, RESET_AFTER_SECONDS, RETRY_AFTER_MAX_SECONDS, Backoff


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


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


def test_health_makes_the_next_failure_the_first_again(clock: Clock) -> None:
    backoff = make(clock)
    for _ in range(5):
        clock.now += backoff.failed()

    clock.now += RESET_AFTER_SECONDS - 0.1
    assert backoff.failed() > FIRST_SECONDS * 10

    clock.now += CAP_SECONDS + RESET_AFTER_SECONDS
    assert backoff.failed() == FIRST_SECONDS


def test_the_wait_itself_is_no_health(clock: Clock) -> None:
    backoff = make(clock)
    delays = []
    for _ in range(12):
        delays.append(backoff.failed(retry_after=RESET_AFTER_SECONDS * 2))
        clock.now += delays[-1]  # longer than it takes to be healthy, but waited, not lived
    assert backoff.failed() == CAP_SECONDS


def test_retry_after_is_obeyed_and_never_shortens_a_wait(clock: Clock) -> None:
    backoff = make(clock, dice=0.5)

    assert backoff.failed(retry_after=7.0) >= 7.0
    for _ in range(6):
        backoff.failed()
    assert backoff.failed(retry_after=1.0) == CAP_SECONDS * 1.5


def test_all_who_are_told_the_same_do_not_come_back_together(clock: Clock) -> None:
    assert make(clock, 0.1).failed(retry_after=7.0) != make(clock, 0.9).failed(retry_after=7.0)


def test_an_absurd_retry_after_does_not_blind_us_for_a_day(clock: Clock) -> None:
    assert make(clock).failed(retry_after=86_400.0) == RETRY_AFTER_MAX_SECONDS


def test_a_failure_that_waiting_seldom_mends_waits_longer_from_the_first(clock: Clock) -> None:
    assert make(clock).failed(at_least=30.0) == 30.0
