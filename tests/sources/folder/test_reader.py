"""Reading what has changed: half-written files, volumes that are switched, files that come and go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shmroute.manifests.files import FILE_MAX_BYTES, read_file
from shmroute.resources.registry import BUILT_IN
from shmroute.sources.base import Changed
from shmroute.sources.folder.content import Scope
from shmroute.sources.folder.listing import look_at
from shmroute.sources.folder.reader import EMPTY_SECONDS, SETTLE_SECONDS, FolderReader
from tests.sources.folder.manifests import Follower, appmodel, text

READER = "shmroute.sources.folder.reader"
LONG_AGO = 1_700_000_000.0


class Reading:
    """A folder, a reader with a clock of its own, and what its events say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = LONG_AGO
        self.follower = Follower()
        self.stopped = False
        self.reader = FolderReader(
            folder, Scope.of(BUILT_IN, None, ""), stopped=lambda: self.stopped, clock=lambda: self.now
        )

    def write(self, name: str, content: str) -> None:
        """In place, at this moment of the reader's clock."""
        path = self.folder / name
        path.write_text(content)
        os.utime(path, (self.now, self.now))

    def rest(self, seconds: float = 2 * SETTLE_SECONDS) -> None:
        self.now += seconds

    def read_all(self) -> Follower:
        for event in self.reader.read_all():
            self.follower.put(event)
        return self.follower

    def read_some(self, *names: str) -> Follower:
        for event in self.reader.read_some({*names, *self.reader.unsettled}):
            self.follower.put(event)
        return self.follower


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading(tmp_path)


Look = Callable[[Reading], Follower]
LOOKS = pytest.mark.parametrize(
    "look", [Reading.read_all, lambda reading: reading.read_some("a.yaml")], ids=["all", "one"]
)


@LOOKS
def test_a_file_is_told_of_when_it_comes_changes_and_goes(reading: Reading, look: Look) -> None:
    assert reading.read_all().complete == {"appmodels", "endpointslices"}
    reading.write("a.yaml", text(appmodel("a")))
    assert look(reading).apps() == {"a": "v1"}
    reading.write("a.yaml", text(appmodel("a", version="v2"), appmodel("b")))
    assert look(reading).apps() == {"a": "v2", "b": "v1"}
    (reading.folder / "a.yaml").unlink()
    assert look(reading).apps() == {}


