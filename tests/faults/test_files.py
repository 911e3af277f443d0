"""Row 2, on disk: a pod that starts while its API server is down uses the checkpoint on its disk."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from shmroute import NotReady, Reader
from shmroute.rows import Kind, SettingsRow
from shmroute.shm.writing.publisher import Publisher
from shmroute.watcher.checkpoint import Checkpoint, Identity, parse
from tests.apiserver import ApiServer, app_model
from tests.faults.watching import watch_process
from tests.forks import Forks, Pipe
from tests.leftovers import remove_area
from tests.watcher.running import WAIT_SECONDS, wait_for

SEED = int(os.environ.get("SHMROUTE_SEED", "1"))

WRITES_SECONDS = 0.2
"""Time in which a watcher writes a checkpoint or two, in seconds; it is killed at a moment of it."""

MODELS = {"iiot_dataservice": "v-1", "iiot_other": "v-2"}


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    return api.kubeconfig(tmp_path / "kubeconfig")


def written(api: ApiServer, kubeconfig: Path, area: str, path: Path) -> None:
    """Run a watcher with this checkpoint, then end it and remove its shared memory."""
    api.apply(app_model("iiot", MODELS))
    with watch_process(area, "-A", "--kubeconfig", kubeconfig, "--checkpoint", path), Reader(area) as reader:
        reader.wait_ready(WAIT_SECONDS)
        wait_for(lambda: not reader.stale(60.0))
    assert path.exists()
    remove_area(area)


@pytest.mark.fault(2)
def test_02_pod_restarted_without_api_server_serves_its_checkpoint(
    api: ApiServer, kubeconfig: Path, area: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    written(api, kubeconfig, area, path)
    api.faults.refuse()
    with watch_process(area, "-A", "--kubeconfig", kubeconfig, "--checkpoint", path), Reader(area) as reader:
        reader.wait_ready(WAIT_SECONDS)
        assert {model: route.version for model, route in reader.models().items()} == MODELS
        assert not reader.synced
        age = reader.age
        wait_for(lambda: reader.age > age + 1.0)  # grows, whatever the watcher does
        assert reader.stale(1.0)
        before = reader.generation

        api.apply(app_model("iiot", {"iiot_dataservice": "v-2"}))
        api.faults.accept()
        wait_for(lambda: reader.synced, 60.0)
        assert {model: route.version for model, route in reader.models().items()} == {"iiot_dataservice": "v-2"}
        assert reader.generation > before
        wait_for(lambda: not reader.stale(60.0))


@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign", "empty"])
def test_02_a_damaged_checkpoint_counts_as_missing(
    api: ApiServer, kubeconfig: Path, area: str, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "checkpoint"
    written(api, kubeconfig, area, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    kinds: dict[str, bytes] = {
        "flipped": bytes(data),
        "cut": path.read_bytes()[:-1],
        "foreign": b"PK" * 500,
        "empty": b"",
    }
    path.write_bytes(kinds[damage])
    api.faults.refuse()
    with watch_process(area, "-A", "--kubeconfig", kubeconfig, "--checkpoint", path) as process, Reader(area) as reader:
        api.wait_until(lambda: Path(f"/dev/shm/shmroute-{area}").exists())
        with pytest.raises(NotReady):
            reader.wait_ready(0.5)
        assert process.poll() is None

        api.faults.accept()
        reader.wait_ready(60.0)
        assert reader.resolve("iiot_dataservice").app == "iiot"
        wait_for(lambda: not reader.stale(60.0))
    assert parse(path.read_bytes()).rows, "replaced by a good one at the end"


def write_checkpoints(pipe: Pipe, area: str, path: Path, rows: int = 200) -> None:
    """Publish one generation after another and write the checkpoint of each, until killed."""
    publisher = Publisher(area)
    stop = threading.Event()
    stop.set()
    it = Checkpoint(str(path), Identity(area, SettingsRow("", "", "the test")))
    number = publisher.generation
    pipe.send("at work")
    while True:
        number += 1
        publisher.replace({(Kind.MODEL, f"m{each}"): b"%08d" % number * 100 for each in range(rows)})
        publisher.control.beat(time.monotonic_ns(), time.monotonic_ns(), synced=True)
        it.run(stop)


@pytest.mark.fault(2)
def test_02_watcher_killed_while_writing_leaves_a_whole_checkpoint(area: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    beside = path.with_name("checkpoint.new")
    newest = 0
    for kill in range(30):
        with Forks() as forks:
            forks.start(write_checkpoints, area, path).pipe.recv()
            if kill == 0:
                wait_for(path.exists)
            # A moment that differs each time: after so many bytes of the file beside.
            wait_for(lambda: beside.exists() and beside.stat().st_size >= kill * 5_000)  # noqa: B023 - used at once
        saved = parse(path.read_bytes())
        values = set(saved.rows.values())
        assert len(values) == 1, "rows of two generations"
        number = int(values.pop()[:8])
        assert number >= newest
        newest = number
    assert {each.name for each in tmp_path.iterdir()} <= {"checkpoint", "checkpoint.new"}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.long
@pytest.mark.fault(2)
def test_02_watchers_killed_at_random_moments_leave_a_whole_checkpoint(area: str, tmp_path: Path) -> None:
    """A moment within the write, the sync, the rename, or whatever takes its place: a copy takes a millisecond."""
    path = tmp_path / "checkpoint"
    when = random.Random(SEED)
    newest = 0
    for kill in range(1_000):
        with Forks() as forks:
            forks.start(write_checkpoints, area, path, 5_000).pipe.recv()
            if kill == 0:
                wait_for(path.exists)
            time.sleep(when.uniform(0.0, WRITES_SECONDS))
        values = set(parse(path.read_bytes()).rows.values())
        assert len(values) == 1, "rows of two generations"
        number = int(values.pop()[:8])
        assert number >= newest
        newest = number
    assert newest > 100, "the watchers did write"
