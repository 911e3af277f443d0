"""Rows of declared tables equal what an oracle computes from the objects, in any order of the events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.resources.key import ObjectKey
from shmroute.resources.table import TableKind, watch_tables
from shmroute.resources.table_definition import TableDefinition, TableLimits
from shmroute.resources.table_parser import InvalidTableObject, TableObject
from shmroute.rows import FIRST_TABLE_NUMBER, ConflictRow, InvalidRow, Kind, RowKey, TableRow, bucket_key, encode
from shmroute.sources.base import Changed, Deleted, Event, Replaced
from shmroute.tables import Index, WantedMetadata

(KIND,) = watch_tables(
    {"t": TableDefinition(resource="tenants.v1.iidp.com", index={"i": ".spec.i"})}, several_namespaces=False
)
Object = TableObject | InvalidTableObject


(LIMITED,) = watch_tables(
    {
        "t": TableDefinition(
            resource="tenants.v1.iidp.com", index={"i": ".spec.i"}, limits=TableLimits(objects=3, bytes=14)
        )
    },
    several_namespaces=False,
)


def item(
    name: str,
    key: str = "k",
    created: str = "",
    value: int = 0,
    index: Iterable[str] = (),
    version: str = "",
) -> TableObject:
    entries = tuple(f"i:s{each}" for each in index)
    wanted = (f"redis {key}", version) if version else None
    encoded = encode("x" * value if value % 2 else value)
    return TableObject(ObjectKey("ns", name), created, str(value), key, encoded, entries, metadata=wanted)


KEYS = st.sampled_from("abcd").map(lambda name: ObjectKey("ns", name))
OBJECTS = st.one_of(
    st.builds(
        item,
        st.sampled_from("abcd"),
        st.sampled_from(["k1", "k2", "k3"]),
        st.sampled_from(["", "2026-01", "2026-02"]),
        st.integers(0, 3),
        st.sets(st.sampled_from("xy")).map(sorted),
        st.sampled_from(["", "1", "2"]),
    ),
    st.builds(
        InvalidTableObject, st.sampled_from("abcd").map(lambda name: ObjectKey("ns", name)), st.just(""), st.just("no")
    ),
)
EVENTS = st.one_of(
    st.builds(Changed, st.just("t"), OBJECTS),
    st.builds(Deleted, st.just("t"), KEYS),
    st.builds(Replaced, st.just("t"), st.lists(OBJECTS, max_size=6).map(tuple)),
)


class Oracle:
    """Remembers the objects, and computes everything anew."""

    def __init__(self, kind: TableKind) -> None:
        self.kind = kind
        self.valid: dict[ObjectKey, TableObject] = {}
        self.invalid: set[ObjectKey] = set()
        self.ready = False

    def apply(self, event: Event) -> None:
        match event:
            case Replaced(_, items):
                self.ready = True
                kept = {each.key for each in items}
                self.valid = {key: each for key, each in self.valid.items() if key in kept}
                self.invalid &= kept
                latest = {each.key: each for each in items}
                for each in latest.values():
                    self._put(each)
            case Changed(_, each):
                self._put(each)
            case Deleted(_, key):
                self.valid.pop(key, None)
                self.invalid.discard(key)

    def _put(self, each: Any) -> None:
        if isinstance(each, TableObject):
            self.valid[each.key] = each
            self.invalid.discard(each.key)
        else:
            self.invalid.add(each.key)

    def oldest(self) -> list[TableObject]:
        return sorted(self.valid.values(), key=lambda each: (each.created, each.first_seen, each.key))

    def served(self) -> list[TableObject]:
        """Return the oldest objects that fit into the limits."""
        served: list[TableObject] = []
        size = 0
        limits = self.kind.definition.limits
        for each in self.oldest():
            size += len(each.row_key) + len(each.value)
            if limits is not None and (len(served) == limits.objects or size > (limits.bytes or 0)):
                break
            served.append(each)
        return served

    def wanted(self) -> dict[RowKey, WantedMetadata]:
        """Return what metadata the rows want, by the row that it is published in."""
        found: dict[RowKey, WantedMetadata] = {}
        for key in {each.row_key for each in self.served()}:
            first = next(each for each in self.served() if each.row_key == key)
            if first.metadata is not None:
                found[self.kind.feeds + 2, key] = WantedMetadata("ns", *first.metadata)
        return found

    def table(self) -> dict[RowKey, bytes]:
        rows: dict[RowKey, bytes] = {}
        claims: dict[str, list[TableObject]] = {}
        served = self.served()
        for each in served:
            claims.setdefault(each.row_key, []).append(each)
        index: dict[str, list[str]] = {}
        for key, (first, *losers) in claims.items():
            rows[self.kind.feeds, key] = first.value
            for entry in first.index:
                index.setdefault(entry, []).append(key)
            if losers:
                row = ConflictRow(key, "", str(first.key), tuple(str(each.key) for each in losers), len(losers), "t")
                rows[Kind.CONFLICT, f"t:{key}"] = encode(row)
        for entry, keys in index.items():
            rows[self.kind.feeds + 1, bucket_key(entry, 0)] = encode((1, sorted(keys)))
        for broken in self.invalid:
            named = InvalidRow("t (tenants.iidp.com)", broken.namespace, broken.name, "no", broken in self.valid)
            rows[Kind.INVALID, f"t: {broken}"] = encode(named)
        full = "set aside: the table is full (limits.objects: 3, limits.bytes: 14), and older objects come first"
        for beyond in self.oldest()[len(served) :]:
            who = beyond.key
            named = InvalidRow("t (tenants.iidp.com)", who.namespace, who.name, full, last_good=False)
            rows.setdefault((Kind.INVALID, f"t: {who}"), encode(named))
        invalid = sum(kind == Kind.INVALID for kind, _ in rows)
        conflicts = sum(len(each) > 1 for each in claims.values())
        rows[Kind.TABLES, "t"] = encode(
            TableRow(self.kind.feeds, "tenants.v1.iidp.com", self.ready, len(claims), ("i",), conflicts, invalid)
        )
        return rows


def last_good(table: dict[RowKey, bytes]) -> dict[RowKey, Any]:
    """Return the rows without the flag that depends on the order: whether an invalid object was valid before."""
    return {
        key: msgspec.structs.replace(msgspec.msgpack.decode(row, type=InvalidRow), last_good=False)
        if key[0] == Kind.INVALID
        else row
        for key, row in table.items()
    }


@given(kind=st.sampled_from([KIND, LIMITED]), batches=st.lists(st.lists(EVENTS, max_size=6), max_size=6))
def test_rows_of_a_table_equal_the_oracle_after_any_events(kind: TableKind, batches: list[list[Event]]) -> None:
    index, oracle = Index(kinds=[kind]), Oracle(kind)
    published: dict[RowKey, bytes] = {}
    wanted: dict[RowKey, WantedMetadata] = {}
    for batch in batches:
        for event in batch:
            index.apply(event)
            oracle.apply(event)
        for key, row in index.take_changes().items():
            if row is None:
                published.pop(key, None)
            else:
                published[key] = row
        for key, each in index.take_metadata():
            if each is None:
                wanted.pop(key, None)
            else:
                wanted[key] = each
        assert last_good(published) == last_good(oracle.table())
        assert dict(index.rows()) == published
        assert wanted == dict(index.metadata()) == oracle.wanted()
    index.declare([])
    for key, row in index.take_changes().items():
        assert row is None or key[0] < FIRST_TABLE_NUMBER
        published.pop(key, None)
    left = [key for key in published if key[0] < FIRST_TABLE_NUMBER]
    assert left == [], "a table that is gone leaves nothing in the shared listings"


@pytest.mark.parametrize("count", [1, 16, 17, 500, 5_000])
def test_an_index_entry_holds_any_number_of_keys(count: int) -> None:
    index = Index(kinds=[KIND])
    items = [item(f"o{number}", f"key-{number}", index="x") for number in range(count)]
    index.apply(Replaced("t", tuple(items)))
    assert keys_of(dict(index.rows())) == {each.row_key for each in items}
    for each in items[: count // 2]:
        index.apply(Deleted("t", each.key))
    left = keys_of(dict(index.rows()))
    assert left == {each.row_key for each in items[count // 2 :]}


def keys_of(rows: dict[RowKey, bytes]) -> set[str]:
    count, keys = msgspec.msgpack.decode(rows[KIND.feeds + 1, bucket_key("i:sx", 0)])
    buckets = [rows[KIND.feeds + 1, bucket_key("i:sx", bucket)] for bucket in range(1, count)]
    assert len([key for kind, key in rows if kind == KIND.feeds + 1]) == count
    return {*keys, *(key for bucket in buckets for key in msgspec.msgpack.decode(bucket))}


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_one_change_under_a_large_index_entry_writes_little(count: int) -> None:
    index = Index(kinds=[KIND])
    index.apply(Replaced("t", tuple(item(f"o{n}", f"key-{n:012}", index="x") for n in range(count))))
    index.take_changes()
    sizes = []
    for number in range(count, count + 200):
        index.apply(Changed("t", item(f"o{number}", f"key-{number:012}", index="x")))
        sizes.append(sum(len(row or b"") + len(key) for (_, key), row in index.take_changes().items()))
    for number in range(200):
        index.apply(Deleted("t", ObjectKey("ns", f"o{number}")))
        sizes.append(sum(len(row or b"") + len(key) for (_, key), row in index.take_changes().items()))
    assert max(sizes) <= 4096
