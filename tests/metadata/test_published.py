from __future__ import annotations

import msgspec
import pytest

from shmroute.metadata.published import merge_with_published
from shmroute.rows import MetadataRow, MetadataState, encode

LOADED_1 = MetadataRow("app", "v-1", "v-1", MetadataState.LOADED, 10.0, b"one")
PENDING_2 = MetadataRow("app", None, "v-2", MetadataState.PENDING, 20.0, None, "not read yet")


def carried(row: MetadataRow, published: MetadataRow | None) -> MetadataRow:
    return msgspec.msgpack.decode(merge_with_published(row, encode(published) if published else None), type=MetadataRow)


def test_the_last_value_stays_under_the_version_it_was_read_for() -> None:
    row = carried(PENDING_2, LOADED_1)
    assert (row.value, row.version, row.wanted, row.state) == (b"one", "v-1", "v-2", MetadataState.PENDING)


def test_published_value_stays_while_the_new_one_cannot_be_read() -> None:
    row = LOADED_1
    for state in MetadataState:
        if state != MetadataState.LOADED:
            row = carried(msgspec.structs.replace(PENDING_2, state=state, reason=state.name), row)
            assert (row.value, row.version, row.wanted, row.state) == (b"one", "v-1", "v-2", state)


def test_a_new_value_replaces_the_old_one() -> None:
    new = MetadataRow("app", "v-2", "v-2", MetadataState.LOADED, 30.0, b"two")
    assert carried(new, LOADED_1) == new


@pytest.mark.fault(22)
def test_the_value_of_another_app_is_not_kept() -> None:
    moved = msgspec.structs.replace(PENDING_2, app="other")
    assert carried(moved, LOADED_1) == moved


def test_a_new_model_has_no_value() -> None:
    assert carried(PENDING_2, None) == PENDING_2


def test_loaded_value_stays_after_a_restart_until_it_is_read_again() -> None:
    again = msgspec.structs.replace(PENDING_2, wanted="v-1")
    assert carried(again, LOADED_1) == LOADED_1
    assert carried(msgspec.structs.replace(again, reason="connection refused"), LOADED_1) == LOADED_1
    read_again = msgspec.structs.replace(LOADED_1, since=30.0)
    assert carried(read_again, LOADED_1) == LOADED_1, "the same row, so that nothing is published"
    assert carried(msgspec.structs.replace(read_again, value=b"1"), LOADED_1).value == b"1"


def test_deleted_key_is_reported_after_a_restart_and_its_value_kept() -> None:
    missing = MetadataRow("app", None, "v-1", MetadataState.MISSING, 30.0, None, "no such key")
    assert carried(missing, LOADED_1) == msgspec.structs.replace(missing, value=b"one", version="v-1")


def test_an_undecodable_row_of_a_former_watcher_counts_as_absent() -> None:
    assert merge_with_published(PENDING_2, b"\xc1") == encode(PENDING_2)
    assert merge_with_published(PENDING_2, encode(("only", "two"))) == encode(PENDING_2)
