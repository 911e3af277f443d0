from __future__ import annotations

import pytest

from shmroute.metadata.gate import NOT_READ, Gate, MetadataRead, Moment, Want
from shmroute.metadata.store import Absent, Found, too_large
from shmroute.metadata.template import KeyTemplate
from shmroute.rows import MetadataRow, MetadataState

MISSING = Absent(MetadataState.MISSING, "no such key")
EVERYTHING = 1_000_000


def at(seconds: float) -> Moment:
    return Moment(seconds, 1_000_000.0 + seconds)


def gate(template: str = "{app}_{model}") -> Gate:
    return Gate(KeyTemplate(template), dice=lambda: 0.0)


def keys(wants: list[Want]) -> list[str]:
    return [want.key for want in wants]


def take(it: Gate, seconds: float = 0.0, count: int = EVERYTHING) -> list[Want]:
    return it.take(count, at(seconds))


def answer(it: Gate, found: Found, seconds: float = 0.0) -> list[MetadataRead]:
    """Everything that is due is found to be `found`."""
    wants = take(it, seconds)
    return it.answered([(want, found) for want in wants], at(seconds))


def loaded(*models: str) -> Gate:
    it = gate()
    for model in models:
        it.want("ns", model, "app", "v-1", at(0))
    answer(it, b"value")
    return it


# --- what costs a read -------------------------------------------------------------------------------------


def test_a_new_model_is_read_once() -> None:
    it = gate()
    pending = it.want("ns", "model", "app", "v-1", at(5))
    assert pending is not None
    assert pending.row == MetadataRow("app", None, "v-1", MetadataState.PENDING, at(5).unix, None, NOT_READ)
    assert it.next_due() == 0.0
    [want] = take(it, 5)
    assert (want.namespace, want.model, want.key, want.measure) == ("ns", "model", "app_model", False)
    assert take(it, 5) == []
    [read] = it.answered([(want, b"value")], at(6))
    assert read.row == MetadataRow("app", "v-1", "v-1", MetadataState.LOADED, at(6).unix, b"value")
    assert it.next_due() is None
    assert list(it.pending()) == []


@pytest.mark.fault(7)
def test_the_same_version_again_costs_nothing() -> None:
    it = loaded("a", "b", "c")
    for _ in range(10):
        for model in ("a", "b", "c"):
            assert it.want("ns", model, "app", "v-1", at(10)) is None
        it.retry(at(10))
    assert take(it, 1_000) == []
    assert it.skipped == 30


def test_one_new_version_costs_one_read() -> None:
    it = loaded("a", "b", "c")
    it.want("ns", "b", "app", "v-2", at(10))
    assert keys(take(it, 10)) == ["app_b"]


def test_a_model_that_moves_to_another_app_is_read_under_its_new_key() -> None:
    it = loaded("a")
    it.want("ns", "a", "other", "v-1", at(10))
    assert keys(take(it, 10)) == ["other_a"]


def test_the_same_model_in_two_namespaces_is_two_wants() -> None:
    it = gate("{namespace}/{model}@{version}")
    it.want("east", "m", "app", "v-1", at(0))
    it.want("west", "m", "app", "v-2", at(0))
    assert keys(take(it)) == ["east/m@v-1", "west/m@v-2"]


def test_a_retry_reads_just_what_failed() -> None:
    it = loaded("a", "b")
    it.want("ns", "c", "app", "v-1", at(0))
    answer(it, MISSING)
    it.retry(at(0.01))
    assert keys(take(it, 0.01)) == ["app_c"]


def test_a_retry_does_not_read_twice_what_is_being_read() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    [want] = take(it)
    it.retry(at(0))
    assert take(it, 100) == []
    it.answered([(want, MISSING)], at(100))
    it.retry(at(100))
    it.retry(at(100))
    assert keys(take(it, 100)) == ["app_a"]


def test_batches_are_no_larger_than_asked_for_and_in_order() -> None:
    it = gate()
    for number in range(5):
        it.want("ns", f"m{number}", "app", "v-1", at(0))
    assert [keys(take(it, count=2)) for _ in range(3)] == [["app_m0", "app_m1"], ["app_m2", "app_m3"], ["app_m4"]]


# --- never an old value under a new version ----------------------------------------------------------------


@pytest.mark.fault(22)
def test_an_answer_for_a_version_that_is_wanted_no_more_is_dropped() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    [old] = take(it)
    it.want("ns", "a", "app", "v-2", at(1))
    assert it.answered([(old, b"value of v-1")], at(2)) == []
    [want] = take(it, 2)
    [read] = it.answered([(want, b"value of v-2")], at(3))
    assert (read.row.version, read.row.value) == ("v-2", b"value of v-2")


def test_a_version_that_came_and_went_during_a_read_does_not_make_its_answer_good() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    [old] = take(it)
    it.want("ns", "a", "app", "v-2", at(1))
    it.want("ns", "a", "app", "v-1", at(2))
    assert it.answered([(old, b"value")], at(3)) == []
    assert len(take(it, 3)) == 1


@pytest.mark.fault(22)
def test_what_was_read_is_not_the_newest_once_another_version_is_wanted_or_the_model_is_gone() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    [read] = answer(it, b"value")
    assert it.is_newest(read)
    it.want("ns", "a", "app", "v-2", at(1))
    assert not it.is_newest(read)
    it.gone("ns", "a")
    assert not it.is_newest(read)
    it.want("ns", "a", "app", "v-1", at(2))
    assert not it.is_newest(read)


def test_a_value_that_says_another_version_has_not_arrived_yet() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-2", at(0))
    [read] = answer(it, b'{"version": "v-1"}')
    assert read.row.state == MetadataState.OUTDATED
    assert read.row.value is None
    assert read.row.reason == "the value says version 'v-1'"
    assert answer(it, b'{"version": "v-1"}', 0.25) == [], "no news, nothing to publish"
    [read] = answer(it, b'{"version": "v-2"}', 0.5)
    assert (read.row.state, read.row.version) == (MetadataState.LOADED, "v-2")


