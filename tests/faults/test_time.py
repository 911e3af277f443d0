"""Row 33: the wall clock jumps. Ages, waits and heartbeats go by the monotonic clock."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

import shmroute
from shmroute.cli.audit import _is_newer
from shmroute.rows import Kind, RowKey
from shmroute.shm.control import ControlReader
from shmroute.sources.base import Changed, Replaced
from shmroute.watcher.checkpoint import Checkpoint, Identity
from shmroute.watcher.status import AuditStatus
from tests.watcher.running import SETTINGS, appmodel, reading, running, wait_for
from tests.watcher.test_checkpoint import sealed

A_YEAR_SECONDS = 365 * 86_400.0

SHOWN_OR_KEPT = {
    "watcher/explain.py": "how long metadata has been in its state, shown",
    "cli/events.py": "the time span of events to show",
    "cli/explain.py": "how long ago a model was served last, shown",
    "cli/follow.py": "the time of a change, shown",
    "cli/row_views.py": "how long metadata has been in its state, shown",
    "kube/connection.py": "a date in the header Retry-After",
    "metadata/loader.py": "since when metadata is in its state, shown",
    "sources/folder/reader.py": "when an AppModel was first seen, which orders claims and is kept",
    "testing/answers.py": "since when metadata is in its state, shown",
    "watcher/checkpoint.py": "a file outlives the monotonic clock",
    "watcher/events.py": "when an event happened, kept and shown",
    "watcher/views.py": "the time span of events to show",
    "watcher/loop.py": "when the watcher started and wrote its status: shown; and the checkpoint's age",
    "watcher/metadata_feed.py": "since when metadata is in its state, shown",
    "watcher/source_states.py": "when a resource was audited, shown",
}
"""Modules that may read the wall clock, and for which purpose."""


@pytest.mark.fault(33)
@pytest.mark.parametrize("jump", [A_YEAR_SECONDS, -A_YEAR_SECONDS], ids=["ahead", "back"])
def test_33_the_wall_clock_jumps_and_ages_stay_as_they_are(
    area: str, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        it.source.in_step()
        with reading(area) as reader:
            wait_for(lambda: reader.age < 60.0)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + jump)
            before = it.watcher.turned_ns
            wait_for(lambda: it.watcher.turned_ns > before)

            assert reader.age < 60.0
            assert reader.resolve("one", max_age=60.0).app == "one"
            assert time.monotonic_ns() - ControlReader(area).heartbeat_ns < 60e9
            it.source.put(Changed("appmodels", appmodel("one", version="v2")))
            wait_for(lambda: reader.resolve("one").app_version == "v2")


def test_33_audits_are_distinguished_even_if_the_clock_is_set_back() -> None:
    before = AuditStatus("appmodels", 1, 0, newest=1_000.0)
    assert _is_newer(AuditStatus("appmodels", 2, 0, newest=900.0), before)
    assert not _is_newer(before, before)


@pytest.mark.parametrize("age_seconds", [-A_YEAR_SECONDS, 0.0, 100.0, A_YEAR_SECONDS * 40])
def test_33_checkpoint_never_looks_younger_than_it_is(area: str, tmp_path: Path, age_seconds: float) -> None:
    path = tmp_path / "checkpoint"
    rows: list[tuple[int, str, bytes]] = [(*_ROW, b"x")]
    path.write_bytes(sealed(time.time() - age_seconds, Identity(area, SETTINGS), rows))
    with running(area, checkpoint=Checkpoint(path, Identity(area, SETTINGS))), reading(area) as reader:
        assert reader.generation == 1
        assert not reader.synced
        assert age_seconds <= reader.age < max(age_seconds, 0.0) + 3600.0  # older than this machine has been up, too


_ROW: RowKey = (Kind.CONFLICT, "east/model")


@pytest.mark.fault(33)
def test_33_wall_clock_is_used_only_for_what_is_shown_or_stored() -> None:
    root = Path(shmroute.__file__).parent
    asking = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(map(_asks, ast.walk(ast.parse(path.read_text()))))
    }
    assert asking == set(SHOWN_OR_KEPT)


def _asks(node: ast.AST) -> bool:
    """Return whether the call reads the wall clock, as `time.time` and `datetime.now` do."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return False
    clocks = {"time": {"time", "time_ns"}, "datetime": {"now", "utcnow", "today"}, "date": {"today"}}
    return node.attr in clocks.get(node.value.id, ())
