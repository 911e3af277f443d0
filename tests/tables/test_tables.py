"""The index: which rows an event changes, what it announces, and how invalid objects are handled."""

from __future__ import annotations

import os

import msgspec
import pytest

from shmroute.rows import InvalidRow, Kind
from shmroute.sources.base import AuditResult, FileProblem, Replaced, Resync, SourceState
from shmroute.tables import Announcement, Index
from tests.tables.builders import EARLY, LATE, Followed, appmodel, endpointslice, invalid
from tests.tables.oracle import decoded


def test_an_empty_index_has_no_rows_and_an_empty_list_changes_nothing() -> None:
    index = Index()
    assert index.apply(Replaced("appmodels", ())) == []
    assert index.apply(Replaced("endpointslices", ())) == []
    assert index.take_changes() == {}
    assert list(index.rows()) == []


# --- what counts as a change ---------------------------------------------------------------------------------


@pytest.mark.fault(7)
def test_an_unchanged_object_is_not_announced() -> None:
    followed = Followed()
    first = appmodel("a", "m1 m2", port="http", resource_version="1")
    assert followed.put(first) == [Announcement("add", None, first)]
    followed.take()
    again = msgspec.structs.replace(first, resource_version="2")
    assert followed.put(again) == []
    assert followed.replace(again) == []
    assert followed.take() == {}


@pytest.mark.parametrize(
    "changed",
    [
        appmodel("a", "m1 m2", version="v-2"),
        appmodel("a", "m1 m2", app="other"),
        appmodel("a", "m1 m2=2"),
        appmodel("a", "m1"),
        appmodel("a", "m1 m2 m3"),
        appmodel("a", "m2 m1"),
        appmodel("a", "m1 m2", service="web"),
        appmodel("a", "m1 m2", port="http"),
        appmodel("a", "m1 m2", created=LATE),
    ],
    ids=["version", "app", "model version", "model gone", "model new", "order", "service", "port", "age"],
)
def test_a_relevant_change_is_announced_with_both_states(changed: object) -> None:
    followed = Followed()
    first = appmodel("a", "m1 m2")
    followed.put(first)
    assert followed.put(changed) == [Announcement("update", first, changed)]  # type: ignore[arg-type]


def test_a_changed_model_changes_only_its_route_and_app() -> None:
    followed = Followed()
    followed.put(appmodel("a", "m1 m2 m3"), appmodel("b", "m4"))
    followed.take()
    followed.put(appmodel("a", "m1 m2=2 m3"))
    assert set(followed.take()) == {(Kind.MODEL, "m2"), (Kind.APP, "a")}


def test_a_new_app_version_changes_exactly_its_routes() -> None:
    followed = Followed()
    followed.put(appmodel("a", "m1 m2"), appmodel("b", "m3"))
    followed.take()
    followed.put(appmodel("a", "m1 m2", version="v-2"))
    changes = followed.take()
    assert set(changes) == {(Kind.MODEL, "m1"), (Kind.MODEL, "m2"), (Kind.APP, "a")}
    assert changes[Kind.MODEL, "m1"].app_version == "v-2"


def test_change_undone_before_a_take_is_not_announced() -> None:
    followed = Followed()
    first = appmodel("a", "m1 m2")
    followed.put(first, endpointslice("s", "10.0.0.1", service="a"))
    followed.take()
    followed.put(appmodel("a", "m1=9"), invalid("b"))
    followed.delete(first)
    followed.delete(invalid("b"))
    followed.put(first)
    assert followed.take() == {}


def test_object_added_and_deleted_before_a_take_is_not_announced() -> None:
    followed = Followed()
    followed.put(appmodel("a"))
    followed.delete(appmodel("a"))
    assert followed.take() == {}
    assert list(followed.index.rows()) == []


def test_changes_come_in_the_same_order_for_the_same_events() -> None:
    def taken() -> list[tuple[object, object]]:
        followed = Followed()
        followed.put(*(appmodel(f"a{n}", f"m{n} shared n{n}") for n in range(50)))
        return list(followed.index.take_changes().items())

    assert taken() == taken()


