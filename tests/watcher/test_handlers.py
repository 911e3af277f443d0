"""Handlers by name and in a program of one's own; a bad one is refused before anything is served."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import shmroute.watcher
from shmroute import ConfigError, NotReady, Reader
from shmroute.resources.appmodel import AppModel
from shmroute.watcher import Watcher, WatchOptions
from shmroute.watcher.handlers import load_handlers
from tests.sources.folder.manifests import appmodel, text
from tests.watcher.running import WAIT_SECONDS, wait_for

MODULE = """
class Good:
    def on_add(self, appmodel): pass
    def on_update(self, old, new): pass
    def on_delete(self, appmodel): pass

class NoDelete:
    def on_add(self, appmodel): pass
    def on_update(self, old, new): pass

class OneArgument(Good):
    def on_update(self, new): pass

class Late(Good):
    async def on_add(self, appmodel): pass

class Failing(Good):
    def __init__(self):
        raise OSError("no such database")

class Inner:
    good = Good()

def make():
    return Good()

good = Good()
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"handlers_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.mark.parametrize("name", ["Good", "good", "make", "Inner.good"])
def test_handler_may_be_an_object_a_class_or_a_function(module: str, name: str) -> None:
    path = list(sys.path)
    ((table, handler),) = load_handlers([f"{module}:{name}"])
    assert table == ""
    assert type(handler).__name__ == "Good"
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("{}", "write package.module:name"),
        ("{}:", "write package.module:name"),
        (":Good", "write package.module:name"),
        ("nowhere_to_be_found:Good", "module nowhere_to_be_found cannot be imported: ModuleNotFoundError"),
        ("{}_broken:Good", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("{}:Absent", "has no 'Absent'"),
        ("{}:Inner.absent", "has no 'absent'"),
        ("{}:number", "int has no method on_add, on_update, on_delete"),
        ("{}:NoDelete", "NoDelete has no method on_delete"),
        ("{}:OneArgument", "on_update(new) cannot be called with 2 arguments"),
        ("{}:Late", "on_add is a coroutine function"),
        ("{}:Failing", "calling it without arguments failed: OSError: no such database"),
    ],
)
def test_a_bad_handler_is_refused_with_the_reason(module: str, name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_handlers([name.format(module)])
    assert reason in str(refused.value)


def test_a_bad_handler_ends_the_command_at_start(module: str, tmp_path: Path, area: str) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "shmroute",
            "watch",
            "--area",
            area,
            "--manifests",
            ".",
            "--handler",
            f"{module}:number",
        ],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        cwd=tmp_path,
    )
    assert ended.returncode == 2
    assert "has no method on_add" in ended.stderr
    assert "Traceback" not in ended.stderr
    with pytest.raises(NotReady):
        Reader(area).attach()


class Noting:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_add(self, appmodel: AppModel) -> None:
        self.calls.append(f"add {appmodel.key.name}")

    def on_update(self, old: AppModel, new: AppModel) -> None:
        self.calls.append(f"{'resync' if old is new else 'update'} {new.key.name}")

    def on_delete(self, appmodel: AppModel) -> None:
        self.calls.append(f"delete {appmodel.key.name}")


class Raising(Noting):
    def on_add(self, appmodel: AppModel) -> None:
        raise RuntimeError("a defect of a user's handler")


def test_an_embedded_watcher_serves_and_calls_its_handlers(
    tmp_path: Path, area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHMROUTE_AREA", area)
    (tmp_path / "a.yaml").write_text(text(appmodel("a")))
    noting, raising = Noting(), Raising()
    options = WatchOptions(manifests=str(tmp_path), resync_seconds=1.0)
    with Watcher(options, handlers=[raising, noting]) as watcher:
        watcher.wait_synced(WAIT_SECONDS)
        assert watcher.area == area
        with Reader(area) as reader:
            (model,) = reader.models()
            assert reader.resolve(model).appmodel == "a"
        wait_for(lambda: "resync a" in noting.calls)
        (tmp_path / "a.yaml").write_text(text(appmodel("a", version="v2")))
        wait_for(lambda: "update a" in noting.calls)
        (tmp_path / "a.yaml").unlink()
        wait_for(lambda: noting.calls[-1] == "delete a" and raising.calls[-1] == "delete a")
        wait_for(lambda: watcher.status.handler_failures == 1)
    assert noting.calls[0] == "add a"
    assert not watcher.alive


def test_waiting_for_an_embedded_watcher_ends_with_the_reason(tmp_path: Path, area: str) -> None:
    options = WatchOptions(area=area, manifests=str(tmp_path))
    with Watcher(options) as first:
        first.wait_synced(WAIT_SECONDS)
        started = time.monotonic()
        with Watcher(options) as second, pytest.raises(NotReady):
            second.wait_synced(0.2)
        assert time.monotonic() - started >= 0.2


def test_the_error_of_an_embedded_watcher_is_raised_by_its_wait(tmp_path: Path) -> None:
    with Watcher(WatchOptions(area="no/such/name", manifests=str(tmp_path))) as watcher, pytest.raises(ConfigError):
        watcher.wait_synced(WAIT_SECONDS)


def test_an_embedded_watcher_refuses_what_is_not_a_handler(tmp_path: Path, area: str) -> None:
    with pytest.raises(ConfigError, match="has no method on_add"):
        Watcher(WatchOptions(area=area, manifests=str(tmp_path)), handlers=[object()])  # type: ignore[list-item]


def test_the_public_names_of_the_watcher_can_be_imported() -> None:
    for name in shmroute.watcher.__all__:
        assert getattr(shmroute.watcher, name) is not None
    with pytest.raises(AttributeError):
        _ = shmroute.watcher.nothing


def test_in_a_folder_the_first_seen_appmodel_wins_after_a_restart(tmp_path: Path, area: str) -> None:
    options = WatchOptions(area=area, manifests=str(tmp_path))

    def served_by() -> str:
        with Reader(area) as reader:
            return reader.resolve("m").appmodel

    (tmp_path / "zzz.yaml").write_text(text(appmodel("zzz", "m")))
    with Watcher(options) as watcher:
        watcher.wait_synced(WAIT_SECONDS)
        (tmp_path / "aaa.yaml").write_text(text(appmodel("aaa", "m")))
        wait_for(lambda: watcher.status.conflicts == 1)
        assert served_by() == "zzz"
    with Watcher(options) as watcher:
        watcher.wait_synced(WAIT_SECONDS)
        assert watcher.status.conflicts == 1
        assert served_by() == "zzz"
