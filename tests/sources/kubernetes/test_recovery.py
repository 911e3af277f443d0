"""Each kind of failure has its own back-off; errors of a starting server cost only seconds."""

from __future__ import annotations

import pytest

from shmroute.errors import ApiError
from shmroute.sources.kubernetes.recovery import RETRY_AFTER_MAX_SECONDS, SHORT_WATCH, STARTING_SECONDS, Recovery
from shmroute.sources.kubernetes.timing import Timing
from shmroute.sources.kubernetes.wire import Garbled
from tests.sources.conftest import Clock

REFUSED = ApiError("GET x", 0, "NewConnectionError", "Connection refused")
FORBIDDEN = ApiError("GET x", 403, "Forbidden", "no")
NOT_FOUND = ApiError("GET x", 404, "NotFound", "no")
SHORT = ApiError("GET x", 0, SHORT_WATCH, "it ended at once")
BROKEN = ApiError("GET x", 500, "InternalError", "no")


def throttled(seconds: float, status: int = 429) -> ApiError:
    return ApiError("GET x", status, "TooManyRequests", "storage is (re)initializing", retry_after_seconds=seconds)


def make(clock: Clock, dice: float = 0.999) -> Recovery:
    return Recovery(Timing(), clock=clock, dice=lambda: dice)


def waits(recovery: Recovery, clock: Clock, error: Exception, count: int) -> list[float]:
    made = []
    for _ in range(count):
        made.append(recovery.failed(error))
        clock.now += made[-1]
    return made


@pytest.mark.parametrize("minutes", [1, 10, 600])
def test_unreachable_server_is_retried_within_8_seconds(clock: Clock, minutes: int) -> None:
    recovery = make(clock)
    end = clock.now + minutes * 60
    while clock.now < end:
        assert waits(recovery, clock, REFUSED, 1)[0] < 8.0


def test_unreachable_server_gets_no_storm_of_requests(clock: Clock) -> None:
    recovery = make(clock, dice=0.0)

    assert waits(recovery, clock, REFUSED, 5) == [0.8, 1.6, 3.2, 4.0, 4.0]


@pytest.mark.parametrize("away", [3.0, 7.0, 11.0, 60.0])
@pytest.mark.parametrize("dice", [0.0, 0.5, 0.999])
def test_a_starting_server_is_followed_within_10_seconds_of_its_first_answer(
    clock: Clock, away: float, dice: float
) -> None:
    """As recorded: refused, 403 for 2 s, 429 with Retry-After 1 for 0.1 s, then a 410 with nothing lost."""
    recovery = make(clock, dice)
    answers = clock.now + away
    while True:
        since = clock.now - answers
        if since < 0:
            clock.now += recovery.failed(REFUSED)
        elif since < 2.0:
            clock.now += recovery.failed(FORBIDDEN)
        elif since < 2.1:
            clock.now += recovery.failed(throttled(1.0))
        else:
            break
    recovery.opened()
    assert recovery.gone() == 0.0
    assert clock.now - answers < 10.0


def test_second_403_in_a_row_counts_as_a_missing_role(clock: Clock) -> None:
    first, second, third = waits(make(clock), clock, FORBIDDEN, 3)

    assert first < 2.0
    assert second >= 30.0
    assert third >= 30.0


def test_a_late_403_after_a_refused_connection_is_a_missing_role(clock: Clock) -> None:
    recovery = make(clock)
    waits(recovery, clock, REFUSED, 3)
    clock.now += STARTING_SECONDS

    assert waits(recovery, clock, FORBIDDEN, 2)[1] >= 30.0


@pytest.mark.fault(12)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_overrides_the_back_off(clock: Clock, status: int) -> None:
    recovery = make(clock)
    waits(recovery, clock, BROKEN, 9)
    waits(recovery, clock, REFUSED, 9)

    assert 1.0 <= recovery.failed(throttled(1.0, status)) < 1.8


@pytest.mark.fault(12)
def test_an_absurd_retry_after_is_bounded(clock: Clock) -> None:
    assert make(clock, dice=0.0).failed(throttled(86_400.0)) == RETRY_AFTER_MAX_SECONDS


@pytest.mark.parametrize("error", [SHORT, BROKEN, NOT_FOUND, Garbled("x"), RuntimeError("x")])
def test_permanent_failures_back_off_to_half_a_minute(clock: Clock, error: Exception) -> None:
    assert waits(make(clock, dice=0.0), clock, error, 7)[-1] == 30.0


@pytest.mark.parametrize("error", [SHORT, BROKEN, REFUSED, throttled(1.0), FORBIDDEN])
def test_a_failure_of_another_kind_does_not_lengthen_the_first_wait(clock: Clock, error: Exception) -> None:
    recovery = make(clock, dice=0.0)
    for other in (SHORT, BROKEN, REFUSED, throttled(1.0)):
        if other is not error and not (error is BROKEN and other is BROKEN):
            waits(recovery, clock, other, 6)

    assert recovery.failed(error) <= 1.5


def test_a_recreated_definition_is_noticed_within_8_seconds(clock: Clock) -> None:
    recovery = make(clock)
    recovery.opened()

    assert max(waits(recovery, clock, NOT_FOUND, 20)) < 8.0


def test_one_410_after_a_working_watch_costs_no_wait(clock: Clock) -> None:
    recovery = make(clock)
    for _ in range(5):
        assert recovery.gone() == 0.0
        recovery.proved()


def test_restarts_in_quick_succession_do_not_add_up(clock: Clock) -> None:
    """Each restart cuts the watch as soon as it is open, refuses a connection, and answers 410."""
    recovery = make(clock, dice=0.0)
    for _ in range(10):
        assert recovery.failed(ApiError("watch", 0, SHORT_WATCH, "it ended at once")) == 0.8
        clock.now += recovery.failed(REFUSED)
        assert recovery.gone() == 0.0
        recovery.opened()


def test_repeated_410s_after_lists_back_off(clock: Clock) -> None:
    recovery = make(clock, dice=0.0)

    assert [recovery.gone() for _ in range(4)] == [0.0, 0.8, 1.6, 3.2]
