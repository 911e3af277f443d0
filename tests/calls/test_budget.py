"""The retry budget: a share of the calls and a few a second, with a bounded store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmroute.calls import Budget
from shmroute.calls.budget import STORED_SECONDS

steps = st.lists(st.sampled_from(["call", "take"]) | st.floats(0.0, 5.0), max_size=300)


@given(steps, st.sampled_from([0.0, 20.0, 100.0]), st.sampled_from([0.0, 1.0, 10.0]))
def test_budget_allows_no_more_than_calls_and_time_earn(
    steps: list[str | float], percent: float, per_second: float
) -> None:
    now, calls, taken = 50.0, 0, 0
    budget = Budget(percent, per_second, now)
    for step in steps:
        if step == "call":
            calls += 1
            budget.add_call()
        elif step == "take":
            taken += budget.take(now)
        else:
            assert isinstance(step, float)
            now += step
        assert taken <= calls * percent / 100 + per_second * (now - 50.0 + 1) + 1e-6


def test_unused_retry_budget_is_bounded() -> None:
    budget = Budget(20.0, 10.0, 0.0)
    for _ in range(100_000):
        budget.add_call()
    assert sum(budget.take(1e6) for _ in range(1000)) == 10.0 * STORED_SECONDS


def test_budget_keeps_allowing_its_share_of_the_calls() -> None:
    budget = Budget(20.0, 0.0, 0.0)
    taken = 0
    for _ in range(1000):
        budget.add_call()
        taken += budget.take(0.0)
    assert taken in (199, 200)


def test_a_clock_set_back_earns_no_budget() -> None:
    budget = Budget(0.0, 10.0, 100.0)
    assert sum(budget.take(100.0) for _ in range(20)) == 10
    assert not budget.take(50.0)
    assert sum(budget.take(51.0) for _ in range(20)) == 10


def test_no_budget_means_no_repeated_attempt() -> None:
    budget = Budget(0.0, 0.0, 0.0)
    budget.add_call()
    assert not budget.take(1e9)
