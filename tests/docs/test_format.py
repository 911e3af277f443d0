"""docs/format.md says the offsets, sizes, fields and numbers that the code has."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest

from shmroute import rows
from shmroute.shm import hashing, layout
from shmroute.watcher import checkpoint
from shmroute.worker import routes
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "format.md").read_text()
CODES = {"8 bytes": "8s", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "float64": "d"}
STRUCTS = {
    "Control block": layout.CONTROL_HEADER.format,
    "Status page": layout.STATUS_HEADER.format,
    "Segment": layout.SEGMENT_HEADER.format,
    "Record": layout.RECORD.format,
    "Batch": layout.BATCH.format,
    "Workers' register": layout.REGISTER_HEADER.format,
    "Event log": layout.EVENT_HEADER.format,
    "Checkpoint": checkpoint._HEADER.format + checkpoint._FACTS.format.removeprefix("<"),
}


def tables(section: str) -> list[list[list[str]]]:
    """Return the tables under a heading, each a list of rows of cells; the head and the line below it left out."""
    begin = re.search(rf"^#+ {section}$", PAGE, re.MULTILINE)
    assert begin, section
    text = re.split(r"^#", PAGE[begin.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]] for table in found]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def fields(text: str) -> list[str]:
    """Return the names after the struct's name, without text in brackets."""
    return re.sub(r"\(.*?\)", "", text.partition(":")[2]).replace(" ", "").rstrip(".").split(",")


def public(struct_type: Any) -> list[str]:
    return [name for name in struct_type.__struct_fields__ if not name.startswith("_")]


@pytest.mark.parametrize("section", STRUCTS)
def test_a_struct_has_the_fields_at_the_offsets_of_its_table(section: str) -> None:
    table = tables(section)[0]
    codes = [CODES[row[1]] for row in table]
    assert "<" + "".join(codes) == STRUCTS[section]
    assert [number(row[0]) for row in table] == [struct.calcsize("<" + "".join(codes[:at])) for at in range(len(codes))]


def test_a_place_of_the_register_has_the_fields_of_its_table() -> None:
    table = tables("Workers' register")[1]
    codes = [CODES[row[1]] for row in table]
    assert "<" + "".join(codes) == layout.WORKER.format
    assert [number(row[0]) for row in table] == [struct.calcsize("<" + "".join(codes[:at])) for at in range(len(codes))]


@pytest.mark.parametrize("section", ["Control block", "Segment"])
def test_a_word_read_by_itself_is_at_its_documented_offset(section: str) -> None:
    for offset, _, constant, _ in tables(section)[1]:
        assert number(offset) == getattr(layout, constant.strip("`")), constant


def test_no_offset_of_the_code_is_left_out() -> None:
    words = {name for name in vars(layout) if name.endswith("_AT")} - {"STATUS_AT"}
    assert words == {row[2].strip("`") for section in ("Control block", "Segment") for row in tables(section)[1]}


def test_fields_of_a_header_come_in_their_order() -> None:
    for section, values in (("Segment", layout.SegmentHeader), ("Batch", layout.Batch)):
        named = [re.match(r"`(\w+)`", row[2]) for row in tables(section)[0]]
        assert tuple(found[1] for found in named if found) == values.__struct_fields__


