"""The folder source with its thread, on real files: it notices every change and reports its state."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmroute.errors import ConfigError
from shmroute.resources.registry import APPMODELS
from shmroute.sources.base import Event, Replaced, Resync, SourceState
from shmroute.sources.folder import source as source_module
from shmroute.sources.folder.source import FolderSource
from tests.sources.folder.manifests import Follower, appmodel, endpointslice, text
from tests.sources.folder.test_reader import Volume

BOUND_SECONDS = 20.0


class Owner(Follower):
    """Applies the events in the source's thread; the test waits for states."""

    def __init__(self) -> None:
        super().__init__()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.states: dict[str, SourceState] = {}
        self.told: list[Event] = []
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        with self._changed:
            super().put(event)
            self.told.append(event)
            if isinstance(event, SourceState):
                self.states[event.resource] = event
            self._changed.notify_all()

    def wait(self, true: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(true, BOUND_SECONDS), (self.objects, self.problems, self.states)

    def wait_for_apps(self, **versions: str) -> None:
        self.wait(lambda: self.apps() == versions)

    def wait_for_version(self, app: str, version: str) -> None:
        self.wait(lambda: self.apps()[app] == version)

    def wait_for_contact_after(self, resource: str, contact_ns: int) -> None:
        self.wait(lambda: self.states[resource].contact_ns > contact_ns)

    def wait_for_phase(self, phase: str) -> None:
        self.wait(lambda: {state.phase for state in self.states.values()} == {phase})


class Running:
    def __init__(self, source: FolderSource) -> None:
        self.owner = Owner()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=source.run, args=(self.owner, self.stop), daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(BOUND_SECONDS)
        assert not self.thread.is_alive()


Follow = Callable[..., Owner]


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(path: Path, **options: object) -> Running:
        started.append(Running(FolderSource(path, **options)))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def follow(running: Callable[..., Running]) -> Follow:
    """Start a source on a folder; returns its owner once it watches."""

    def start(path: Path, **options: object) -> Owner:
        owner = running(path, **options).owner
        owner.wait_for_phase("watching")
        return owner

    return start


def test_new_changed_renamed_and_deleted_files_are_noticed(tmp_path: Path, follow: Follow) -> None:
    (tmp_path / "a.yaml").write_text(text(appmodel("a")))
    owner = follow(tmp_path)
    owner.wait_for_apps(a="v1")
    (tmp_path / "b.json").write_text(text(appmodel("b")))
    owner.wait_for_apps(a="v1", b="v1")
    (tmp_path / "b.json").write_text(text(appmodel("b", version="v2")))
    owner.wait_for_apps(a="v1", b="v2")
    (tmp_path / "b.json").rename(tmp_path / "b.json~")
    owner.wait_for_apps(a="v1")
    (tmp_path / "b.json~").rename(tmp_path / "b.yml")
    owner.wait_for_apps(a="v1", b="v2")
    (tmp_path / "a.yaml").unlink()
    owner.wait_for_apps(b="v2")


@pytest.mark.parametrize("temporary", [".a.yaml.tmp", "a.yaml.tmp", "4913"])
def test_a_save_by_rename_is_one_change(tmp_path: Path, follow: Follow, temporary: str) -> None:
    (tmp_path / "a.yaml").write_text(text(appmodel("a")))
    owner = follow(tmp_path)
    before = len(owner.changes)
    (tmp_path / temporary).write_text(text(appmodel("a", version="v2")))
    (tmp_path / temporary).replace(tmp_path / "a.yaml")
    owner.wait_for_apps(a="v2")
    assert len(owner.changes) == before + 1


def test_each_new_version_of_a_mounted_volume_is_one_replacement(tmp_path: Path, follow: Follow) -> None:
    volume = Volume(tmp_path / "volume")
    volume.update({"a.yaml": text(appmodel("a", "m")), "b.yaml": text(appmodel("b"))})
    owner = follow(volume.path)
    owner.wait_for_apps(a="v1", b="v1")
    for number in range(2, 6):
        before = len(owner.changes)
        version = f"v{number}"
        volume.update({name: text(appmodel(name[0], version=version)) for name in ("a.yaml", "b.yaml")})
        owner.wait_for_apps(a=version, b=version)
        assert [type(change) for change in owner.changes[before:]] == [Replaced]
    assert owner.problems == {}


def test_changes_of_a_file_behind_a_link_are_noticed(tmp_path: Path, follow: Follow) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "target").write_text(text(appmodel("a")))
    (folder / "a.yaml").symlink_to(elsewhere / "target")
    owner = follow(folder)
    (elsewhere / "target").write_text(text(appmodel("a", version="v2")))
    owner.wait_for_apps(a="v2")


