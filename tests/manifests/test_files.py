"""Manifests as text: accepted files and forms, and the report of unusable ones."""

from __future__ import annotations

import contextlib
import io
import json
import os
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shmroute.errors import InvalidObject
from shmroute.manifests import files as manifests
from shmroute.manifests.decoding import DEPTH_MAX, YAML_MAX_BYTES, decode_text
from shmroute.manifests.files import Document, decode, encode, read

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=20,
)


def kinds(documents: list[Document]) -> list[str]:
    return [document.kind for document in documents]


@given(st.lists(VALUES.filter(lambda value: value is not None), max_size=3))
def test_yaml_gives_the_same_values_as_other_parsers(values: list[object]) -> None:
    text = yaml.safe_dump_all(values, allow_unicode=True, explicit_start=True)
    assert decode_text(text.encode()) == list(yaml.safe_load_all(text))


@given(st.lists(VALUES, max_size=3))
def test_a_stream_of_json_is_read_as_it_was_written(values: list[object]) -> None:
    text = "\n".join(json.dumps(value) for value in values)
    assert decode_text(text.encode(), json_only=True) == values


@given(st.binary(max_size=200) | NAMES.map(str.encode))
def test_any_bytes_are_read_or_raise_a_value_error(content: bytes) -> None:
    for json_only in (False, True):
        with contextlib.suppress(ValueError):
            decode_text(content, json_only=json_only)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.10", Decimal("1.10")),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23T19:04:26Z", "2026-11-23T19:04:26Z"),
        ("1:30", "1:30"),
        ("0x1F", 31),
        ("010", 8),
        ("123456789012345678901234567890", Decimal(123456789012345678901234567890)),
        (".inf", ".inf"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("no", False),
        ("~", None),
        ("{a: 1, 2: b}", {"a": 1, "2": "b"}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 3, "b": 2}}),
    ],
)
def test_values_stay_as_they_were_written(text: str, value: object) -> None:
    assert decode_text(text.encode()) == [value]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' appears twice in one map"),
        ('{"a": 1, "a": 2}', "key 'a' appears twice in one map"),
        ("a: !!binary aGk=", "line 1, column 4: tag tag:yaml.org,2002:binary has no equivalent in JSON"),
        ("a: !ref x", "tag !ref has no equivalent in JSON"),
        ("a: !!int x", "'x' is not of the type int"),
        ("a: [1", "line 2, column 1: did not find expected ',' or ']'"),
        ("a: *nowhere", "line 1, column 4: found undefined alias"),
        ("a: &a [*a]", "line 1, column 4: this value contains itself"),
        ("a: !!bool x", "'x' is not of the type bool"),
        ("? [a]\n: 1", "a key has to be a string"),
        ("<<: 3", "<< takes a map"),
        ("\x00", "control characters are not allowed"),
    ],
)
def test_unreadable_yaml_is_reported_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_text(text.encode())


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_ends_neither_the_process_nor_the_stack(opening: str) -> None:
    for text in (opening * 200_000, json.dumps("x").join(("[" * 200_000, "]" * 200_000))):
        with pytest.raises(ValueError, match=f"nested more than {DEPTH_MAX} levels deep"):
            decode_text(text.encode())


def test_nesting_is_accepted_up_to_its_bound() -> None:
    assert decode_text(b"[" * DEPTH_MAX + b"a" + b"]" * DEPTH_MAX) is not None
    with pytest.raises(ValueError, match="line 1, column 101: nested more than 100 levels deep"):
        decode_text(b"[" * (DEPTH_MAX + 1) + b"a" + b"]" * (DEPTH_MAX + 1))


def test_merged_aliases_that_repeat_each_other_are_refused() -> None:
    lines = [f"a{level}: &a{level} {{<<: [" + ", ".join([f"*a{level - 1}"] * 10) + "]}" for level in range(1, 12)]
    with pytest.raises(ValueError, match="do aliases repeat each other"):
        decode_text("\n".join(["a0: &a0 {x: y}", *lines]).encode())