def test_sizes_in_the_text_are_those_of_the_code() -> None:
    for text, value in (
        (r"([\d,]+) bytes \(`CONTROL_BYTES`\)", layout.CONTROL_BYTES),
        (r"([\d,]+) bytes \(`STATUS_BYTES`\)", layout.STATUS_BYTES),
        (r"([\d,]+) bytes \(`RECORD_BYTES`\)", layout.RECORD_BYTES),
        (r"([\d,]+) bytes \(`BATCH_BYTES`\)", layout.BATCH_BYTES),
        (r"([\d,]+) bytes \(`LOG_SPARE_BYTES`\)", layout.LOG_SPARE_BYTES),
        (r"format version \*\*(\d+)\*\*", layout.FORMAT_VERSION),
        (r"([\d,]+) bytes \(`REGISTER_BYTES`\)", layout.REGISTER_BYTES),
        (r"([\d,]+) places \(`REGISTER_PLACES`\)", layout.REGISTER_PLACES),
        (r"places \(`REGISTER_PLACES`\) of ([\d,]+) bytes", layout.WORKER_BYTES),
        (r"a header of ([\d,]+) bytes, then 1,024 places \(`REGISTER", layout.REGISTER_HEADER_BYTES),
        (r"the reason, at most ([\d,]+) bytes", layout.MAX_REASON_BYTES),
        (r"([\d,]+) bytes \(`EVENTS_BYTES`\)", layout.EVENTS_BYTES),
        (r"([\d,]+) places \(`EVENTS_PLACES`\)", layout.EVENTS_PLACES),
        (r"places \(`EVENTS_PLACES`\) of ([\d,]+) bytes", layout.EVENT_BYTES),
        (r"the payload, at most ([\d,]+) bytes", layout.MAX_EVENT_BYTES),
        (r"flags`: (\d) sealed", layout.SEALED),
        (r"(\d) reset \(`RESET`\)", layout.RESET),
    ):
        found = re.search(text, PAGE)
        assert found, text
        assert number(found[1]) == value, text
    found = re.search(r"at ([\d,]+) and ([\d,]+) \(`STATUS_AT`\)", PAGE)
    assert found
    assert tuple(map(number, found.groups())) == layout.STATUS_AT
    assert layout.DELETED == 1 << 31, "31 deleted (`DELETED`)"
    assert layout.VALUE_LENGTH_MASK == (1 << 26) - 1, "bits 0-25 length of the value"
    assert layout.KEY_PLACE_SHIFT == 26
    assert layout.MAX_KEY_PLACE == (1 << 5) - 1, "26-30 where in the value the key stands"
    for constant, value_text, _ in tables("Limits")[0]:
        assert number(value_text) == getattr(layout, constant.strip("`")), constant


def test_hash_of_the_page_is_that_of_the_code() -> None:
    ((key, data, hashed),) = tables("Hash")[0]
    expected = int(hashed.strip("`"), 16).to_bytes(8, "little")
    assert hashing.hasher(number(key), data.strip("`").encode()) == expected
    assert hashing.siphash13(number(key), data.strip("`").encode()) == expected


def test_magic_numbers_are_those_of_the_code() -> None:
    for section, magic in (
        ("Control block", layout.CONTROL_MAGIC),
        ("Segment", layout.SEGMENT_MAGIC),
        ("Workers' register", layout.REGISTER_MAGIC),
    ):
        assert tables(section)[0][0][2] == f"magic, `{magic.decode().strip()}` and a line feed"

    assert tables("Checkpoint")[0][0][2] == f"magic, `{checkpoint._MAGIC.decode()}`"


def test_rows_have_the_kinds_and_fields_of_the_code() -> None:
    table = tables("Rows")[0]
    assert [(number(row[0]), row[1].strip("`")) for row in table] == [(kind.value, kind.name) for kind in rows.Kind]
    for row in table:
        named = re.search(r"`(\w+)`:", row[3])
        assert named
        struct_type = getattr(rows, named[1], None) or getattr(routes, named[1])
        assert fields(row[3]) == public(struct_type), row
    endpoint = re.search(r"An endpoint \(`EndpointRow`\) is(:.*)\n", PAGE)
    assert endpoint
    assert fields(endpoint[1]) == public(rows.EndpointRow)


def test_states_have_the_numbers_of_the_code() -> None:
    table = tables("Rows")[1]
    for column, states in ((1, rows.EndpointsState), (2, rows.MetadataState)):
        named = {number(row[0]): row[column].strip("`") for row in table if row[column]}
        assert named == {state.value: state.name for state in states}