def test_the_swap_of_a_volumes_link_alone_is_noticed(tmp_path: Path, follow: Follow) -> None:
    volume = Volume(tmp_path / "volume")
    volume.update({"a.yaml": text(appmodel("a"))})
    owner = follow(volume.path)
    new = volume.prepare({"a.yaml": text(appmodel("a", version="v2"))})
    owner.wait_for_contact_after("appmodels", time.monotonic_ns())  # what was prepared is no change
    volume.switch(new, keep_old=True)
    owner.wait_for_apps(a="v2")


def test_retargeted_link_to_a_folder_is_followed(tmp_path: Path, follow: Follow) -> None:
    for name in ("folder", "old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "target").write_text(text(appmodel("a", version=name)))
    link = tmp_path / "folder" / "a.yaml"
    link.symlink_to(tmp_path / "old" / "target")
    owner = follow(tmp_path / "folder")
    (tmp_path / "folder" / "next").symlink_to(tmp_path / "new" / "target")
    (tmp_path / "folder" / "next").replace(link)
    owner.wait_for_apps(a="new")
    owner.wait_for_phase("watching")
    (tmp_path / "new" / "target").write_text(text(appmodel("a", version="newer")))
    owner.wait_for_apps(a="newer")


def test_a_broken_file_is_reported_until_fixed(tmp_path: Path, follow: Follow) -> None:
    (tmp_path / "a.yaml").write_text(text(appmodel("a")))
    (tmp_path / "b.yaml").write_text(text(appmodel("b")))
    owner = follow(tmp_path)
    (tmp_path / "a.yaml").write_text("spec: [")
    owner.wait(lambda: owner.reason("a.yaml"))
    (tmp_path / "b.yaml").write_text(text(appmodel("b", version="v2")))
    owner.wait_for_apps(a="v1", b="v2")
    assert owner.problems[str(tmp_path / "a.yaml")].last_good
    (tmp_path / "a.yaml").write_text(text(appmodel("a", version="v2")))
    owner.wait_for_apps(a="v2", b="v2")
    owner.wait(lambda: not owner.problems)


def test_a_file_written_slowly_withdraws_nothing(tmp_path: Path, follow: Follow) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text(appmodel("a")))
    owner = follow(tmp_path)
    content = text(appmodel("a", version="v2"))
    with path.open("w") as file:
        for part in ("", content[:20], content[20:]):
            file.write(part)
            file.flush()
            owner.wait_for_contact_after("appmodels", time.monotonic_ns())  # the source has read what there is
    owner.wait_for_apps(a="v2")
    kinds = [type(change).__name__ for change in owner.changes]
    assert [kind for kind in kinds if kind != "FileProblem"] == ["Replaced", "Replaced", "Changed"]


def test_a_thousand_files_are_read_and_each_edit_is_one_change(tmp_path: Path, follow: Follow) -> None:
    for number in range(1_000):
        (tmp_path / f"{number:04}.yaml").write_text(text(appmodel(f"a{number}"), endpointslice(f"s{number}", "a")))
    owner = follow(tmp_path)
    assert len(owner.objects) == 2_000
    before = len(owner.changes)
    for number in (7, 500, 999):
        (tmp_path / f"{number:04}.yaml").write_text(
            text(appmodel(f"a{number}", version="v2"), endpointslice(f"s{number}", "a"))
        )
        owner.wait_for_version(f"a{number}", "v2")
    assert [type(change).__name__ for change in owner.changes[before:]] == ["Changed"] * 3


