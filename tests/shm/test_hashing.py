"""The keyed hash: CPython's function and the one in Python agree, and nobody can choose names that collide."""

from __future__ import annotations

import importlib
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.shm import hashing, layout
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from tests.generate import colliding_names

VECTOR = 0xDB883DCFE1337E14


def test_hash_gives_the_documented_test_vector() -> None:
    for function in (hashing.hasher, hashing.siphash13):
        assert int.from_bytes(function(hashing.TEST_KEY, hashing.TEST_DATA), "little") == VECTOR


@given(key=st.integers(0, 2**63 - 1), data=st.binary(max_size=70))
def test_both_implementations_agree(key: int, data: bytes) -> None:
    assert hashing.hasher(key, data) == hashing.siphash13(key, data)


def test_this_python_uses_the_fast_hash() -> None:
    assert hashing.hasher is not hashing.siphash13


@pytest.mark.parametrize("other", [lambda key, data: b"other!!!", lambda: b"", None])
def test_a_python_with_another_hash_function_uses_the_slow_one(monkeypatch: pytest.MonkeyPatch, other: object) -> None:
    monkeypatch.setattr("_imp.source_hash", other)
    assert hashing._choose() is hashing.siphash13
    monkeypatch.delattr("_imp.source_hash")
    assert hashing._choose() is hashing.siphash13


def test_both_hash_implementations_find_the_same_slots(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {(kind, f"model-{number}"): b"x" for number in range(50) for kind in (1, 300)}
    with Publisher(area) as publisher:
        publisher.replace(rows)
        reader = RowReader(area)
        monkeypatch.setattr(layout, "hasher", hashing.siphash13)
        monkeypatch.setattr(importlib.import_module("shmroute.shm.reader"), "hasher", hashing.siphash13)
        for kind, key in rows:
            assert reader.get(kind, key) == b"x"
            assert reader.has(kind, key)


def looked_at(publisher: Publisher, names: list[str]) -> tuple[int, int]:
    """Return the maximum and the sum of the slots that the searches for these rows visit."""
    writer = publisher._writer
    assert writer is not None
    header = writer.header
    distances = []
    for name in names:
        hashed, slot, _, _ = writer.reading.probe(1, name.encode(), 1 << 32)
        distances.append((slot - (hashed * header.slots >> 32)) % header.slots + 1)
    return max(distances), sum(distances)


@pytest.mark.fault(37)
def test_12000_crafted_names_cost_what_12000_random_ones_cost(area: str) -> None:
    """One object may hold 12,000 names. With CRC-32 they would share one slot, and every search would visit all."""
    crafted = colliding_names(24_000)
    assert len({crc32(name.encode()) for name in crafted}) == 1
    present, absent = crafted[:12_000], crafted[12_000:]
    seen = {}
    for kind, names in (("crafted", present), ("random", [f"model-{number:010}" for number in range(12_000)])):
        with Publisher(area) as publisher:
            publisher.publish({(1, "other"): b"row"})
            for start in range(0, len(names), 3000):  # by the log, which is what an object that grows takes
                publisher.publish({(1, name): b"row" for name in names[start : start + 3000]})
            assert publisher._writer is not None
            seen[kind] = (looked_at(publisher, names), looked_at(publisher, absent), publisher._writer.end)
            publisher.close(remove=True)
    for found in seen.values():
        (most, total), (most_absent, total_absent), _ = found
        assert most < 200
        assert most_absent < 200
        assert total < 12_000 * 5
        assert total_absent < 12_000 * 12
    assert seen["crafted"][2] == seen["random"][2], "and as many bytes"
