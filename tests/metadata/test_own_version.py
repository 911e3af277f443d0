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
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b', "version": "v-2"}', "v-2"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 99_999 + b', "version": "v-2"}', None),
        (b'{"version": "v-1", "mean": NaN}', "v-1"),
        (b'{"limits": [-Infinity, {"version": "x"}], "version": 1.10, "mean": NaN}', "1.10"),
        (b'{"mean": NaN, "version": {"version": "x"}}', None),
        (b'{"mean": NaN, "names": ["version", "x"]}', None),
        (b'{"version": NaN}', None),
        (b'{"mean": NaN, "version": "v-2"', None),
        (b'{"mean": NaN, "version": "v-2"]', None),
        (b'{"mean": NaN, "version": "v-2"} {}', None),
        (b'{"mean": nan, "version": "v-2"}', None),
    ],
)
def test_only_a_json_object_has_an_own_version(value: bytes, version: str | None) -> None:
    assert own_version(value) == version


@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_as_a_value(value: bytes) -> None:
    own_version(value)
    own_version(b"{" + value)
    own_version(b'{"mean": NaN, ' + value + b"}")


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), st.text())
def test_the_version_is_found_among_any_other_fields(fields: dict[str, str | int | None], version: str) -> None:
    assert own_version(json.dumps({**fields, "version": version}).encode()) == version


@given(
    st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_nan_in_a_value_does_not_hide_its_version(anything: object) -> None:
    value = json.dumps({"a": anything, "version": "v-1", "b": float("nan"), "c": anything}).encode()
    assert own_version(value) == "v-1"
