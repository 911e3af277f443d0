"""Reading changed files: during writes, during the switch of a volume, after additions and deletions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Self

import pytest

from shmroute.manifests.files import FILE_MAX_BYTES, read_file
from shmroute.resources.registry import BUILT_IN
from shmroute.sources.base import Changed
from shmroute.sources.folder.content import Scope
from shmroute.sources.folder.reader import UNREST_SECONDS, FolderReader
from tests.sources.folder.manifests import Follower, appmodel, text

READER = "shmroute.sources.folder.reader"


class Reading:
    """A folder, a reader with a clock of its own, and the state by its events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_000.0
        self.follower = Follower()
        self.stopped = False
        self.reader = FolderReader(folder, Scope.of(BUILT_IN, None, ""), stopped=lambda: self.stopped)

    def write(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def look(self) -> bool:
        """Look once. Returns whether the reader is in step with the folder."""
        look = self.reader.look(self.now)
        for event in look.events:
            self.follower.put(event)
        return look.in_step

    def settle(self) -> Follower:
        """Look twice, so that every file has been read."""
        self.look()
        assert self.look()
        return self.follower


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading(tmp_path)


def test_an_empty_folder_is_complete_at_the_first_scan(reading: Reading) -> None:
    assert reading.look()
    assert reading.follower.complete == {"appmodels", "endpointslices"}


def test_a_file_is_reported_when_added_changed_and_deleted(reading: Reading) -> None:
    reading.settle()
    reading.write("a.yaml", text(appmodel("a")))
    assert reading.settle().apps() == {"a": "v1"}
    reading.write("a.yaml", text(appmodel("a", version="v2"), appmodel("b")))
    assert reading.settle().apps() == {"a": "v2", "b": "v1"}
    (reading.folder / "a.yaml").unlink()
    assert reading.settle().apps() == {}


def test_only_files_that_changed_are_read_again(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        reading.write(f"{number:02}.yaml", text(appmodel(f"a{number}")))
    reading.settle()
    opened: list[Path] = []

    def recorded(path: Path) -> bytes:
        opened.append(path)
        return read_file(path)

    monkeypatch.setattr(f"{READER}.read_file", recorded)
    reading.write("07.yaml", text(appmodel("a7", version="v2")))
    reading.settle()
    reading.settle()
    assert [path.name for path in opened] == ["07.yaml"]
    assert isinstance(reading.follower.changes[-1], Changed)


def test_nothing_is_read_while_any_file_changes(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.write("b.yaml", text(appmodel("b")))
    reading.settle()
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    reading.write("b.yaml", "spec: [")
    assert not reading.look()
    reading.write("b.yaml", text(appmodel("b", version="v2")))
    assert not reading.look()
    assert reading.follower.apps() == {"a": "v1", "b": "v1"}
    assert reading.look()
    assert (reading.follower.apps(), reading.follower.problems) == ({"a": "v2", "b": "v2"}, {})


def test_a_file_moved_and_rewritten_withdraws_nothing(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.settle()
    (reading.folder / "a.yaml").rename(reading.folder / "a.yaml~")
    assert not reading.look()
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    reading.look()
    assert reading.follower.apps() == {"a": "v1"}
    assert reading.look()
    assert reading.follower.apps() == {"a": "v2"}


def test_a_file_that_always_changes_delays_others_by_at_most_1_s(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    def growing(path: Path) -> bytes:
        data = read_file(path)
        if path.name == "log.json":
            with path.open("a") as file:
                file.write("more ")
        return data

    monkeypatch.setattr(f"{READER}.read_file", growing)
    reading.write("log.json", text(appmodel("log")))
    reading.write("a.yaml", text(appmodel("a")))
    for _ in range(5):
        assert not reading.look()
    reading.now += 2 * UNREST_SECONDS
    assert reading.look()
    assert reading.follower.complete == {"appmodels", "endpointslices"}
    assert reading.follower.apps() == {"a": "v1"}
    assert reading.follower.reason("log.json") == "the file keeps changing"


def test_a_broken_file_keeps_its_last_good_state_until_fixed(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.write("b.yaml", text(appmodel("b")))
    reading.settle()
    reading.write("a.yaml", "spec: [")
    assert reading.settle().apps() == {"a": "v1", "b": "v1"}
    assert reading.follower.reason("a.yaml").startswith("line 2, column 1: did not find expected node content")
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    assert reading.settle().apps() == {"a": "v2", "b": "v1"}
    assert reading.follower.problems == {}


def test_a_problem_is_reported_with_file_and_line(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a"), {"name": "x"}))
    assert reading.settle().reason("a.yaml") == "document 2: kind is missing: not a Kubernetes object"


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_emptied_file_keeps_its_objects_and_is_reported(reading: Reading, content: str) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.settle()
    reading.write("a.yaml", content)
    assert reading.settle().apps() == {"a": "v1"}
    assert reading.follower.reason("a.yaml") == "the file is empty: delete it if its objects shall go"
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    assert (reading.settle().apps(), reading.follower.problems) == ({"a": "v2"}, {})


def test_an_empty_new_file_is_not_a_problem(reading: Reading) -> None:
    reading.write("a.yaml", "")
    assert reading.settle().problems == {}


def test_a_file_that_lost_its_objects_withdraws_them(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.settle()
    reading.write("a.yaml", "# nothing any more\n")
    assert (reading.settle().apps(), reading.follower.problems) == ({}, {})


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading.write("a.yaml", text(appmodel("old")))

    def racing(path: Path) -> bytes:
        data = read_file(path)
        monkeypatch.setattr(f"{READER}.read_file", read_file)
        (reading.folder / "new").write_text(text(appmodel("new")))
        (reading.folder / "new").rename(path)
        return data

    monkeypatch.setattr(f"{READER}.read_file", racing)
    assert not reading.look()
    assert not reading.look()
    assert reading.settle().apps() == {"new": "v1"}
    assert len(reading.follower.changes) == 2  # the first complete lists, and nothing of the old file


def test_a_file_deleted_while_it_is_read_is_not_a_problem(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    reading.write("a.yaml", text(appmodel("a")))

    def gone(path: Path) -> bytes:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(f"{READER}.read_file", gone)
    assert not reading.look()
    assert not reading.look()
    reading.settle()
    assert (reading.follower.apps(), reading.follower.problems) == ({}, {})


def test_a_file_over_the_limit_is_set_aside_unread(reading: Reading) -> None:
    reading.write("a.yaml", "")
    os.truncate(reading.folder / "a.yaml", FILE_MAX_BYTES + 1)
    assert reading.settle().reason("a.yaml").startswith("16777217 bytes, more than the 16 MiB that are read")


def test_a_dangling_link_is_reported_and_keeps_its_objects(reading: Reading, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(text(appmodel("a")))
    (reading.folder / "a.yaml").symlink_to(target)
    reading.settle()
    target.unlink()
    assert reading.settle().apps() == {"a": "v1"}
    assert reading.follower.reason("a.yaml") == "a link that leads to no file"
    (reading.folder / "a.yaml").unlink()
    assert (reading.settle().apps(), reading.follower.problems) == ({}, {})


def test_folders_pipes_and_hidden_files_are_not_read(reading: Reading) -> None:
    (reading.folder / "folder.yaml").mkdir()
    os.mkfifo(reading.folder / "pipe.yaml")
    (reading.folder / "link.yaml").symlink_to("link.yaml")
    for name in (".a.yaml", "a.yaml~", "a.yaml.swp", "#a.yaml#", "README.md"):
        reading.write(name, text(appmodel("a")))
    assert reading.settle().apps() == {}
    assert reading.follower.reason("link.yaml") == "a link that leads to no file"
    assert [Path(path).name for path in reading.follower.problems] == ["link.yaml"]


def test_a_folder_that_is_missing_is_an_error_and_nothing_is_withdrawn(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    reading = Reading(tmp_path / "folder")
    reading.write("a.yaml", text(appmodel("a")))
    reading.settle()
    shutil.rmtree(reading.folder)
    with pytest.raises(FileNotFoundError):
        reading.look()
    assert reading.follower.apps() == {"a": "v1"}


def test_reading_ends_between_files_when_it_is_stopped(reading: Reading) -> None:
    for name in "abc":
        reading.write(f"{name}.yaml", text(appmodel(name)))
    reading.stopped = True
    assert not reading.look()
    assert not reading.look()
    assert reading.follower.changes == []
    reading.stopped = False
    assert set(reading.settle().apps()) == {"a", "b", "c"}


class Volume:
    """A folder as a kubelet mounts a ConfigMap there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._versions = 0
        path.mkdir()

    def prepare(self, files: dict[str, str]) -> Path:
        self._versions += 1
        version = self.path / f"..2026_{self._versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_text(content)
        return version

    def switch(self, version: Path, *, keep_old: bool = False) -> None:
        """Switch to another version by one rename; add links after it, and remove old files last."""
        old = (self.path / "..data").resolve()
        (self.path / "..data_tmp").symlink_to(version.name)
        (self.path / "..data_tmp").rename(self.path / "..data")
        for name in {each.name for each in version.iterdir()} - {each.name for each in self.path.iterdir()}:
            (self.path / name).symlink_to(f"..data/{name}")
        for each in self.path.iterdir():
            if each.is_symlink() and not each.name.startswith(".") and not each.exists():
                each.unlink()
        if old.name.startswith("..2026") and not keep_old:
            shutil.rmtree(old)

    def update(self, files: dict[str, str]) -> None:
        self.switch(self.prepare(files))


def test_all_files_of_a_volume_change_in_one_scan(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume")
    volume.update({"a.yaml": text(appmodel("a", "m")), "b.yaml": text(appmodel("b"))})
    reading = Reading(volume.path)
    assert reading.settle().apps() == {"a": "v1", "b": "v1"}
    volume.update({"b.yaml": text(appmodel("b", "m")), "c.yaml": text(appmodel("c"))})
    before = len(reading.follower.changes)
    assert reading.settle().apps() == {"b": "v1", "c": "v1"}
    assert len(reading.follower.changes) == before + 1


def models(reading: Reading) -> dict[str, list[str]]:
    return {
        key.name: [model.name for model in getattr(item, "models", ())]
        for (_, key), item in reading.follower.objects.items()
    }


@pytest.mark.parametrize("moment", ["listing", "reading"])
def test_a_volume_is_never_read_half_old_and_half_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    volume = Volume(tmp_path / "volume")
    volume.update({"a.yaml": text(appmodel("a", "m")), "b.yaml": text(appmodel("b"))})
    new = volume.prepare({"a.yaml": text(appmodel("a")), "b.yaml": text(appmodel("b", "m"))})
    reading = Reading(volume.path)

    def switch() -> None:
        if (volume.path / "..data").resolve() != new:
            volume.switch(new)

    if moment == "listing":
        real = os.scandir

        def scandir(path: Path) -> object:
            entries = list(real(path))
            for entry in entries:
                entry.stat()  # kept by the entry
            switch()
            return _Entries(entries)

        monkeypatch.setattr(f"{READER}.os.scandir", scandir)
        reading.look()
        monkeypatch.undo()
    else:

        def switching(path: Path) -> bytes:
            if path.name == "b.yaml":
                switch()
            return read_file(path)

        monkeypatch.setattr(f"{READER}.read_file", switching)
        reading.look()
        assert not reading.look()
    reading.settle()
    assert len(reading.follower.changes) == 2
    assert models(reading) == {"a": ["a-model"], "b": ["m"]}


class _Entries(list[os.DirEntry[str]]):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
