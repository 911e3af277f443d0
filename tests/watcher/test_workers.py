"""The workers' register as commands, metrics and the status page show it."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shmroute.native import native
from shmroute.shm import posix
from shmroute.shm.names import register_name
from shmroute.shm.register import Register
from shmroute.sources.base import Replaced
from shmroute.watcher.metrics import WatcherCollector
from shmroute.watcher.views import Views
from shmroute.watcher.workers import workers
from tests.cli.running import Cli
from tests.watcher.running import appmodel, running, wait_for


@pytest.mark.fault(39)
def test_worker_that_cannot_follow_is_visible_everywhere(
    area: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(monkeypatch, capsys)
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        it.source.in_step()
        wait_for(lambda: it.watcher.status.models == 1)
        register = Register(area)
        register.note(1)
        assert workers(area)["count"] == 1
        assert workers(area)["behind"] == 0
        register.note(1, stuck_at=2, reason="permission denied")
        found = workers(area)
        assert (found["behind"], found["oldest"]) == (1, 1)
        registry = CollectorRegistry()
        registry.register(WatcherCollector(it.watcher))
        metrics = generate_latest(registry).decode()
        assert "shmroute_workers_behind 1.0" in metrics
        assert "1 behind" in cli("status", "--area", area).out
        assert "permission denied" in cli("get", "workers", "--area", area).out
        wide = cli("get", "workers", "--area", area, "-o", "wide").out
        assert ("native" if native is not None else "plain") in wide.splitlines()[1].split()
        assert json.loads(cli("get", "workers", "--area", area, "-o", "json").out)["items"][0]["state"] == "behind"
        facts = Views(area).status()
        assert facts["health"]["state"] == "old"
        assert "permission denied" in facts["health"]["text"]
        register.leave()
        assert workers(area)["count"] == 0


def test_unreadable_register_makes_workers_unknown_not_zero(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", ()))
        wait_for(lambda: it.watcher.status.synced)
        posix.unlink(register_name(area))
        found = workers(area)
        assert found["known"] is False
        assert found["count"] is None
        registry = CollectorRegistry()
        registry.register(WatcherCollector(it.watcher))
        assert b"shmroute_workers" not in generate_latest(registry)
