from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.metadata.own_version import own_version


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (b'{"version": "v-2"}', "v-2"),
        (b' \r\n\t{"a": [{"version": "x"}], "version": "v-2", "b": null}', "v-2"),
        (b'{"version": 1.10}', "1.10"),
        (b'{"version": 3}', "3"),
        (b'{"version": "a\\u00e9"}', "a\u00e9"),
        (b'{"version": ""}', ""),
        (b'{"name": "x"}', None),
        (b'{"version": null}', None),
        (b'{"version": true}', None),
        (b'{"version": {"major": 1}}', None),
        (b'[{"version": "v-2"}]', None),
        (b'"version"', None),
        (b"", None),
        (b"not JSON", None),
        (b'{"version": "v-2"', None),
        (b'{"version": "v-2"} and more', None),
        (b'{"version": "\xff\xfe"}', None),
        (b"\xff\xfe\x00", None),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b', "version": "v-2"}', None),
    ],
)
def test_only_a_json_object_has_a_version_of_its_own(value: bytes, version: str | None) -> None:
    assert own_version(value) == version


@given(st.binary(max_size=200))
def test_any_bytes_are_taken(value: bytes) -> None:
    own_version(value)
    own_version(b"{" + value)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), st.text())
def test_the_version_is_found_among_any_other_fields(fields: dict[str, str | int | None], version: str) -> None:
    assert own_version(json.dumps({**fields, "version": version}).encode()) == version
