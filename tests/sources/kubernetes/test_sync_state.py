"""The record of sent objects and of the position, which probe and audit compare with."""

from __future__ import annotations

import threading

import pytest

from shmroute.resources.key import ObjectKey
from shmroute.sources.kubernetes.sync_state import SyncState, identity_of, revision_of

A, B, C = (ObjectKey("n", name) for name in "abc")


@pytest.fixture
def sync() -> SyncState:
    made = SyncState()
    made.replace("10", {A: 3, B: 7})
    return made


@pytest.mark.parametrize(("text", "number"), [("17", 17), ("", 0), ("abc", 0), ("-1", 0), ("\u0661\u0667", 0)])
def test_a_non_numeric_resource_version_is_older_than_all(text: str, number: int) -> None:
    assert revision_of(text) == number


def test_an_identity_consists_of_uid_and_resource_version() -> None:
    assert identity_of("u", "7") == identity_of("u", "7")
    assert len({identity_of("u", "7"), identity_of("v", "7"), identity_of("u", "8")}) == 3


def test_a_resource_version_out_of_range_is_older_than_all() -> None:
    assert revision_of("9" * 20) > 0
    assert revision_of("9" * 5_000) == 0


def test_a_new_sync_state_has_nothing_to_resume_from() -> None:
    assert SyncState().resource_version == ""


def test_events_and_bookmarks_advance_the_position(sync: SyncState) -> None:
    sync.put(A, 11, "11")
    sync.remove(B, "12")
    sync.advance("15")

    assert (sync.resource_version, sync.position, len(sync)) == ("15", 15, 1)
    assert A in sync
    assert B not in sync


@pytest.mark.fault(6)
def test_an_older_bookmark_does_not_move_the_position(sync: SyncState) -> None:
    sync.advance("9")

    assert sync.resource_version == "10"


def test_an_event_without_a_version_does_not_move_the_position(sync: SyncState) -> None:
    sync.put(C, 0, "")

    assert sync.resource_version == "10"


def test_an_older_list_resets_the_position_and_the_proof(sync: SyncState) -> None:
    sync.note_server(90)
    sync.note_checked(80)

    sync.replace("5", {A: 2})

    assert (sync.position, sync.checked, sync.highest) == (5, 5, 5)


def test_an_older_proof_does_not_reset_a_newer_one(sync: SyncState) -> None:
    sync.note_checked(80)
    sync.note_checked(70)

    assert (sync.checked, sync.highest) == (80, 80)


def test_the_highest_revision_from_any_response_is_kept(sync: SyncState) -> None:
    sync.note_server(20)
    sync.note_server(15)
    sync.put(A, 12, "12")

    assert (sync.highest, sync.position) == (20, 12)


def test_differences_are_missing_surplus_and_changed_objects(sync: SyncState) -> None:
    assert sync.differences({A: 3, B: 7}) == set()
    assert sync.differences({A: 3}) == {B}
    assert sync.differences({A: 3, B: 8}) == {B}
    assert sync.differences({A: 3, B: 7, C: 9}) == {C}


def test_an_event_during_an_audit_excludes_its_object(sync: SyncState) -> None:
    with sync.viewed() as view:
        candidates = sync.differences({A: 3, B: 11, C: 12})
        sync.put(B, 11, "11")

        assert view.unexplained(candidates) == {C}
        assert not view.superseded


def test_a_whole_new_list_ends_an_audit(sync: SyncState) -> None:
    with sync.viewed() as view:
        sync.replace("11", {})

        assert view.superseded


def test_no_event_is_recorded_after_an_audit(sync: SyncState) -> None:
    with sync.viewed() as view:
        pass
    sync.put(B, 11, "11")

    assert not view.touched


def test_a_wait_ends_when_the_position_is_reached(sync: SyncState) -> None:
    threading.Timer(0.05, lambda: sync.put(A, 20, "20")).start()

    assert sync.wait_past(20, 10.0, threading.Event())


def test_a_wait_for_a_missing_event_times_out(sync: SyncState) -> None:
    assert not sync.wait_past(20, 0.05, threading.Event())


def test_a_wait_ends_early_when_the_source_stops(sync: SyncState) -> None:
    stop = threading.Event()

    def end() -> None:
        stop.set()
        sync.wake()

    threading.Timer(0.05, end).start()

    assert not sync.wait_past(20, 60.0, stop)
