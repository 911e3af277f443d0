"""Ejection of endpoints: after consecutive failures, for a growing time, and never too many at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.calls import EndpointEjected, EndpointReturned, Outcome, Settings
from shmroute.errors import CallFailed
from tests.calls.world import BREAKS, HANGS, REFUSES, World


@pytest.mark.fault(49)
@pytest.mark.parametrize("fate", [REFUSES, HANGS, BREAKS], ids=lambda fate: str(fate[0]))
def test_a_dead_pod_gets_1_call_in_100(fate: tuple[Outcome, bool]) -> None:
    world = World(3)
    dead = world.addresses[1]
    world.calls(50)
    world.pods[dead] = fate
    answers = world.calls(40, idempotent=True)
    assert dead not in answers
    world.touched.clear()
    answers = world.calls(4000, idempotent=True)
    assert not any(isinstance(answer, CallFailed) for answer in answers)
    assert world.touched.count(dead) <= 40


@pytest.mark.fault(49)
@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("per_second", [2.0, 20.0, 200.0, 500.0])
@pytest.mark.parametrize("fate", [REFUSES, HANGS], ids=lambda fate: str(fate[0]))
def test_a_pod_is_in_use_within_15_s_of_its_return(
    fate: tuple[Outcome, bool], per_second: float, idempotent: bool
) -> None:
    world = World(3)
    dead = world.addresses[0]
    world.pods[dead] = fate
    world.calls(int(40 * per_second), per_second, idempotent=idempotent)
    world.pods[dead] = None
    returned = world.now
    for answer in world.each_call(int(16 * per_second), per_second, idempotent=idempotent):
        if answer == dead:
            break
    assert world.now - returned <= 15.0
    assert world.calls(60, per_second).count(dead) > 5


def test_unrepeatable_calls_leave_probing_to_repeatable_ones() -> None:
    """A pod that accepts requests and never answers fails no POST while there are GETs."""
    world = World(3)
    world.pods[world.addresses[0]] = HANGS
    world.calls(100, idempotent=True)
    lost = 0
    for number in range(8000):
        world.now += 1 / 200
        lost += isinstance(world.call(idempotent=number % 2 == 0), CallFailed)
    assert lost == 0


@given(
    count=st.integers(1, 12),
    fates=st.lists(st.tuples(st.integers(0, 11), st.sampled_from([None, REFUSES, HANGS, BREAKS])), max_size=30),
    percent=st.sampled_from([0, 10, 50, 100]),
    panic=st.sampled_from([0, 50, 100]),
)
def test_at_most_the_allowed_share_is_ejected_and_none_in_panic(
    count: int, fates: list[tuple[int, tuple[Outcome, bool] | None]], percent: int, panic: int
) -> None:
    world = World(count, Settings(max_ejection_percent=percent, healthy_panic_threshold=panic))
    outliers = world.policy.outliers
    for index, fate in fates:
        world.pods[world.addresses[index % count]] = fate
        world.calls(20, idempotent=True)
        pool = world.look_up().current_pool()
        view = outliers.view("ns/app", pool.by_address, world.now, first=False, repeatable=True)
        failing = outliers.failing("ns/app")
        healthy = count - len(failing)
        if healthy * 100 < panic * count:
            assert view.left_out == (failing if healthy else frozenset())
        else:
            assert len(view.left_out) == min(len(failing), count * percent // 100)
        assert view.left_out <= failing


@given(down=st.integers(0, 5), seed=st.integers(0, 1000))
def test_a_call_that_can_be_repeated_finds_the_last_healthy_pod(down: int, seed: int) -> None:
    """This holds for any number of dead pods, once they are ejected."""
    world = World(6, seed=seed)
    for address in world.addresses[:down]:
        world.pods[address] = REFUSES
    world.calls(300, 20.0)
    assert not any(isinstance(answer, CallFailed) for answer in world.calls(300))


def test_a_healthy_pod_is_found_at_once_when_all_have_been_down() -> None:
    world = World(3)
    for address in world.addresses:
        world.pods[address] = REFUSES
    assert all(isinstance(answer, CallFailed) for answer in world.calls(2000))
    world.pods[world.addresses[2]] = None
    answers = world.calls(200)
    assert world.addresses[2] in answers[:20], "0.1 s"
    assert not any(isinstance(answer, CallFailed) for answer in answers[100:])


def test_in_panic_failing_pods_get_1_call_in_10() -> None:
    world = World(4)
    for address in world.addresses[:3]:
        world.pods[address] = REFUSES
    world.calls(200)
    world.touched.clear()
    assert world.calls(1000) == [world.addresses[3]] * 1000
    counts = [world.touched.count(address) for address in world.addresses[:3]]
    assert all(30 <= count <= 36 for count in counts)


def test_panic_gives_no_unrepeatable_request_to_a_hanging_pod() -> None:
    world = World(3)
    for address in world.addresses[:2]:
        world.pods[address] = HANGS
    world.calls(100, idempotent=True)
    lost = sum(isinstance(world.call(idempotent=number % 2 == 0), CallFailed) for number in range(1000))
    assert lost == 0


def test_ejections_grow_up_to_the_longest_and_start_over_later() -> None:
    world = World(2)
    told: list[object] = []
    world.policy.listeners.append(told.append)
    dead = world.addresses[0]
    world.pods[dead] = REFUSES
    world.calls(60 * 200)
    seconds = [event.seconds for event in told if isinstance(event, EndpointEjected)]
    assert seconds[:5] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert max(seconds) == 10.0
    world.pods[dead] = None
    world.calls(15 * 200)
    assert [event.endpoint for event in told if isinstance(event, EndpointReturned)] == [dead]
    world.calls(15 * 200)
    told.clear()
    world.pods[dead] = REFUSES
    world.calls(100)
    assert [event.seconds for event in told if isinstance(event, EndpointEjected)] == [1.0]


def test_a_pod_that_flaps_is_left_out_for_longer_each_time() -> None:
    world = World(2)
    told: list[object] = []
    world.policy.listeners.append(told.append)
    flapping = world.addresses[0]
    for _ in range(3):
        world.pods[flapping] = REFUSES
        world.calls(100)
        world.pods[flapping] = None
        world.calls(6 * 200)
    seconds = [event.seconds for event in told if isinstance(event, EndpointEjected)]
    assert seconds[0] < seconds[-1]


def test_failures_interrupted_by_answers_eject_no_pod() -> None:
    world = World(2)
    flaky = world.addresses[0]
    for number in range(100):
        world.pods[flaky] = REFUSES if number % 3 else None
        while world.touched[-1:] != [flaky]:
            world.call(attempts=1)
        world.touched.clear()
    assert not world.policy.outliers.failing("ns/app")


def test_a_withdrawn_address_is_forgotten_with_its_row() -> None:
    world = World(3)
    dead = world.addresses[0]
    world.pods[dead] = REFUSES
    world.calls(100)
    assert world.policy.outliers.failing("ns/app") == {dead}
    del world.pods[dead]
    world.changed()
    world.call()
    assert not world.policy.outliers.failing("ns/app")
    world.pods[dead] = None
    world.changed()
    assert dead in world.calls(20), "a new pod at an old address starts afresh"


def test_apps_whose_pods_have_all_recovered_use_no_memory() -> None:
    world = World(3)
    world.pods[world.addresses[0]] = REFUSES
    world.calls(100)
    assert world.policy.outliers.knows("ns/app")
    world.pods[world.addresses[0]] = None
    world.calls(30 * 200)
    assert not world.policy.outliers.knows("ns/app")


def test_a_single_endpoint_is_never_ejected() -> None:
    world = World(1)
    world.pods[world.addresses[0]] = REFUSES
    assert all(isinstance(answer, CallFailed) for answer in world.calls(100))
    world.pods[world.addresses[0]] = None
    assert world.call() == world.addresses[0]


def test_a_probe_without_an_outcome_does_not_keep_the_pod_out() -> None:
    world = World(3)
    dead = world.addresses[0]
    world.pods[dead] = REFUSES
    world.calls(100)
    world.pods[dead] = None
    world.now += 11
    assert world.attempts().next().address == dead, "this call probes, and its outcome is never told"
    world.now += 11
    assert world.call() == dead


def test_late_failures_from_before_the_ejection_do_not_prolong_it() -> None:
    world = World(2)
    dead = world.addresses[0]
    under_way = [attempt for attempt in (world.attempts().next() for _ in range(20)) if attempt.address == dead]
    told: list[object] = []
    world.policy.listeners.append(told.append)
    for attempt in under_way:
        attempt.failed(Outcome.BROKEN, sent=True)
    assert len([event for event in told if isinstance(event, EndpointEjected)]) == 1


def test_a_key_goes_to_the_next_pod_while_its_own_is_out_and_back() -> None:
    world = World(5)
    keys = [f"user-{number}" for number in range(200)]
    before = {key: world.call(key=key) for key in keys}
    dead = world.addresses[2]
    world.pods[dead] = REFUSES
    for _ in range(3):
        for key in keys:
            world.now += 0.005
            answer = world.call(key=key)
            assert answer == before[key] or before[key] == dead
    world.touched.clear()
    for key in keys:
        world.call(key=key)
    assert dead not in world.touched
    world.pods[dead] = None
    world.now += 11
    for _ in range(3):
        after = {key: world.call(key=key) for key in keys}
    assert after == before