def test_a_missing_key_is_asked_for_again_until_it_is_there() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    [read] = answer(it, MISSING)
    assert read.row.state == MetadataState.MISSING
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
    assert read.row.state == MetadataState.LOADED
    assert it.next_due() is None


def test_since_tells_when_the_present_state_began() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-2", at(0))
    answer(it, MISSING, 1)
    answer(it, MISSING, 10)
    [pending] = it.pending()
    assert (pending.state, pending.since, pending.key) == (MetadataState.MISSING, at(1).unix, "app_a")
    answer(it, b'{"version": "v-1"}', 20)
    answer(it, b'{"version": "v-0"}', 30)
    [pending] = it.pending()
    assert (pending.state, pending.since) == (MetadataState.OUTDATED, at(20).unix)
    assert pending.reason == "the value says version 'v-0'"


# --- too large ---------------------------------------------------------------------------------------------


def test_a_value_that_is_too_large_is_not_read_again_until_its_version_changes() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    [read] = answer(it, too_large(5_000_000, 1_000_000))
    assert read.row.state == MetadataState.TOO_LARGE
    assert read.row.reason == "the value has 5000000 bytes, the limit is 1000000"
    assert it.too_large == 1
    assert it.next_due() is None
    assert take(it, 1e9) == []
    it.want("ns", "a", "app", "v-2", at(0))
    assert it.too_large == 0
    assert [want.measure for want in take(it)] == [False]


def test_a_retry_asks_for_its_size_first() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    answer(it, too_large(5_000_000, 1_000_000))
    it.retry(at(300))
    [want] = take(it, 300)
    assert want.measure
    assert it.answered([(want, too_large(5_000_000, 1_000_000))], at(300)) == []
    assert (it.too_large, it.next_due()) == (1, None)
    it.retry(at(600))
    answer(it, b"smaller", 600)
    assert (it.too_large, it.pending_count) == (0, 0)


def test_however_often_a_retry_is_asked_for_its_size_is_asked_for_once() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    answer(it, too_large(5_000_000, 1_000_000))
    it.retry(at(0))
    it.retry(at(0))
    answer(it, too_large(5_000_000, 1_000_000), 0)
    assert take(it, 100) == []


# --- the store is away -------------------------------------------------------------------------------------


def test_a_read_without_an_answer_is_done_again_and_everyone_is_told_why_once() -> None:
    it = gate()
    for model in ("a", "b", "c"):
        it.want("ns", model, "app", "v-1", at(0))
    wants = take(it, count=1)
    told = it.unanswered(wants, "connection refused")
    assert {(read.model, read.row.state, read.row.reason) for read in told} == {
        (model, MetadataState.PENDING, "connection refused") for model in ("a", "b", "c")
    }
    assert it.problem == "connection refused"
    assert it.unanswered(take(it, 1), "timed out") == []
    late = it.want("ns", "d", "app", "v-1", at(2))
    assert late is not None
    assert late.row.reason == "timed out"
    assert len(answer(it, b"value", 3)) == 4
    assert it.problem == ""


def test_what_was_missing_stays_missing_while_the_store_is_away() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    answer(it, MISSING)
    assert it.unanswered(take(it, 1), "connection refused") == []
    [pending] = it.pending()
    assert pending.state == MetadataState.MISSING
    assert len(take(it, 1)) == 1


def test_waiting_begins_anew_when_the_store_is_back() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    answer(it, MISSING)
    answer(it, MISSING, 1_000)
    assert it.next_due() == 1_012.5
    it.unanswered(take(it, 2_000), "connection refused")
    answer(it, MISSING, 4_000)
    assert it.next_due() == 4_000.25


# --- bounds ------------------------------------------------------------------------------------------------


def test_a_model_that_is_gone_is_forgotten() -> None:
    it = gate()
    it.want("ns", "a", "app", "v-1", at(0))
    it.gone("ns", "a")
    assert take(it) == []
    it.want("ns", "b", "app", "v-1", at(0))
    [want] = take(it)
    it.gone("ns", "b")
    assert it.answered([(want, b"value")], at(0)) == []
    it.want("ns", "c", "app", "v-1", at(0))
    answer(it, MISSING)
    it.gone("ns", "c")
    assert (it.next_due(), it.pending_count) == (None, 0)
    it.gone("ns", "never there")


def test_memory_is_bounded_by_the_models_however_often_they_change_while_the_store_is_away() -> None:
    it = gate()
    for change in range(50_000):
        it.want("ns", f"m{change % 100}", "app", f"v-{change}", at(change))
        if change % 10 == 0:
            it.unanswered(take(it, change, count=16), "connection refused")
    assert it.pending_count == 100
    assert len(take(it, 50_000)) == 100
    assert len(it._timers) <= 1_100


def test_timers_of_what_is_asked_for_again_do_not_pile_up() -> None:
    it = gate()
    for model in range(100):
        it.want("ns", f"m{model}", "app", "v-1", at(0))
    answer(it, MISSING)
    for moment in range(100):
        it.retry(at(moment))
    assert len(it._timers) <= 1_100
    assert len(take(it, 100)) == 100


def test_many_late_values_are_read_again_no_faster_than_the_wire_can_bear() -> None:
    it = gate()
    for model in range(100):
        it.want("ns", f"m{model}", "app", "v-2", at(0))
    answer(it, b'{"version": "v-1"}' + b" " * 1024 * 1024)
    due = it.next_due()
    assert due is not None
    assert 0 < len(take(it, 3.0)) < 50