# --- complete lists ------------------------------------------------------------------------------------------


def test_objects_missing_in_a_complete_list_are_removed() -> None:
    followed = Followed()
    kept, gone, new = appmodel("kept", "m1"), appmodel("gone", "m2"), appmodel("new", "m3")
    followed.put(kept, gone)
    followed.take()
    assert followed.replace(kept, new) == [Announcement("add", None, new), Announcement("delete", gone, None)]
    changes = followed.take()
    assert changes[Kind.MODEL, "m2"] is None
    assert changes[Kind.APP, "gone"] is None
    assert changes[Kind.ENDPOINTS, "default/gone"] is None
    assert not any(key[1] in ("m1", "kept", "default/kept") for key in changes)


def test_the_last_of_two_entries_for_one_object_is_used() -> None:
    followed = Followed()
    followed.replace(appmodel("a", "m1"), appmodel("a", "m2"))
    assert followed.served_by("m1") is None
    assert followed.served_by("m2") == "default/a"


def test_a_list_of_one_resource_keeps_the_other() -> None:
    followed = Followed()
    followed.put(appmodel("a"), endpointslice("s", "10.0.0.1", service="a"))
    followed.replace(appmodel("a"))
    assert followed.addresses("a") == ["10.0.0.1:80"]
    followed.replace(endpointslice("s", "10.0.0.1", service="a"))
    assert followed.served_by("model1") == "default/a"


def test_deleting_an_unknown_object_has_no_effect() -> None:
    followed = Followed()
    assert followed.delete(appmodel("a")) == []
    assert followed.delete(endpointslice("s", service="a")) == []
    assert followed.take() == {}


# --- invalid objects -----------------------------------------------------------------------------------------


def test_an_invalid_object_is_listed_with_its_reason() -> None:
    followed = Followed()
    assert followed.put(invalid("a", "spec.app is missing")) == []
    assert followed.take() == {
        (Kind.INVALID, "AppModel default/a"): InvalidRow("AppModel", "default", "a", "spec.app is missing", False)
    }
    assert followed.index.invalid_count == 1


@pytest.mark.fault(17)
def test_the_last_valid_state_of_an_invalid_object_is_served() -> None:
    followed = Followed()
    followed.put(appmodel("a", "m1=7"), endpointslice("s", "10.0.0.1", service="a"))
    followed.take()
    assert followed.put(invalid("a")) == []
    assert set(followed.take()) == {(Kind.INVALID, "AppModel default/a")}
    assert followed.row(Kind.INVALID, "AppModel default/a").last_good
    assert followed.row(Kind.MODEL, "m1").version == "7"
    assert followed.addresses("a") == ["10.0.0.1:80"]


def test_last_valid_state_stays_when_a_list_holds_the_object_invalid() -> None:
    followed = Followed()
    followed.put(appmodel("a", "m1"), appmodel("b", "m2"))
    assert followed.replace(invalid("a"), appmodel("b", "m2")) == []
    assert followed.served_by("m1") == "default/a"
    assert followed.row(Kind.INVALID, "AppModel default/a").last_good


def test_the_last_valid_state_keeps_its_claim() -> None:
    followed = Followed()
    followed.put(appmodel("winner", created=EARLY), appmodel("loser", created=LATE))
    followed.put(invalid("winner"))
    assert followed.served_by("model1") == "default/winner"
    followed.delete(invalid("winner"))
    assert followed.served_by("model1") == "default/loser"


def test_a_fixed_object_is_no_longer_listed_as_invalid() -> None:
    followed = Followed()
    first = appmodel("a")
    followed.put(first, invalid("a"))
    followed.take()
    assert followed.put(first) == []
    assert followed.take() == {(Kind.INVALID, "AppModel default/a"): None}


def test_deleting_an_invalid_object_removes_its_last_valid_state() -> None:
    followed = Followed()
    first = appmodel("a")
    followed.put(first, invalid("a"))
    assert followed.delete(first) == [Announcement("delete", first, None)]
    assert followed.take() == {}
    assert followed.index.invalid_count == 0


