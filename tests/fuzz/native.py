"""The native look-up over segments of random bytes: `python -m tests.fuzz.native --look-ups 10000000 --seed 1`.

Each turn makes a small segment in memory of its own, in one of four ways, and looks up its keys and others: random
bytes, slots that lead anywhere, a good segment with some bytes changed, and records of any content whose checksum is
right. The answer must be the row's or none: each value begins with its key. `make sanitize` runs this with a module
that checks each access to memory.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

from msgspec.structs import astuple, replace

from shmroute.shm.layout import (
    BATCH_BYTES,
    CONTROL_BYTES,
    GENERATION_AT,
    MAX_KEY_PLACE,
    OLDEST_AT,
    RECORD_BYTES,
    SLOTS_AT,
    Batch,
    SegmentHeader,
    hash_of,
    pack_batch,
    pack_record,
    slot_entry,
)
from tests.twins import NATIVE

KIND: Final = 16
KEYS: Final = [f"key-{number}" for number in range(24)] + ["", "ä\U0001f600", "x" * 300, "y" * 5000]
ABSENT: Final = ["absent", "\udc80", "z" * 70_000]
PASSES: Final = 8
"""Number of times that all keys are looked up in one segment; one byte changes each time."""
GENERATION: Final = 7


class Damaged(Exception):
    """Raised by the fuzzer's decoder for a value that it refuses."""


def decode(value: bytes) -> bytes:
    if value[-1:] == b"\xff":
        raise Damaged
    return value


def table() -> Any:
    """Return a native look-up whose fallback in Python answers None."""
    assert NATIVE is not None

    class Table(NATIVE.TableLookup):  # type: ignore[misc,name-defined]
        def _look_up(self, key: str) -> None: ...

    return Table(KIND, decode, Damaged, 100, also=KIND + 1)


class Turn:
    """One segment under construction."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.slots = dice.choice([1, 3, 64, 100])
        self.records_at = SLOTS_AT + 8 * self.slots
        self.hash_key = dice.getrandbits(63)
        self.data = bytearray(self.records_at)
        self.free = self.slots - self.slots // 8 - 1

    def add(self, key: bytes, record: bytes) -> None:
        """Append a record, and lead its key's slot there."""
        word = len(self.data) // 8
        self.data += record
        if self.free > 0:
            hashed = hash_of(self.hash_key, KIND, key)
            slot = hashed * self.slots >> 32
            while struct.unpack_from("<Q", self.data, SLOTS_AT + 8 * slot)[0]:
                slot = (slot + 1) % self.slots
            struct.pack_into("<Q", self.data, SLOTS_AT + 8 * slot, slot_entry(hashed, word))
            self.free -= 1

    def good(self) -> None:
        """Write a row for most of the keys, some of them with records after the end of the log."""
        for key in self.dice.sample(KEYS, 20):
            value = (
                b"." * self.dice.choice([0, 1, 5]) + key.encode() + b"=" + self.dice.randbytes(self.dice.randrange(40))
            )
            self.add(key.encode(), pack_record(KIND, key.encode(), value, self.dice.choice([0, 0, 0, 20, 1 << 31])))

    def random_bytes(self) -> None:
        self.data[SLOTS_AT:] = self.dice.randbytes(len(self.data) - SLOTS_AT)
        self.data += self.dice.randbytes(8 * self.dice.randrange(200))

    def slots_that_lead_anywhere(self) -> None:
        self.good()
        words = len(self.data) // 8 + 2
        for slot in range(self.slots):
            key = self.dice.choice(KEYS).encode()
            word = self.dice.choice([self.dice.randrange(words), self.dice.getrandbits(32)])
            entry = slot_entry(hash_of(self.hash_key, KIND, key), word)
            struct.pack_into("<Q", self.data, SLOTS_AT + 8 * slot, entry)

    def changed_bytes(self) -> None:
        self.good()
        for _ in range(self.dice.randrange(1, 8)):
            self.data[self.dice.randrange(SLOTS_AT, len(self.data))] = self.dice.randrange(256)

    def right_checksums(self) -> None:
        """Write records of any lengths, key places and predecessors, with valid checksums."""
        for key in KEYS[:26]:
            encoded = key.encode()
            length = self.dice.choice([0, len(encoded), self.dice.randrange(64), self.dice.getrandbits(26)])
            place = self.dice.choice([0, 0, self.dice.randrange(MAX_KEY_PLACE + 1)])
            sized = length | place << 26 | self.dice.choice([0, 0, 0, 1 << 31])
            previous = self.dice.choice([0, self.dice.randrange(200), self.dice.getrandbits(32)])
            stated = self.dice.choice([len(encoded), self.dice.randrange(1 << 16)])
            size = RECORD_BYTES + length + (0 if place else stated) + 7 & ~7
            body = bytearray(self.dice.randbytes(min(size, 400) - RECORD_BYTES))
            body[:length] = (encoded[:300] + b"=" * 100)[: min(length, len(body))]
            begin = place or length
            body[begin : begin + len(encoded)] = encoded
            record = struct.pack("<HHII", stated, KIND, sized, previous) + bytes(body)
            record = struct.pack("<I", crc32(record)) + record
            self.add(encoded, record + bytes(-len(record) % 8))


