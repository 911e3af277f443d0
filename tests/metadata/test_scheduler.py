from __future__ import annotations

from itertools import count

import pytest

from shmroute.metadata.scheduler import NOT_READ, MetadataRead, MetadataRequest, Now, PendingRead, ReadScheduler
from shmroute.metadata.store import Absent, Found, too_large
from shmroute.rows import Kind, MetadataState, RowKey

MISSING = Absent(MetadataState.MISSING, "no such key")
EVERYTHING = 1_000_000


def at(seconds: float) -> Now:
    return Now(seconds, 1_000_000.0 + seconds)


def scheduler() -> ReadScheduler:
    return ReadScheduler(dice=lambda: 0.0)


def row(model: str) -> RowKey:
    return Kind.METADATA, f"ns/{model}"


_tickets = count(1)


def request(it: ReadScheduler, model: str, version: str, now: Now, *, app: str = "app") -> MetadataRequest:
    """Ask for the metadata of a model, as the feed does."""
    wanted = MetadataRequest(row(model), f"{app}_{model}", version, next(_tickets))
    it.request(wanted, now)
    return wanted


def keys(wants: list[PendingRead]) -> list[str]:
    return [want.key for want in wants]


def take(it: ReadScheduler, seconds: float = 0.0, count: int = EVERYTHING) -> list[PendingRead]:
    return it.take(count, at(seconds))


def answer(it: ReadScheduler, found: Found, seconds: float = 0.0) -> list[MetadataRead]:
    """Answer every due request with `found`."""
    wants = take(it, seconds)
    return it.answered([(want, found) for want in wants], at(seconds))


def loaded(*models: str) -> ReadScheduler:
    it = scheduler()
    for model in models:
        request(it, model, "v-1", at(0))
    answer(it, b"value")
    return it


# --- what costs a read -------------------------------------------------------------------------------------


def test_a_new_model_is_read_once() -> None:
    it = scheduler()
    request(it, "model", "v-1", at(5))
    [pending] = it.pending.values()
    assert (pending.state, pending.since, pending.reason) == (MetadataState.PENDING, at(5).unix, NOT_READ)
    assert it.next_due() == 0.0
    [want] = take(it, 5)
    assert (want.row, want.key, want.check_size_first) == (row("model"), "app_model", False)
    assert take(it, 5) == []
    [read] = it.answered([(want, b"value")], at(6))
    assert read == MetadataRead(row("model"), want.ticket, MetadataState.LOADED, at(6).unix, b"value", "")
    assert it.next_due() is None
    assert list(it.pending.values()) == []


@pytest.mark.fault(7)
def test_a_loaded_value_is_not_read_again() -> None:
    it = loaded("a", "b", "c")
    it.retry(at(10))
    assert take(it, 1_000) == []


def test_one_new_version_costs_one_read() -> None:
    it = loaded("a", "b", "c")
    request(it, "b", "v-2", at(10))
    assert keys(take(it, 10)) == ["app_b"]


def test_a_model_that_moves_to_another_app_is_read_under_its_new_key() -> None:
    it = loaded("a")
    request(it, "a", "v-1", at(10), app="other")
    assert keys(take(it, 10)) == ["other_a"]


def test_a_retry_reads_only_failed_keys() -> None:
    it = loaded("a", "b")
    request(it, "c", "v-1", at(0))
    answer(it, MISSING)
    it.retry(at(0.01))
    assert keys(take(it, 0.01)) == ["app_c"]


def test_a_retry_does_not_repeat_a_running_read() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    [want] = take(it)
    it.retry(at(0))
    assert take(it, 100) == []
    it.answered([(want, MISSING)], at(100))
    it.retry(at(100))
    it.retry(at(100))
    assert keys(take(it, 100)) == ["app_a"]