def test_an_invalid_object_missing_in_a_list_is_removed() -> None:
    followed = Followed()
    followed.put(invalid("never-valid"), appmodel("was-valid", "m1"), invalid("was-valid"))
    followed.take()
    followed.replace(appmodel("other", "m2"))
    changes = followed.take()
    assert changes[Kind.INVALID, "AppModel default/never-valid"] is None
    assert changes[Kind.INVALID, "AppModel default/was-valid"] is None
    assert changes[Kind.MODEL, "m1"] is None


def test_a_new_reason_changes_the_row() -> None:
    followed = Followed()
    followed.put(invalid("a", "spec is missing"))
    followed.take()
    followed.put(invalid("a", "spec is missing"))
    assert followed.take() == {}
    followed.put(invalid("a", "spec.app is missing"))
    assert followed.row(Kind.INVALID, "AppModel default/a").reason == "spec.app is missing"


def test_a_broken_file_is_listed_by_path_until_fixed() -> None:
    followed = Followed()
    followed.index.apply(FileProblem("apps/a.yaml", "line 3: a tab", last_good=True))
    assert followed.take() == {
        (Kind.INVALID, "apps/a.yaml"): InvalidRow("File", "", "apps/a.yaml", "line 3: a tab", True)
    }
    followed.replace(appmodel("a"))
    assert followed.row(Kind.INVALID, "apps/a.yaml").reason == "line 3: a tab"
    followed.index.apply(FileProblem("apps/a.yaml", None))
    assert followed.take() == {(Kind.INVALID, "apps/a.yaml"): None}
    followed.index.apply(FileProblem("apps/a.yaml", None))
    assert followed.take() == {}


def test_a_file_with_a_binary_name_is_listed_readably() -> None:
    followed = Followed()
    path = os.fsdecode(b"apps/\xff.yaml")
    followed.index.apply(FileProblem(path, f"cannot read {path}"))
    row = followed.row(Kind.INVALID, r"apps/\udcff.yaml")
    assert (row.name, row.reason) == (r"apps/\udcff.yaml", r"cannot read apps/\udcff.yaml")
    followed.index.apply(FileProblem(path, None))
    assert followed.row(Kind.INVALID, r"apps/\udcff.yaml") is None


# --- announcements -------------------------------------------------------------------------------------------


def test_a_resync_announces_every_served_object_and_changes_no_row() -> None:
    followed = Followed()
    winner, loser, broken = appmodel("w"), appmodel("l", created=LATE), appmodel("b", "m2")
    followed.put(winner, loser, broken, invalid("b"), invalid("never-valid"))
    followed.take()
    announcements = followed.index.apply(Resync("appmodels"))
    assert announcements == [Announcement("update", item, item) for item in (winner, loser, broken)]
    assert followed.index.apply(Resync("endpointslices")) == []
    assert followed.take() == {}


def test_the_state_of_a_source_changes_no_row() -> None:
    followed = Followed()
    followed.put(appmodel("a"))
    followed.take()
    assert followed.index.apply(SourceState("appmodels", "backing-off", 1, "down")) == []
    assert followed.index.apply(AuditResult("appmodels", 1, 1)) == []
    assert followed.take() == {}


def test_rows_include_changes_that_were_not_taken_yet() -> None:
    followed = Followed()
    followed.put(appmodel("a"), endpointslice("s", "10.0.0.1", service="a"))
    followed.take()
    followed.put(appmodel("a", "m2"), endpointslice("s", "10.0.0.2", service="a"), invalid("b"))
    table = decoded(followed.index.rows())
    assert (Kind.MODEL, "model1") not in table
    assert table[Kind.MODEL, "m2"].appmodel == "a"
    assert table[Kind.ENDPOINTS, "default/a"].endpoints[0].host == "10.0.0.2"
    assert (Kind.INVALID, "AppModel default/b") in table
    assert table == decoded(followed.index.rows()), "reading the table takes nothing"
    followed.take()
    assert decoded(followed.published.items()) == table