def test_no_event_comes_before_a_missing_folder_appears(tmp_path: Path, running: Callable[..., Running]) -> None:
    folder = tmp_path / "not" / "yet"
    owner = running(folder).owner
    owner.wait_for_phase("backing-off")
    assert owner.complete == set()
    assert {state.reason for state in owner.states.values()} == {f"{folder}: No such file or directory"}
    assert {state.contact_ns for state in owner.states.values()} == {0}
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(text(appmodel("a")))
    owner.wait_for_apps(a="v1")


def test_removed_folder_keeps_its_last_state_and_may_reappear(tmp_path: Path, follow: Follow) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.yaml").write_text(text(appmodel(name)))
    owner = follow(folder)
    contact = owner.states["appmodels"].contact_ns
    folder.rename(tmp_path / "away")
    owner.wait_for_phase("backing-off")
    assert owner.apps() == {"a": "v1", "b": "v1"}
    lost = owner.states["appmodels"]
    assert lost.contact_ns >= contact
    assert lost.restarts == 1
    shutil.copytree(tmp_path / "away", tmp_path / "new")
    (tmp_path / "new" / "a.yaml").write_text(text(appmodel("a", version="v2")))
    (tmp_path / "new").rename(folder)
    owner.wait_for_apps(a="v2", b="v1")
    owner.wait_for_phase("watching")
    (folder / "b.yaml").write_text(text(appmodel("b", version="v2")))
    owner.wait_for_apps(a="v2", b="v2")


def test_a_folder_that_is_a_link_is_followed_when_the_link_is_swapped(tmp_path: Path, follow: Follow) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(text(appmodel("a", version=version)))
    (tmp_path / "current").symlink_to("v1")
    owner = follow(tmp_path / "current")
    owner.wait_for_apps(a="v1")
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "current")
    owner.wait_for_apps(a="v2")
    (tmp_path / "v2" / "a.yaml").write_text(text(appmodel("a", version="v3")))
    owner.wait_for_apps(a="v3")


def test_folder_source_reports_contact_twice_a_second(tmp_path: Path, follow: Follow) -> None:
    owner = follow(tmp_path)
    for resource in ("appmodels", "endpointslices"):
        for _ in range(3):
            owner.wait_for_contact_after(resource, owner.states[resource].contact_ns)
    assert source_module.REPORT_SECONDS <= 0.5
    assert {(state.phase, state.reason, state.restarts) for state in owner.states.values()} == {("watching", "", 0)}


def test_resync_of_a_folder_announces_every_object_again(tmp_path: Path, follow: Follow) -> None:
    owner = follow(tmp_path, resync_seconds=0.3)
    owner.wait(lambda: sum(isinstance(event, Resync) for event in owner.told) >= 4)
    assert {event.resource for event in owner.told if isinstance(event, Resync)} == {"appmodels", "endpointslices"}


def test_source_reports_its_namespace_and_resources(tmp_path: Path, follow: Follow) -> None:
    (tmp_path / "a.yaml").write_text(text(appmodel("a"), appmodel("b", namespace="other"), endpointslice("s", "a")))
    owner = follow(tmp_path, namespace="meta-test", kinds=(APPMODELS,))
    assert owner.names == ["meta-test/a"]
    assert owner.complete == {"appmodels"}
    assert set(owner.states) == {"appmodels"}


def test_folder_source_reports_its_end_soon_after_a_stop(tmp_path: Path, running: Callable[..., Running]) -> None:
    source = running(tmp_path)
    source.owner.wait_for_phase("watching")
    source.end()
    assert {state.phase for state in source.owner.states.values()} == {"stopped"}
    missing = running(tmp_path / "missing")
    missing.owner.wait_for_phase("backing-off")
    missing.end()


def test_a_file_given_for_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        FolderSource(tmp_path / "a.yaml")


def test_an_invalid_selector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label selector"):
        FolderSource(tmp_path, selector="a=b=c")


def test_a_folder_that_never_existed_is_not_reported_as_read(
    tmp_path: Path, running: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    running(tmp_path / "absent").owner.wait_for_phase("backing-off")
    assert "nothing has been read yet" in caplog.text
    assert "read last" not in caplog.text
