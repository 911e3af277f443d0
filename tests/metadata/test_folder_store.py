from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmroute.metadata.folder_store import FolderStore
from shmroute.metadata.store import Absent, Found, StoreUnavailable
from shmroute.rows import MetadataState

LIMIT_BYTES = 1_000


def one(folder: Path, key: str) -> Found:
    reading = FolderStore(folder).read([key], limit_bytes=LIMIT_BYTES, batch_bytes=10**6)
    assert reading.commands == 1
    return reading.found[key]


def state(folder: Path, key: str) -> MetadataState:
    found = one(folder, key)
    assert isinstance(found, Absent)
    return found.state


def test_a_value_is_the_file_named_by_its_key_or_by_key_and_json(tmp_path: Path) -> None:
    (tmp_path / "app_a").write_bytes(b"\xff\x00 any bytes")
    (tmp_path / "app_b.json").write_bytes(b"{}")
    (tmp_path / "app_a.json").write_bytes(b"not this one")
    found = FolderStore(tmp_path).read(["app_b", "app_a", "app_c"], limit_bytes=LIMIT_BYTES, batch_bytes=10**6).found
    assert found == {
        "app_b": b"{}",
        "app_a": b"\xff\x00 any bytes",
        "app_c": Absent(MetadataState.MISSING, "no such file"),
    }


def test_a_batch_ends_at_its_byte_limit(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"m{number}").write_bytes(b"x" * 400)
    reading = FolderStore(tmp_path).read([f"m{n}" for n in range(5)], limit_bytes=LIMIT_BYTES, batch_bytes=1_000)
    assert list(reading.found) == ["m0", "m1", "m2"]


def test_a_value_of_the_limit_is_read_and_one_byte_more_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "fits").write_bytes(b"x" * LIMIT_BYTES)
    (tmp_path / "large").write_bytes(b"x" * (LIMIT_BYTES + 1))
    assert one(tmp_path, "fits") == b"x" * LIMIT_BYTES
    assert one(tmp_path, "large") == Absent(MetadataState.TOO_LARGE, "the value has 1001 bytes, the limit is 1000")


def test_folders_and_fifos_in_place_of_a_value_have_the_wrong_type(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert state(tmp_path, "folder") == MetadataState.WRONG_TYPE
    assert state(tmp_path, "fifo") == MetadataState.WRONG_TYPE


@pytest.mark.parametrize("key", ["../outside", "/etc/hostname", "a/b", "..", ".", "", "a\0b"])
def test_no_key_reads_a_file_outside_the_folder(tmp_path: Path, key: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").mkdir()
    (folder / "a" / "b").write_bytes(b"secret")
    assert state(folder, key) == MetadataState.MISSING
    with pytest.raises(StoreUnavailable):
        FolderStore(folder).write({key: b"value"})


def test_an_unreadable_file_affects_only_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"value")
    (tmp_path / "loop").symlink_to("loop")
    found = FolderStore(tmp_path).read(["loop", "x" * 300, "there"], limit_bytes=LIMIT_BYTES, batch_bytes=10**6).found
    reason = "the file cannot be opened"
    assert found["loop"] == Absent(
        MetadataState.PENDING, "the file cannot be opened: Too many levels of symbolic links"
    )
    assert found["x" * 300] == Absent(MetadataState.PENDING, f"{reason}: File name too long")
    assert found["there"] == b"value"


def test_a_missing_folder_counts_as_an_unavailable_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "later")
    with pytest.raises(StoreUnavailable, match="no such folder"):
        store.read(["a"], limit_bytes=LIMIT_BYTES, batch_bytes=10**6)
    with pytest.raises(StoreUnavailable):
        store.write({"a": b"value"})
    (tmp_path / "later").mkdir()
    store.write({"a": b"value"})
    assert store.read(["a"], limit_bytes=LIMIT_BYTES, batch_bytes=10**6).found == {"a": b"value"}
    assert [path.name for path in (tmp_path / "later").iterdir()] == ["a"]


def test_a_folder_stores_name_is_its_path(tmp_path: Path) -> None:
    assert FolderStore(tmp_path).name == str(tmp_path)