def test_only_files_that_changed_are_read_again(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        reading.write(f"{number:02}.yaml", text(appmodel(f"a{number}")))
    reading.rest()
    reading.read_all()
    opened: list[Path] = []

    def recorded(path: Path) -> bytes:
        opened.append(path)
        return read_file(path)

    monkeypatch.setattr(f"{READER}.read_file", recorded)
    reading.write("07.yaml", text(appmodel("a7", version="v2")))
    reading.rest()
    reading.read_all()
    reading.read_all()
    assert [path.name for path in opened] == ["07.yaml"]
    assert isinstance(reading.follower.changes[-1], Changed)


@LOOKS
def test_a_broken_file_keeps_its_last_good_state_and_is_told_until_it_is_mended(reading: Reading, look: Look) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.write("b.yaml", text(appmodel("b")))
    reading.read_all()
    reading.rest()
    reading.write("a.yaml", "spec: [")
    reading.rest()
    assert look(reading).apps() == {"a": "v1", "b": "v1"}
    assert reading.follower.reason("a.yaml").startswith("line 2, column 1: did not find expected node content")
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    reading.rest()
    assert look(reading).apps() == {"a": "v2", "b": "v1"}
    assert reading.follower.problems == {}


def test_the_place_of_a_problem_in_its_file_is_told(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a"), {"name": "x"}))
    reading.rest()
    assert reading.read_all().reason("a.yaml") == "document 2: kind is missing: not a Kubernetes object"


def test_a_half_written_file_gets_a_moment_before_it_counts_as_broken(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.read_all()
    reading.rest()
    reading.write("a.yaml", "spec: [")
    assert reading.read_all().problems == {}
    assert reading.reader.unsettled == {"a.yaml"}
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    assert reading.read_all().apps() == {"a": "v2"}
    reading.rest()
    reading.read_some()
    assert (reading.follower.problems, reading.reader.unsettled) == ({}, set())


def test_a_file_truncated_to_be_rewritten_withdraws_nothing(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.read_all()
    reading.rest()
    reading.write("a.yaml", "")
    assert reading.read_all().apps() == {"a": "v1"}
    reading.rest(EMPTY_SECONDS / 2)
    assert reading.read_some().apps() == {"a": "v1"}
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    assert reading.read_all().apps() == {"a": "v2"}


def test_a_file_that_stays_empty_withdraws_its_objects(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.read_all()
    reading.rest()
    reading.write("a.yaml", "# nothing any more\n")
    reading.read_all()
    reading.rest(2 * EMPTY_SECONDS)
    assert reading.read_some().apps() == {}
    assert reading.reader.unsettled == set()


def test_a_second_write_that_leaves_no_trace_in_the_file_systems_clock_is_seen(reading: Reading) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.read_all()
    reading.write("a.yaml", text(appmodel("a", version="v2")))
    reading.reader._known["a.yaml"] = look_at(reading.folder / "a.yaml")  # as if it had been within the same tick
    reading.rest()
    assert reading.read_all().apps() == {"a": "v2"}
    assert reading.reader.unsettled == set()


def test_a_time_stamp_in_the_future_does_not_keep_a_file_in_motion(reading: Reading) -> None:
    reading.write("a.yaml", "spec: [")
    reading.now -= 3_600
    assert reading.read_all().reason("a.yaml")
    assert reading.reader.unsettled == set()


def test_a_file_that_changes_under_the_reading_is_read_again(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    reading.write("a.yaml", text(appmodel("old")))

    def racing(path: Path) -> bytes:
        data = read_file(path)
        monkeypatch.setattr(f"{READER}.read_file", read_file)
        (reading.folder / "new").write_text(text(appmodel("new")))
        (reading.folder / "new").rename(path)
        return data

    monkeypatch.setattr(f"{READER}.read_file", racing)
    assert reading.read_all().apps() == {"new": "v1"}
    assert len(reading.follower.changes) == 2  # the first complete lists, and nothing of the old file


def test_a_file_that_goes_under_the_reading_is_no_problem(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    reading.write("a.yaml", text(appmodel("a")))

    def gone(path: Path) -> bytes:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(f"{READER}.read_file", gone)
    reading.read_all()
    reading.read_all()
    assert (reading.follower.apps(), reading.follower.problems, reading.reader.unsettled) == ({}, {}, set())


def test_a_file_moved_away_and_written_anew_withdraws_nothing(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading.write("a.yaml", text(appmodel("a")))
    reading.read_all()
    (reading.folder / "a.yaml").rename(reading.folder / "a.yaml~")

    def meanwhile(_: float) -> None:
        reading.write("a.yaml", text(appmodel("a", version="v2")))

    monkeypatch.setattr(f"{READER}.time.sleep", meanwhile)
    reading.read_all()
    assert reading.follower.apps() == {"a": "v1"}
    assert reading.read_some().apps() == {"a": "v2"}


def test_a_file_over_the_limit_is_set_aside_unread(reading: Reading) -> None:
    reading.write("a.yaml", "")
    os.truncate(reading.folder / "a.yaml", FILE_MAX_BYTES + 1)
    assert reading.read_all().reason("a.yaml").startswith("16777217 bytes, more than the 16 MiB that are read")


def test_a_link_to_nothing_is_set_aside_and_keeps_what_it_held(reading: Reading, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(text(appmodel("a")))
    (reading.folder / "a.yaml").symlink_to(target)
    reading.read_all()
    target.unlink()
    assert reading.read_all().apps() == {"a": "v1"}
    assert reading.follower.reason("a.yaml") == "a link that leads to no file"
    (reading.folder / "a.yaml").unlink()
    assert reading.read_all().apps() == {}
    assert reading.follower.problems == {}


def test_folders_pipes_and_hidden_files_are_not_read(reading: Reading) -> None:
    (reading.folder / "folder.yaml").mkdir()
    os.mkfifo(reading.folder / "pipe.yaml")
    (reading.folder / "link.yaml").symlink_to("link.yaml")
    for name in (".a.yaml", "a.yaml~", "a.yaml.swp", "#a.yaml#", "README.md"):
        reading.write(name, text(appmodel("a")))
    assert reading.read_all().apps() == {}
    assert (
        reading.read_some(".a.yaml", "folder.yaml", "pipe.yaml").reason("link.yaml") == "a link that leads to no file"
    )
    assert [Path(path).name for path in reading.follower.problems] == ["link.yaml"]


def test_a_folder_that_is_not_there_is_an_error_and_nothing_is_withdrawn(reading: Reading, tmp_path: Path) -> None:
    reading.folder = tmp_path / "folder"
    reading.folder.mkdir()
    reading = Reading(reading.folder)
    reading.write("a.yaml", text(appmodel("a")))
    reading.read_all()
    shutil.rmtree(reading.folder)
    with pytest.raises(FileNotFoundError):
        reading.read_all()
    assert reading.follower.apps() == {"a": "v1"}


def test_reading_ends_between_files_when_it_is_told_to(reading: Reading) -> None:
    for name in "abc":
        reading.write(f"{name}.yaml", text(appmodel(name)))
    reading.stopped = True
    assert reading.reader.read_all() == []
    assert reading.reader.read_some({"a.yaml"}) == []
    reading.stopped = False
    assert set(reading.read_all().apps()) == {"a", "b", "c"}


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
        """Everything changes by one rename; links come after it, what is not needed any more goes last."""
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


def test_all_files_of_a_volume_change_at_once(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume")
    volume.update({"a.yaml": text(appmodel("a", "m")), "b.yaml": text(appmodel("b"))})
    reading = Reading(volume.path)
    assert reading.read_all().apps() == {"a": "v1", "b": "v1"}
    assert set(reading.reader.directories) == {volume.path, volume.path / "..2026_1"}
    volume.update({"b.yaml": text(appmodel("b", "m")), "c.yaml": text(appmodel("c"))})
    before = len(reading.follower.changes)
    assert reading.read_all().apps() == {"b": "v1", "c": "v1"}
    assert len(reading.follower.changes) == before + 1
    assert set(reading.reader.directories) == {volume.path, volume.path / "..2026_2"}


def test_a_volume_switched_under_the_reading_is_never_read_half_old_and_half_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path / "volume")
    volume.update({"a.yaml": text(appmodel("a", "m")), "b.yaml": text(appmodel("b"))})
    new = volume.prepare({"a.yaml": text(appmodel("a")), "b.yaml": text(appmodel("b", "m"))})
    reading = Reading(volume.path)

    def switching(path: Path) -> bytes:
        if path.name == "b.yaml" and (volume.path / "..data").resolve() != new:
            volume.switch(new)
        return read_file(path)

    monkeypatch.setattr(f"{READER}.read_file", switching)
    reading.read_all()
    assert len(reading.follower.changes) == 2
    models = {
        key.name: [model.name for model in getattr(item, "models", ())]
        for (_, key), item in reading.follower.objects.items()
    }
    assert models == {"a": ["a-model"], "b": ["m"]}
