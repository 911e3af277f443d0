"""The checkpoint's reader over damaged and hostile files: rows that can be published, or a reason."""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from shmroute.rows import Kind, SettingsRow, encode
from shmroute.shm.layout import FORMAT_VERSION, MAX_KIND
from shmroute.watcher.checkpoint import VERSION, Identity, Saved, parse
from tests.fuzz.mutations import check_told, mutated


def sealed(contact: float, body: bytes) -> bytes:
    """Return a file of any content with a valid checksum."""
    rest = struct.pack("<dQ", contact, len(body)) + body
    return struct.pack("<8sHHI", b"shmrckpt", VERSION, FORMAT_VERSION, crc32(rest)) + rest


ROWS = [(int(Kind.MODEL), f"m{number}", encode(("m", str(number)))) for number in range(20)]
IDENTITY = Identity("area", SettingsRow("namespace", "selector", "https://10.0.0.1"))
BODY = msgspec.msgpack.encode((IDENTITY, ROWS))
WHOLE = sealed(1e9, BODY)


def check(saved: Saved) -> None:
    """Assert the properties of rows that publishing relies on."""
    for (kind, key), value in saved.rows.items():
        assert 0 < kind <= MAX_KIND
        assert "\0" not in key
        key.encode()
        assert isinstance(value, bytes)
    int(saved.contact * 1e9)


@given(mutated([WHOLE]) | st.binary(max_size=300))
def test_a_damaged_file_is_never_taken_for_another_one(data: bytes) -> None:
    try:
        saved = parse(data)
    except ValueError as error:
        check_told(error)
    else:
        assert saved.rows == {(kind, key): value for kind, key, value in ROWS}
        assert saved.identity == IDENTITY


@example(1.8e299, BODY)
@example(-1.8e299, BODY)
@given(st.floats(), mutated([BODY]) | st.binary(max_size=300))
def test_a_hostile_file_with_a_right_checksum_holds_rows_or_a_reason(contact: float, body: bytes) -> None:
    check_file(sealed(contact, body))


def check_file(data: bytes) -> None:
    try:
        saved = parse(data)
    except ValueError as error:
        check_told(error)
    else:
        check(saved)
