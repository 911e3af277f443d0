"""Times at which requests are due, on a clock that the test sets."""

from __future__ import annotations

import itertools
import random

import pytest

from shmroute.sources.kubernetes.schedule import Due, Schedule, audit_wait
from shmroute.sources.kubernetes.timing import PROBE_SECONDS_MAX, PROBE_SECONDS_MIN, Timing

PERIODS = [PROBE_SECONDS_MIN, 30.0, PROBE_SECONDS_MAX]


def make(probe_seconds: float = 30.0, dice: float = 0.5) -> Schedule:
    return Schedule(Timing(probe_seconds=probe_seconds), 0.0, lambda: dice)


@pytest.mark.parametrize("period", PERIODS)
def test_probes_and_storage_reads_happen_within_their_periods(period: float) -> None:
    schedule = Schedule(Timing(probe_seconds=period), 0.0, random.Random(1).random)
    before = confirmed = 0.0
    for _ in range(200):
        due, now = schedule.next()
        assert now - before <= period
        schedule.probed(now)
        if due is Due.CONFIRM:
            assert now - confirmed <= 120.0 + period
            schedule.confirmed(now)
            confirmed = now
        before = now


@pytest.mark.parametrize("period", PERIODS)
def test_events_replace_every_other_probe(period: float) -> None:
    schedule = make(period)
    schedule.confirmed(float("1e12"))
    probes = []
    for _ in range(100):
        _, now = schedule.next()
        schedule.heard(now - 0.1)
        if not schedule.excuse(now):
            probes.append(now)
            schedule.probed(now)

    gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert max(gaps) <= 2 * period
    assert len(probes) == 50


def test_an_event_before_the_last_probe_replaces_none() -> None:
    schedule = make()
    schedule.heard(1.0)
    schedule.probed(2.0)

    assert not schedule.excuse(schedule.next()[1])


def test_with_probes_off_only_comparisons_are_due() -> None:
    schedule = make(0.0)
    assert schedule.next()[1] == float("inf")

    schedule.broken(5.0)
    due, at = schedule.next()
    assert (due, 5.0 <= at <= 35.0) == (Due.COMPARE, True)


def test_a_watch_behind_the_cache_is_peeked_after_a_missed_bookmark() -> None:
    schedule = make()
    schedule.probed(100.0)
    schedule.ahead(500, 100.0)
    schedule.ahead(900, 130.0)  # by then it may have had its bookmark for 500

    assert schedule.behind == 500
    schedule.reached(499)
    schedule.probed(160.0)
    assert schedule.next() == (Due.LOOK, 168.0)

    schedule.reached(500)
    assert schedule.next()[0] is Due.CONFIRM


def test_inconclusive_peeks_grow_rare_until_a_bookmark_comes() -> None:
    schedule = make(0.0)
    schedule.ahead(500, 0.0)
    waits = []
    for _ in range(7):
        _, now = schedule.next()
        schedule.looked_in_vain(now)
        waits.append(schedule.next()[1] - now)
    assert waits == [136, 272, 544, 1088, 1800, 1800, 1800]

    schedule.looked()
    schedule.bookmarked()
    schedule.ahead(900, 10_000.0)
    assert schedule.next() == (Due.LOOK, 10_068.0)


def test_comparisons_are_spread_and_five_minutes_apart() -> None:
    at = []
    for dice in (0.0, 0.25, 0.99):
        schedule = make(0.0, dice)
        schedule.broken(1_000.0)
        at.append(schedule.next()[1])
    assert at == [1_000.0, 1_007.5, pytest.approx(1_029.7)]

    schedule = make(0.0, 0.0)
    schedule.broken(1_000.0)
    schedule.broken(1_010.0)
    assert schedule.next() == (Due.COMPARE, 1_000.0)
    schedule.compared(1_000.0)
    assert not schedule.comparing
    schedule.broken(1_020.0)
    assert schedule.next() == (Due.COMPARE, 1_300.0)


def test_a_complete_list_cancels_the_comparison() -> None:
    schedule = make(0.0)
    schedule.broken(0.0)
    schedule.listed()

    assert not schedule.comparing
    assert schedule.next()[1] == float("inf")


def test_no_request_is_due_before_retry_after_has_passed() -> None:
    schedule = make()
    schedule.wait_for(3_600.0, 0.0)

    assert schedule.next()[1] == 3_600.0


@pytest.mark.fault(5)
def test_documented_bounds_are_sums_of_their_parts() -> None:
    """docs/failures.md states them as formulas of P."""
    for period in PERIODS:
        timing = Timing(probe_seconds=period)
        assert timing.dead_within == 30.0
        assert timing.frozen_within == 2 * period + 15.0
        assert timing.silent_within == 2 * period + 75.0
        assert timing.rewound_within == 120.0 + period


def test_a_quiet_resource_costs_less_than_one_request_in_20_seconds() -> None:
    timing = Timing()
    schedule = Schedule(timing, 0.0, random.Random(2).random)
    requests, hours = 0, 20
    while True:
        due, now = schedule.next()
        if now > hours * 3_600:
            break
        schedule.probed(now)
        requests += 1 + (due is Due.CONFIRM)
        if due is Due.CONFIRM:
            schedule.confirmed(now)
    watches = hours * 3_600 / (sum(timing.watch_seconds) / 2)
    audits = hours * 3_600 / timing.audit_seconds

    assert (requests + watches + audits) / (hours * 3_600) < 0.05


def test_audits_are_jittered_by_a_fifth() -> None:
    timing = Timing()

    assert [audit_wait(timing, lambda dice=dice: dice) for dice in (0.0, 0.5, 1.0)] == [1440.0, 1800.0, 2160.0]  # type: ignore[misc]
