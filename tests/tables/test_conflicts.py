"""The conflict rule."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest

from shmroute.rows import App, ConflictRow, Kind
from tests.tables.builders import EARLY, LATE, Followed, appmodel


def test_the_older_of_two_claims_wins_in_any_order() -> None:
    older, newer = appmodel("z", created=EARLY), appmodel("a", created=LATE)
    for order in permutations((older, newer)):
        followed = Followed()
        followed.put(*order)
        assert followed.served_by("model1") == "default/z"


def test_among_claims_of_equal_age_the_smaller_name_wins() -> None:
    followed = Followed()
    followed.put(appmodel("b"), appmodel("a"))
    assert followed.served_by("model1") == "default/a"


def test_an_object_without_a_timestamp_counts_as_the_oldest() -> None:
    followed = Followed()
    followed.put(appmodel("a", created=EARLY), appmodel("z", created=""))
    assert followed.served_by("model1") == "default/z"


@pytest.mark.fault(18)
def test_winner_and_losers_do_not_depend_on_the_order_of_events() -> None:
    claims = [
        appmodel("d", created=EARLY),
        appmodel("c", created=LATE),
        appmodel("b", created=LATE),
        appmodel("other/a", created=LATE),
    ]
    expected = ConflictRow(model="model1", namespace="default", winner="d", losers=("b", "c"), loser_count=2)
    tables = set()
    for order in permutations(claims):
        followed = Followed()
        followed.put(*order)
        assert followed.row(Kind.CONFLICT, "default/model1") == expected
        tables.add(tuple(sorted(followed.published.items())))
    assert len(tables) == 1


def test_the_loser_takes_over_when_the_winner_is_deleted() -> None:
    followed = Followed()
    winner = appmodel("winner", "model1=v-1", created=EARLY)
    followed.put(winner, appmodel("loser", "model1=v-2", created=LATE))
    followed.take()
    followed.delete(winner)
    changes = followed.take()
    assert changes[Kind.MODEL, "model1"].appmodel == "loser"
    assert changes[Kind.MODEL, "model1"].version == "v-2"
    assert changes[Kind.CONFLICT, "default/model1"] is None


def test_the_loser_takes_over_when_the_winner_drops_the_model() -> None:
    followed = Followed()
    followed.put(appmodel("winner", "model1 model2", created=EARLY), appmodel("loser", created=LATE))
    assert followed.served_by("model1") == "default/winner"
    followed.put(appmodel("winner", "model2", created=EARLY))
    assert followed.served_by("model1") == "default/loser"
    assert followed.served_by("model2") == "default/winner"
    assert followed.index.conflict_count == 0


def test_a_change_of_a_loser_changes_no_route() -> None:
    followed = Followed()
    followed.put(appmodel("winner", created=EARLY), appmodel("loser", "model1=v-1", created=LATE))
    followed.take()
    followed.put(appmodel("loser", "model1=v-2", created=LATE))
    assert set(followed.take()) == {(Kind.APP, "loser")}


def test_an_object_replaced_under_its_name_loses_its_age() -> None:
    followed = Followed()
    followed.put(appmodel("b", created=EARLY), appmodel("a", created="2026-03-01T00:00:00Z"))
    assert followed.served_by("model1") == "default/b"
    announcements = followed.put(appmodel("b", created=LATE))
    assert [announcement.kind for announcement in announcements] == ["update"]
    assert followed.served_by("model1") == "default/a"
    assert followed.row(Kind.CONFLICT, "default/model1").losers == ("b",)


def test_claims_of_several_namespaces_are_sorted_by_age() -> None:
    followed = Followed()
    followed.put(
        appmodel("west/a", "model1=w", created=LATE),
        appmodel("east/b", "model1=e", created=EARLY),
        appmodel("north/c", "model1=n", created=LATE),
        appmodel("north/d", "model1=nn", created=LATE),
    )
    route = followed.row(Kind.MODEL, "model1")
    assert (route.namespace, route.appmodel, route.version) == ("east", "b", "e")
    assert [(other.namespace, other.appmodel, other.version) for other in route.others] == [
        ("north", "c", "n"),
        ("west", "a", "w"),
    ]
    assert all(other.others == () for other in route.others)
    assert [key for kind, key in followed.published if kind == Kind.CONFLICT] == ["north/model1"]
    assert followed.index.conflict_count == 1


def test_a_model_name_with_slashes_is_a_name_like_any_other() -> None:
    followed = Followed()
    followed.put(appmodel("a", "team/model"), appmodel("b", "team/model"))
    assert followed.row(Kind.CONFLICT, "default/team/model").model == "team/model"
    assert followed.served_by("team/model") == "default/a"


def test_an_app_lists_its_appmodels_oldest_first() -> None:
    followed = Followed()
    followed.put(
        appmodel("new", "m2=2 m1=1", app="shared", created=LATE, service="web/front"),
        appmodel("old", "m3=3", app="shared", version="v-9"),
    )
    assert followed.row(Kind.APP, "shared") == (
        App("shared", "v-9", "default", "old", "default/old", (("m3", "3"),), EARLY),
        App("shared", "v-1", "default", "new", "web/front", (("m2", "2"), ("m1", "1")), LATE),
    )
    assert followed.index.app_count == 1


def test_an_appmodel_that_changes_its_app_moves_from_one_row_to_the_other() -> None:
    followed = Followed()
    followed.put(appmodel("a", app="before"))
    followed.take()
    followed.put(appmodel("a", app="after"))
    changes = followed.take()
    assert changes[Kind.APP, "before"] is None
    assert changes[Kind.APP, "after"][0].appmodel == "a"
    assert changes[Kind.MODEL, "model1"].app == "after"


def test_without_a_timestamp_the_first_seen_wins_and_keeps_its_age() -> None:
    followed = Followed()
    first = msgspec.structs.replace(appmodel("z", created=""), first_seen=EARLY)
    later = msgspec.structs.replace(appmodel("a", created=""), first_seen=LATE)
    followed.put(later, first)
    assert followed.served_by("model1") == "default/z"
    followed.put(msgspec.structs.replace(first, version="v-2", first_seen="2026-12-01T00:00:00Z"))
    assert followed.served_by("model1") == "default/z"
    followed.delete(first)
    followed.put(msgspec.structs.replace(first, first_seen="2026-12-01T00:00:00Z"))
    assert followed.served_by("model1") == "default/a"