def test_batches_keep_the_requested_size_and_order() -> None:
    it = scheduler()
    for number in range(5):
        request(it, f"m{number}", "v-1", at(0))
    assert [keys(take(it, count=2)) for _ in range(3)] == [["app_m0", "app_m1"], ["app_m2", "app_m3"], ["app_m4"]]


# --- never an old value under a new version ----------------------------------------------------------------


@pytest.mark.fault(22)
def test_an_answer_for_a_superseded_version_is_dropped() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    [old] = take(it)
    request(it, "a", "v-2", at(1))
    assert it.answered([(old, b"value of v-1")], at(2)) == []
    [want] = take(it, 2)
    [read] = it.answered([(want, b"value of v-2")], at(3))
    assert (read.ticket, read.value) == (want.ticket, b"value of v-2")


def test_version_changed_twice_during_a_read_discards_its_answer() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    [old] = take(it)
    request(it, "a", "v-2", at(1))
    request(it, "a", "v-1", at(2))
    assert it.answered([(old, b"value")], at(3)) == []
    assert len(take(it, 3)) == 1


def test_a_value_that_names_another_version_counts_as_outdated() -> None:
    it = scheduler()
    request(it, "a", "v-2", at(0))
    [read] = answer(it, b'{"version": "v-1"}')
    assert read.state == MetadataState.OUTDATED
    assert read.value is None
    assert read.reason == "the value says version 'v-1'"
    assert answer(it, b'{"version": "v-1"}', 0.25) == [], "no news, nothing to publish"
    [read] = answer(it, b'{"version": "v-2"}', 0.5)
    assert (read.state, read.value) == (MetadataState.LOADED, b'{"version": "v-2"}')


def test_a_missing_key_is_read_again_until_it_exists() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    [read] = answer(it, MISSING)
    assert read.state == MetadataState.MISSING
    moment = 0.0
    for _ in range(20):
        due = it.next_due()
        assert due is not None
        assert 0.25 <= due - moment <= 1.5
        moment = due
        assert take(it, moment - 0.01) == []
        assert answer(it, MISSING, moment) == []
    due = it.next_due()
    assert due is not None
    [read] = answer(it, b"value", due)
    assert read.state == MetadataState.LOADED
    assert it.next_due() is None


def test_since_is_the_start_time_of_the_state() -> None:
    it = scheduler()
    request(it, "a", "v-2", at(0))
    answer(it, MISSING, 1)
    answer(it, MISSING, 10)
    [pending] = it.pending.values()
    assert (pending.state, pending.since, pending.key) == (MetadataState.MISSING, at(1).unix, "app_a")
    answer(it, b'{"version": "v-1"}', 20)
    answer(it, b'{"version": "v-0"}', 30)
    [pending] = it.pending.values()
    assert (pending.state, pending.since) == (MetadataState.OUTDATED, at(20).unix)
    assert pending.reason == "the value says version 'v-0'"


# --- too large ---------------------------------------------------------------------------------------------


def test_too_large_value_is_not_read_again_until_its_version_changes() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    [read] = answer(it, too_large(5_000_000, 1_000_000))
    assert read.state == MetadataState.TOO_LARGE
    assert read.reason == "the value has 5000000 bytes, the limit is 1000000"
    assert it.next_due() is None
    assert take(it, 1e9) == []
    request(it, "a", "v-2", at(0))
    assert [want.check_size_first for want in take(it)] == [False]


def test_a_retry_reads_the_size_first() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    answer(it, too_large(5_000_000, 1_000_000))
    it.retry(at(300))
    [want] = take(it, 300)
    assert want.check_size_first
    assert it.answered([(want, too_large(5_000_000, 1_000_000))], at(300)) == []
    assert it.next_due() is None
    it.retry(at(600))
    answer(it, b"smaller", 600)
    assert not it.pending


def test_several_retries_of_a_key_read_its_size_once() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    answer(it, too_large(5_000_000, 1_000_000))
    it.retry(at(0))
    it.retry(at(0))
    answer(it, too_large(5_000_000, 1_000_000), 0)
    assert take(it, 100) == []


