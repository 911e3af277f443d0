"""Publication of a table that is redefined or removed."""

from __future__ import annotations

import contextlib
import time

from shmroute.resources.table import TableKind, watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.rows import Kind, TableRow, encode
from shmroute.shm.writing.publisher import Publisher
from shmroute.watcher.pending_rows import PendingRows
from tests.watcher.running import SETTINGS


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