def test_yaml_over_its_limit_is_refused_and_json_is_not() -> None:
    long = b'{"a": "' + b"x" * YAML_MAX_BYTES + b'"}'
    assert len(decode_text(long)) == 1
    with pytest.raises(ValueError, match=r"4194\d+ bytes, more than the 4 MiB of YAML that are read"):
        decode_text(b"a: " + long)


def test_an_alias_cannot_refer_to_another_document() -> None:
    with pytest.raises(ValueError, match="line 3, column 4: found undefined alias"):
        decode_text(b"a: &a 1\n---\nb: *a")


def test_aliases_that_multiply_are_refused_before_they_fill_memory() -> None:
    lines = [f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]" for level in range(1, 12)]
    with pytest.raises(ValueError, match="do aliases repeat each other"):
        decode_text("\n".join(["a0: &a0 [x]", *lines]).encode())


def test_the_objects_of_a_file_come_one_by_one_with_their_places() -> None:
    text = b"---\nkind: A\n---\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n---\n"
    documents = decode(text, "f.yaml")
    assert [(each.where, each.kind) for each in documents] == [
        ("f.yaml, document 1", "A"),
        ("f.yaml, document 2, item 1", "B"),
        ("f.yaml, document 2, item 2", "C"),
    ]
    assert [each.where for each in decode(b"kind: A", "f.yaml")] == ["f.yaml"]
    assert decode(b"", "f.yaml") == decode(b"# nothing\n---\n", "f.yaml") == []


def test_a_typed_list_gives_its_items_their_kind() -> None:
    text = (
        b'{"kind": "AppModelList", "apiVersion": "iidp.com/v1", "metadata": {}, "items": [{"metadata": {"name": "a"}}]}'
    )
    (item,) = decode(text, "f.json")
    assert (item.kind, item.api_version) == ("AppModel", "iidp.com/v1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"- a\n- b", "f.yaml: not an object"),
        (b"name: x", "f.yaml: kind is missing"),
        (b"kind: A\n---\nname: x", "f.yaml, document 2: kind is missing"),
        (b"kind: List\nitems: [{kind: A}, 3]", "f.yaml, item 2: not an object"),
        (b"kind: List\nitems: [{name: x}]", "f.yaml, item 1: kind is missing"),
        (b"\xff\xfe\x00", "f.yaml: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_documents_without_a_kind_are_reported_with_their_line(text: bytes, reason: str) -> None:
    with pytest.raises(InvalidObject, match=reason):
        decode(text, "f.yaml")


def test_numbers_are_written_as_they_were_read() -> None:
    (document,) = decode(b"{kind: A, v: 1.10, n: 99999999999999999999}", "f.yaml")
    assert encode(document) == b'{"kind":"A","v":1.10,"n":99999999999999999999}'


def test_values_json_cannot_hold_are_refused_with_their_line() -> None:
    with pytest.raises(InvalidObject, match="manifest 1: cannot be written as JSON"):
        encode(Document("manifest 1", {"kind": "A", "v": object()}))


def test_files_folders_and_standard_input_are_read_in_the_given_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.yaml", "a.json", "c.yml", ".hidden.yaml", "notes.txt", "sub/d.yaml"):
        (folder / name).write_text(json.dumps({"kind": name}))
    (tmp_path / "single").write_text("kind: single")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"kind: typed")))
    assert kinds(read([tmp_path / "single", str(folder), "-"])) == ["single", "a.json", "b.yaml", "c.yml", "typed"]


def test_a_file_through_a_pipe_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"kind: A")
    os.close(writing)
    try:
        assert kinds(read([f"/dev/fd/{reading}"])) == ["A"]
    finally:
        os.close(reading)


def test_a_missing_path_or_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidObject, match="cannot be read: No such file or directory"):
        read([tmp_path / "nowhere.yaml"])
    with pytest.raises(InvalidObject, match="the folder holds no manifest"):
        read([tmp_path])


def test_a_file_over_the_limit_is_refused_without_reading_it(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(manifests.FILE_MAX_BYTES + 1)
    with pytest.raises(InvalidObject, match="16777217 bytes, more than the 16 MiB that are read"):
        read([large])