def log(turn: Turn, dice: random.Random) -> tuple[int, int]:
    """Append batches, some of them damaged. Returns the offset of the first one, and the generation of the last one."""
    begin = len(turn.data)
    generations = dice.randrange(4)
    for generation in range(GENERATION + 1, GENERATION + 1 + generations):
        keys = dice.choices([*KEYS, "ns/key-1", "/"], k=dice.randrange(4))
        records = [pack_record(dice.choice([KIND, KIND + 1, KIND + 2]), key.encode(), b"v", 0) for key in keys]
        length = BATCH_BYTES + sum(map(len, records))
        fields = [generation, 0, length, len(records), dice.choice([0, 0, 0, 0, 1, 2]), 0, 0]
        if dice.random() < 0.3:
            fields[dice.choice([0, 2, 3])] = dice.choice([0, 8, length + 8, 1 << 31, 7])
        turn.data += pack_batch(Batch(*fields), b"".join(records))
        if dice.random() < 0.2:
            turn.data[dice.randrange(begin, len(turn.data))] ^= 1 << dice.randrange(8)
    return begin, GENERATION + dice.choice([generations, generations, 0, 1, 5, 1 << 60])


WAYS: Final[list[Callable[[Turn], None]]] = [
    Turn.random_bytes,
    Turn.slots_that_lead_anywhere,
    Turn.changed_bytes,
    Turn.right_checksums,
]


def run(look_ups: int, seed: int) -> int:
    """Look up that often, and return how often a row was found.

    Raises:
        AssertionError: a look-up has given another row.
    """
    found = done = number = 0
    while done < look_ups:
        dice = random.Random(f"{seed} {number}")
        turn = Turn(dice)
        WAYS[number % len(WAYS)](turn)
        log_at, newest = log(turn, dice)
        capacity = len(turn.data)
        end = dice.choice([capacity, capacity, dice.randrange(turn.records_at, capacity + 1) // 8 * 8])
        end = max(end, turn.records_at)
        oldest = dice.choice([3, 3, 3, 4, 1 << 63])
        control = bytearray(CONTROL_BYTES)
        struct.pack_into("<d", control, GENERATION_AT, float(GENERATION))
        struct.pack_into("<Q", control, OLDEST_AT, oldest)
        header = SegmentHeader(3, 1, turn.hash_key, 0, turn.slots, turn.records_at, turn.records_at, capacity, 20)
        native = table()
        native._enable(control, turn.data, astuple(header), end, float(GENERATION))
        for key in (KEYS + ABSENT) * PASSES:
            if key == KEYS[0]:  # as another process would, at any time
                native._drop_all()
                turn.data[dice.randrange(SLOTS_AT, capacity)] = dice.randrange(256)
            value = native[key]
            done += 1
            if value is not None:
                found += 1
                assert oldest <= 3, f"seed {seed}, turn {number}: an overwritten row of {key!r}"
                assert key.encode() in value or WAYS[number % len(WAYS)] is not Turn.changed_bytes, (
                    f"seed {seed}, turn {number}: {key!r} leads to {value!r}"
                )
        native._enable(control, turn.data, astuple(replace(header, log_at=log_at)), log_at, float(GENERATION))
        struct.pack_into("<d", control, GENERATION_AT, float(newest))
        absent: dict[str, None] = {"absent": None, "key-1": None}
        moved = native._advance(absent)
        if moved is not None:
            assert oldest <= 3
            assert moved[0] == newest > GENERATION
            assert log_at <= moved[1] <= capacity
            assert {kind for kind, _ in moved[2]} <= {KIND + 1, KIND + 2}
        native._disable()
        assert native["absent"] is None
        number += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.native", description=__doc__)
    parser.add_argument("--look-ups", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if NATIVE is None:
        print("the native twin is not built here: python .ci/native.py")
        return 1
    began = time.perf_counter()
    found = run(options.look_ups, options.seed)
    print(f"{options.look_ups:,} look-ups, {found:,} rows found, {time.perf_counter() - began:.0f} s, nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
