"""The attempts of one call: reasons for a further attempt, reasons to stop, and the caller's error."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any

import pytest

from shmroute.calls import AttemptFailed, Attempts, AttemptStarted, AttemptSucceeded, Event, Outcome, Settings, joined
from shmroute.errors import (
    CallAttemptsFailed,
    CallFailed,
    CallModelNotFound,
    CallNoEndpoints,
    CallNotRouted,
    CallTimedOut,
    ConfigError,
    ModelNotFound,
    NoEndpoints,
    NotReady,
)
from shmroute.testing import Answer, routes
from tests.calls.world import BREAKS, HANGS, REFUSES, World


def failed(answer: str | CallFailed) -> CallAttemptsFailed:
    assert isinstance(answer, CallAttemptsFailed)
    return answer


# --- what leads to another attempt ----------------------------------------------------------------------------


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_refused_connection_leads_to_another_pod(idempotent: bool) -> None:
    world = World(2)
    world.pods[world.addresses[0]] = REFUSES
    assert world.calls(10, idempotent=idempotent) == [world.addresses[1]] * 10


@pytest.mark.parametrize("fate", [BREAKS, HANGS])
def test_a_request_that_may_be_processed_is_repeated_only_if_idempotent(fate: tuple[Outcome, bool]) -> None:
    world = World(2)
    world.pods[world.addresses[0]] = fate
    answers = [world.call() for _ in range(4)]
    errors = [answer for answer in answers if isinstance(answer, CallAttemptsFailed)]
    assert errors
    assert all(len(error.attempts) == 1 and "not idempotent" in error.why for error in errors)
    assert not any(isinstance(answer, CallFailed) for answer in world.calls(4, idempotent=True))


def test_attempts_are_bounded_and_each_goes_to_another_pod() -> None:
    world = World(6)
    for address in world.addresses:
        world.pods[address] = REFUSES
    error = failed(world.call())
    assert len({attempt.endpoint for attempt in error.attempts}) == len(error.attempts) == 3
    assert error.why == "3 of 3 are made"
    assert len(failed(world.call(attempts=5)).attempts) == 5
    assert len(failed(world.call(attempts=1)).attempts) == 1


def test_one_call_tries_a_refusing_pod_once() -> None:
    world = World(2)
    for address in world.addresses:
        world.pods[address] = REFUSES
    error = failed(world.call())
    assert len(error.attempts) == 2
    assert error.why == "every endpoint has been tried"


def test_single_pod_is_retried_after_a_broken_idle_connection() -> None:
    world = World(1)
    call = world.attempts(idempotent=True)
    call.next().failed(Outcome.BROKEN, sent=True)
    assert call.next().address == world.addresses[0]


def test_a_pod_added_during_a_call_is_tried() -> None:
    world = World(1)
    call = world.attempts()
    first = call.next()
    world.pods = {"10.0.0.9:80": None}
    world.changed()
    first.failed(Outcome.REFUSED, sent=False)
    assert call.next().address == "10.0.0.9:80"


def test_the_budget_bounds_all_attempts_of_a_process() -> None:
    world = World(3)
    for address in world.addresses:
        world.pods[address] = REFUSES
    world.policy.budget.take(world.now)
    errors = world.calls(5000, 500.0)
    assert len(world.touched) <= 5000 * 1.2 + 10 * (10 + 1)
    assert any("budget" in failed(error).why for error in errors)
    assert world.policy.counters.out_of_budget > 0


# --- time -----------------------------------------------------------------------------------------------------


def test_a_deadline_is_divided_among_repeatable_attempts() -> None:
    world = World(3)
    call = world.attempts(idempotent=True, deadline=8.0)
    first = call.next()
    assert (first.seconds, first.connect_seconds) == (4.0, 1.0)
    world.now += 4.0
    first.failed(Outcome.TIMEOUT, sent=True)
    second = call.next()
    assert second.seconds == 2.0
    world.now += 2.0
    second.failed(Outcome.TIMEOUT, sent=True)
    third = call.next()
    assert (third.seconds, third.connect_seconds) == (2.0, 2.0), "the last one has all that is left"
    world.now += 2.0
    third.failed(Outcome.TIMEOUT, sent=True)
    with pytest.raises(CallTimedOut, match="within 8 s") as caught:
        call.next()
    assert len(caught.value.attempts) == 3
    assert isinstance(caught.value, TimeoutError)


def test_an_attempt_that_cannot_be_repeated_has_the_whole_deadline() -> None:
    first = World(3).attempts(deadline=8.0).next()
    assert (first.seconds, first.connect_seconds) == (8.0, 1.0)


def test_a_single_pod_gets_the_whole_deadline() -> None:
    first = World(1).attempts(idempotent=True, deadline=8.0).next()
    assert (first.seconds, first.connect_seconds) == (8.0, 8.0)


def test_attempt_timeout_applies_only_if_another_attempt_may_follow() -> None:
    world = World(2, Settings(attempt_timeout=0.5))
    call = world.attempts(idempotent=True)
    first = call.next()
    assert first.seconds == 0.5
    first.failed(Outcome.TIMEOUT, sent=True)
    assert call.next().seconds is None


def test_a_passed_deadline_ends_a_call_before_the_next_attempt() -> None:
    world = World(3)
    call = world.attempts(idempotent=True, deadline=1.0)
    first = call.next()
    world.now += 2.0
    first.failed(Outcome.REFUSED, sent=False)
    with pytest.raises(CallTimedOut):
        call.next()


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan")])
def test_a_deadline_that_is_not_positive_is_refused(deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        World(1).attempts(deadline=deadline)


@pytest.mark.parametrize("attempts", [0, -1, 1.5])
def test_a_number_of_attempts_below_1_is_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match="attempts"):
        World(1).attempts(attempts=attempts)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"max_ejection_percent": 101}, {"connect_timeout": 0}, {"max_ejection_time": 0.5}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]


# --- errors ---------------------------------------------------------------------------------------------------


def test_the_error_names_model_app_addresses_and_each_failure() -> None:
    world = World(2)
    for address in world.addresses:
        world.pods[address] = REFUSES
    error = failed(world.call())
    assert (error.model, error.app) == ("m", "app")
    for part in ("'m'", "'app'", *world.addresses, "refused (told)", "every endpoint"):
        assert part in str(error)


def test_the_error_says_why_there_is_no_endpoint() -> None:
    world = World(1)
    world.pods.clear()
    world.changed()
    error = world.call()
    assert isinstance(error, CallNoEndpoints)
    assert isinstance(error, NoEndpoints)
    assert (error.reason, error.service) == ("known empty", "ns/app")


@pytest.mark.parametrize(
    ("raised", "kind"), [(ModelNotFound("m"), CallModelNotFound), (NotReady("area"), CallNotRouted)]
)
def test_a_look_up_that_fails_is_a_failed_call(raised: Exception, kind: type[CallFailed]) -> None:
    world = World(1)

    def look_up() -> Any:
        raise raised

    with pytest.raises(kind) as caught:
        Attempts(world.policy, look_up, model="m").next()
    assert caught.value.__cause__ is raised
    assert caught.value.model == "m"


def made(ours: type[CallFailed], theirs: type[Exception], *arguments: Any) -> CallFailed:
    kind: Any = joined(ours, theirs)
    error: CallFailed = kind(*arguments)
    return error


def errors() -> list[CallFailed]:
    world = World(1)
    world.pods[world.addresses[0]] = REFUSES
    no_endpoint = NoEndpoints("app", "ns/app", "known empty")
    return [
        failed(world.call()),
        CallModelNotFound("m"),
        CallNoEndpoints("m", no_endpoint),
        CallNotRouted("m", NotReady("area")),
        CallTimedOut("m", "app", failed(world.call()).attempts, 2.0),
        made(CallTimedOut, ConnectionError, "m", "app", (), 2.0),
        made(CallModelNotFound, ConnectionError, "m"),
    ]


@pytest.mark.fault(50)
@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_errors_survive_pickle_and_deepcopy(error: CallFailed) -> None:
    for copied in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert type(copied) is type(error)
        assert str(copied) == str(error)
        assert copied.__dict__ == error.__dict__


def test_call_errors_are_caught_as_ours_or_the_librarys() -> None:
    kind = joined(CallAttemptsFailed, ConnectionResetError)
    error = made(CallAttemptsFailed, ConnectionResetError, "m", "app", (), "why")
    assert isinstance(error, CallAttemptsFailed)
    assert isinstance(error, ConnectionResetError)
    assert type(error).__name__ == "CallAttemptsFailed"
    assert joined(CallAttemptsFailed, ConnectionResetError) is kind


# --- observing ------------------------------------------------------------------------------------------------


def test_listeners_get_an_event_for_each_attempt() -> None:
    world = World(2)
    told: list[Event] = []
    world.policy.listeners.append(told.append)
    world.pods[world.addresses[0]] = REFUSES
    while world.touched[:1] != [world.addresses[0]]:
        told.clear()
        world.touched.clear()
        world.call()
    first, second = world.touched
    assert told == [
        AttemptStarted("m", "app", first, 1),
        AttemptFailed("m", "app", first, 1, 0.0, "refused", "told", False),
        AttemptStarted("m", "app", second, 2),
        AttemptSucceeded("m", "app", second, 2, 0.0),
    ]


def test_a_listener_that_fails_is_logged_and_harms_no_call(caplog: pytest.LogCaptureFixture) -> None:
    world = World(1)
    world.policy.listeners.append(lambda _: 1 / 0)
    assert world.call() == world.addresses[0]
    assert "ZeroDivisionError" in caplog.text


def test_counters_separate_refused_calls_from_those_broken_after_sending() -> None:
    world = World(1)
    for fate in (REFUSES, BREAKS, None):
        world.pods[world.addresses[0]] = fate
        world.call()
    counters = world.policy.counters
    assert counters.attempts == {("app", "refused"): 1, ("app", "broken after sending"): 1, ("app", "ok"): 1}
    assert counters.calls == {("app", "CallAttemptsFailed"): 2, ("app", "answered"): 1}


# --- Route.attempts -------------------------------------------------------------------------------------------


def test_a_loop_over_a_route_ends_with_the_first_block_that_succeeds() -> None:
    with routes({"m": Answer(app="app", endpoints=("10.0.0.1:80", "10.0.0.2:80"))}):
        from shmroute import resolve

        used = []
        for attempt in resolve("m").attempts(3):
            with attempt as endpoint:
                used.append(str(endpoint))
                if attempt.number == 1:
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        assert sorted(used) == ["10.0.0.1:80", "10.0.0.2:80"]


def test_a_loop_raises_the_error_of_the_last_attempt() -> None:
    world = World(3)

    def run(error: Exception, *, idempotent: bool = False) -> int:
        made = 0
        for attempt in world.attempts(idempotent=idempotent):
            made += 1
            with attempt:
                raise error
        return made

    with pytest.raises(CallAttemptsFailed) as caught:
        run(ConnectionRefusedError(errno.ECONNREFUSED, "no"))
    assert len(caught.value.attempts) == 3
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    for error in (ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError("slow")):
        with pytest.raises(CallAttemptsFailed) as caught:
            run(error)
        assert [attempt.sent for attempt in caught.value.attempts] == [True]
    with pytest.raises(CallAttemptsFailed) as caught:
        run(ConnectionResetError(errno.ECONNRESET, "reset"), idempotent=True)
    assert len(caught.value.attempts) == 3
    assert world.busy == {}


def test_an_error_of_the_callers_own_is_not_a_failure_of_the_pod() -> None:
    world = World(2)

    def run() -> None:
        for attempt in world.attempts():
            with attempt:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert not world.policy.outliers.knows("ns/app")
    assert world.busy == {}


def test_a_block_may_report_its_own_outcome() -> None:
    world = World(2)
    used = []
    for attempt in world.attempts(idempotent=True):
        with attempt:
            used.append(attempt.address)
            if attempt.number == 1:
                attempt.failed(Outcome.STATUS, "503", sent=True)
    assert len(set(used)) == 2


def test_an_attempt_without_an_outcome_is_refused() -> None:
    call = iter(World(2).attempts())
    next(call)
    with pytest.raises(RuntimeError, match="with attempt"):
        next(call)
