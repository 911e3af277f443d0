"""Real input of the parsers, damaged as networks, disks and hostile writers would damage it."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from tests.apiserver.recordings import recording

TOKENS = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b'""',
    b'"\\u0000"',
    b'"\\ud800"',
    b"\xff",
    b"{}",
    b"[]",
    b"[" * 5_000,
    b'{"a":' * 5_000,
    b'"metadata":{"name":"other"},',
    b'"name":',
    b'"resourceVersion":"0",',
    b'"type":"DELETED",',
    b'"spec":null,',
    b'"models":[',
    b"\n",
    b"\r\n",
    b"\0",
)
"""Tokens that are difficult for parsers, inserted anywhere."""


def lines_of(name: str) -> list[bytes]:
    """Return the lines of a recorded watch."""
    return [line.rstrip(b"\n") for line in recording(name).lines]


def check_told(error: Exception) -> None:
    """Assert that the error has a text of limited length."""
    assert 0 < len(str(error)) < 2_000


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Return one of `originals` with some bytes changed, removed, doubled or inserted."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["flip", "cut", "end", "double", "token", "value", "bytes"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[start:end]
            case "end":
                del data[start:]
            case "double":
                data[start:start] = data[start:end]
            case "token":
                data[start:end] = draw(st.sampled_from(TOKENS))
            case "value":
                values = list(re.finditer(rb'(?<=:)(?:"[^"]*"|\d+|true|false|null)', bytes(data)))
                if values:
                    found = draw(st.sampled_from(values))
                    data[found.start() : found.end()] = draw(st.sampled_from(TOKENS))
            case _:
                data[start:end] = draw(st.binary(max_size=20))
    return bytes(data)
