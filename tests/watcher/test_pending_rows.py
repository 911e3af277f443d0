"""Publication of a table that is redefined or removed."""

from __future__ import annotations

import contextlib
import time
from typing import Final

import pytest

from shmroute.resources.table import TableKind, watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.rows import Kind, TableRow, encode
from shmroute.shm.segment import Segment
from shmroute.shm.writing.publisher import Publisher
from shmroute.watcher.pending_rows import PendingRows
from tests.watcher.running import SETTINGS

CONFIGMAPS: Final = TableDefinition(resource="configmaps.v1")


def declared(key: str) -> TableKind:
    (kind,) = watch_tables({"t": TableDefinition(resource="configmaps.v1", key=key)}, several_namespaces=False)
    return kind


def table(kind: TableKind, *, ready: bool) -> bytes:
    return encode(TableRow(kind.feeds, "configmaps.v1", ready, 1))


def test_redefined_table_is_exchanged_whole_and_removed_one_leaves_no_row(area: str) -> None:
    first, second = declared(".data.a"), declared(".data.b")
    pending = PendingRows(area, SETTINGS, [first], lambda *_: {}, time.monotonic_ns)
    with contextlib.closing(Publisher(area)) as publisher:
        pending.add(
            {(first.feeds, "k"): b"1", (first.feeds + 2, "k"): b"m", (Kind.TABLES, "t"): table(first, ready=True)}
        )
        pending.synced("t")
        pending.publish(publisher)

        pending.declare(second, first)
        pending.add({(Kind.TABLES, "t"): table(second, ready=False), (second.feeds, "k"): b"2"})
        pending.add({(Kind.MODEL, "m"): b"of another kind"})
        pending.publish(publisher)
        assert publisher.get(Kind.MODEL, "m") == b"of another kind"
        assert publisher.get(Kind.TABLES, "t") == table(first, ready=True), "as before until the new list is complete"
        assert (publisher.get(first.feeds, "k"), publisher.get(second.feeds, "k")) == (b"1", None)

        generation = publisher.generation
        pending.add({(Kind.TABLES, "t"): table(second, ready=True)})
        pending.synced("t")
        pending.publish(publisher)
        assert publisher.generation == generation + 1
        assert publisher.get(Kind.TABLES, "t") == table(second, ready=True)
        assert publisher.get(second.feeds, "k") == b"2"
        assert not [row for number in first.row_kinds for row in publisher.rows(number)]

        pending.add({(second.feeds, "later"): b"3", (Kind.TABLES, "t"): None})
        pending.remove(second)
        pending.publish(publisher)
        assert publisher.get(Kind.TABLES, "t") is None
        assert not [row for number in second.row_kinds for row in publisher.rows(number)]
        assert publisher.get(Kind.MODEL, "m") == b"of another kind"


def test_first_lists_of_tables_do_not_read_the_rows_of_others(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = watch_tables(dict.fromkeys(("a", "b"), CONFIGMAPS), several_namespaces=False)
    pending = PendingRows(area, SETTINGS, [first, second], lambda *_: {}, time.monotonic_ns)
    with contextlib.closing(Publisher(area)) as publisher:
        pending.publish(publisher)
        assert publisher.generation == 1

        monkeypatch.setattr(Segment, "rows", lambda *_, **__: pytest.fail("reads all rows"))
        for kind in (first, second):
            pending.add({(kind.feeds, "k"): b"1"})
            pending.synced(kind.name)
            pending.publish(publisher)
            assert publisher.get(kind.feeds, "k") == b"1"


def test_first_list_replaces_the_rows_of_a_former_watcher_and_of_no_other_table(area: str) -> None:
    kinds = first, second = watch_tables(dict.fromkeys(("a", "b"), CONFIGMAPS), several_namespaces=False)
    with contextlib.closing(Publisher(area)) as former:
        rows = {(kind.feeds, key): b"former" for kind in kinds for key in ("gone", "kept")}
        former.replace(rows | {(Kind.TABLES, kind.name): table(kind, ready=True) for kind in kinds})
    pending = PendingRows(area, SETTINGS, kinds, lambda *_: {}, time.monotonic_ns)
    with contextlib.closing(Publisher(area)) as publisher:
        pending.add({(first.feeds, "kept"): b"new"})
        pending.publish(publisher)
        assert dict(publisher.rows(first.feeds)) == {"gone": b"former", "kept": b"former"}
        pending.synced("a")
        pending.publish(publisher)
        assert dict(publisher.rows(first.feeds)) == {"kept": b"new"}
        assert dict(publisher.rows(second.feeds)) == {"gone": b"former", "kept": b"former"}
        pending.synced("b")
        pending.publish(publisher)
        assert not dict(publisher.rows(second.feeds))
