"""SipHash-1-3: the keyed hash that leads to a row's slot. Pure.

With a random key, a tenant who chooses keys of rows cannot make them collide; with a CRC he could. CPython contains
this function for its `.pyc` files (`_imp.source_hash`, 3.11 to 3.15). If it is missing or differs, `siphash13` below
computes the same in Python, about a hundred times slower. https://www.aumasson.jp/siphash/siphash.pdf
"""

from __future__ import annotations

import _imp
from collections.abc import Callable
from typing import Final

Hasher = Callable[[int, bytes], bytes]
"""Takes a key below 2**63 and data; returns the 8 bytes of the hash, little-endian."""

_MASK: Final = (1 << 64) - 1

TEST_KEY: Final = 0x123456789ABCDEF0
TEST_DATA: Final = b"shmroute"
TEST_HASH: Final = (0xDB883DCFE1337E14).to_bytes(8, "little")
"""The test vector of docs/format.md."""


def siphash13(key: int, data: bytes) -> bytes:
    """Return SipHash-1-3 of `data`. The hash's key is `key` followed by 64 zero bits."""
    v0 = key ^ 0x736F6D6570736575
    v1 = 0x646F72616E646F6D
    v2 = key ^ 0x6C7967656E657261
    v3 = 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return (v0 ^ v1 ^ v2 ^ v3).to_bytes(8, "little")


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotate(v1, 17) ^ v2
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _choose() -> Hasher:
    """Return CPython's function if it passes the test vector, else ours."""
    built_in: Hasher | None = getattr(_imp, "source_hash", None)
    try:
        passes = built_in is not None and built_in(TEST_KEY, TEST_DATA) == TEST_HASH
    except Exception:  # noqa: BLE001 - a private function may have changed in any way
        passes = False
    return built_in if passes and built_in is not None else siphash13


hasher: Final[Hasher] = _choose()
"""The fastest implementation that is correct in this Python."""
