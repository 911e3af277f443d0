"""Packs the rows of a base: their records, their hashes, and the slots that lead to them. Bytes only.

Called by `shmroute.shm.writing.publisher` and the modules that it uses. The functions called for each row exist twice:
in C (`shmroute._native`) and, three times slower, in plain Python here. Both make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from shmroute.native import native
from shmroute.shm.hashing import hasher
from shmroute.shm.layout import (
    FORMAT_VERSION,
    KIND_BYTES,
    MAX_KEY_BYTES,
    MAX_KIND,
    MAX_VALUE_BYTES,
    WORD_MASK,
    pack_record,
    slot_entry,
)

Value = TypeVar("Value", bytes, bytes | None)

Row = tuple[tuple[int, str], bytes]
"""`((kind, key), value)`."""

Rows = Mapping[tuple[int, str], bytes]
"""All rows: `(kind, key) -> value`."""


def encode_rows(rows: list[tuple[tuple[int, str], Value]]) -> list[tuple[int, bytes, Value]]:
    """Return `(kind, key, value)` of each row, with the key as the bytes in a segment.

    Raises:
        ValueError: a kind, key or value does not fit.
    """
    encoded = [(kind, name.encode(), value) for (kind, name), value in rows]
    for kind, key, value in encoded:
        if kind >> 16 or len(key) > MAX_KEY_BYTES or (value is not None and len(value) > MAX_VALUE_BYTES):
            raise _does_not_fit(kind, key, value)
    return encoded


def _does_not_fit(kind: int, key: bytes, value: bytes | None) -> ValueError:
    name = key.decode()
    if not 0 <= kind <= MAX_KIND:
        return ValueError(f"the kind {kind} of {name[:40]!r} is not within 0 to {MAX_KIND}")
    if len(key) > MAX_KEY_BYTES:
        return ValueError(f"the key {name[:40]!r}... has {len(key)} bytes, the limit is {MAX_KEY_BYTES}")
    return ValueError(f"the value of {name[:40]!r} has {len(value or b'')} bytes, the limit is {MAX_VALUE_BYTES}")


def plain_measure_rows(rows: list[Row]) -> tuple[int, int]:
    """Return the sum of the keys' bytes and that of the values' bytes.

    Raises:
        ValueError: a kind, key or value does not fit.
    """
    encoded = encode_rows(rows)
    return sum(len(key) for _, key, _ in encoded), sum(len(value) for _, _, value in encoded)


def plain_pack_rows(rows: list[Row], hash_key: int) -> tuple[bytes, list[int]]:
    """Pack the records of rows that `measure_rows` has checked. The records supersede none.

    Returns:
        The packed records, one after another, and for each a number for `point_slots`: the row's hash in the high 32
        bits, the record's length in words in the low 32.
    """
    encoded = [(kind, name.encode(), value) for (kind, name), value in rows]
    records = [pack_record(kind, key, value, 0) for kind, key, value in encoded]
    number, kinds = int.from_bytes, KIND_BYTES
    return b"".join(records), [
        number(hasher(hash_key, kinds[kind] + key)[:4], "little") << 32 | len(record) >> 3
        for (kind, key, _), record in zip(encoded, records, strict=True)
    ]


def plain_point_slots(slots: memoryview[int], placed: list[int], word: int) -> None:
    """Point a free slot at each of these records.

    Args:
        slots: all slots of the segment. More of them must be free than there are records.
        placed: the numbers that `pack_rows` returns.
        word: offset of the first record in words.
    """
    slot_count = len(slots)
    for each in placed:
        hashed = each >> 32
        slot = hashed * slot_count >> 32
        while slots[slot]:
            slot += 1
            if slot == slot_count:
                slot = 0
        slots[slot] = slot_entry(hashed, word)
        word += each & WORD_MASK


NATIVE: Final = native is not None and native.FORMAT_VERSION == FORMAT_VERSION
"""Whether the C twin packs the rows."""

if TYPE_CHECKING or not NATIVE:
    measure_rows, pack_rows, point_slots = plain_measure_rows, plain_pack_rows, plain_point_slots
else:
    pack_rows, point_slots = native.pack_rows, native.point_slots

    def measure_rows(rows: list[Row]) -> tuple[int, int]:
        """Do the same as `plain_measure_rows` in C. If a row does not fit, that function raises the error."""
        return native.measure_rows(rows) or plain_measure_rows(rows)