# --- the store is away -------------------------------------------------------------------------------------


def test_read_without_answer_is_repeated_and_its_reason_reported_once() -> None:
    it = scheduler()
    for model in ("a", "b", "c"):
        request(it, model, "v-1", at(0))
    wants = take(it, count=1)
    told = it.unanswered(wants, "connection refused")
    assert {(read.row, read.state, read.reason) for read in told} == {
        (row(model), MetadataState.PENDING, "connection refused") for model in ("a", "b", "c")
    }
    assert it.problem == "connection refused"
    assert it.unanswered(take(it, 1), "timed out") == []
    request(it, "d", "v-1", at(2))
    assert [read.reason for read in it.unanswered([], "timed out")] == ["timed out"], "a request that came meanwhile"
    assert len(answer(it, b"value", 3)) == 4
    assert it.problem == ""


def test_missing_values_stay_missing_while_the_store_is_unavailable() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    answer(it, MISSING)
    assert it.unanswered(take(it, 1), "connection refused") == []
    [pending] = it.pending.values()
    assert pending.state == MetadataState.MISSING
    assert len(take(it, 1)) == 1


def test_retry_delays_start_anew_after_a_store_outage() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    answer(it, MISSING)
    answer(it, MISSING, 1_000)
    assert it.next_due() == 1_012.5
    it.unanswered(take(it, 2_000), "connection refused")
    answer(it, MISSING, 4_000)
    assert it.next_due() == 4_000.25


# --- bounds ------------------------------------------------------------------------------------------------


def test_a_removed_model_is_forgotten() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    it.forget(row("a"))
    assert take(it) == []
    request(it, "b", "v-1", at(0))
    [want] = take(it)
    it.forget(row("b"))
    assert it.answered([(want, b"value")], at(0)) == []
    request(it, "c", "v-1", at(0))
    answer(it, MISSING)
    it.forget(row("c"))
    assert (it.next_due(), it.pending) == (None, {})
    it.forget(row("never there"))


def test_memory_is_bounded_by_models_while_the_store_is_unavailable() -> None:
    it = scheduler()
    for change in range(50_000):
        request(it, f"m{change % 100}", f"v-{change}", at(change))
        if change % 10 == 0:
            it.unanswered(take(it, change, count=16), "connection refused")
    assert len(it.pending) == 100
    assert len(take(it, 50_000)) == 100
    assert len(it._timers) <= 1_100


def test_timers_of_repeated_requests_do_not_accumulate() -> None:
    it = scheduler()
    for model in range(100):
        request(it, f"m{model}", "v-1", at(0))
    answer(it, MISSING)
    for moment in range(100):
        it.retry(at(moment))
    assert len(it._timers) <= 1_100
    assert len(take(it, 100)) == 100


def test_many_late_values_are_reread_at_a_bounded_rate() -> None:
    it = scheduler()
    for model in range(100):
        request(it, f"m{model}", "v-2", at(0))
    answer(it, b'{"version": "v-1"}' + b" " * 1024 * 1024)
    due = it.next_due()
    assert due is not None
    assert 0 < len(take(it, 3.0)) < 50


def test_requests_that_are_put_back_are_due_again_at_once() -> None:
    it = scheduler()
    for model in ("a", "b"):
        request(it, model, "v-1", at(0))
    it.put_back(take(it))
    assert keys(take(it)) == ["app_a", "app_b"]
    it.put_all_back()
    assert keys(take(it)) == ["app_a", "app_b"], "the thread that had taken them has failed"
    answer_to = [(each, MISSING) for each in take(it)]
    assert answer_to == []


def test_a_missing_key_put_back_is_due_at_once() -> None:
    it = scheduler()
    request(it, "a", "v-1", at(0))
    answer(it, MISSING)
    wants = take(it, 1)
    assert take(it, 1) == []
    it.put_back(wants)
    assert keys(take(it, 1)) == ["app_a"]
