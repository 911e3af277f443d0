"""The dashboard and the alert rules name only metrics that a watcher has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import inf
from typing import Any, ClassVar

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shmroute.resources.registry import APPMODELS
from shmroute.rows import SettingsRow
from shmroute.shm.register import Register
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import AuditResult, Replaced, SourceState
from shmroute.sources.kubernetes.timing import Timing
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.metrics import WatcherCollector
from shmroute.watcher.status import MetadataStatus
from tests.deploy.rendering import DEPLOY
from tests.leftovers import new_area, remove_area

MONITORING = DEPLOY / "monitoring"
_NAME = re.compile(r"\bshmroute_[a-z0-9_]+")


def names() -> set[str]:
    """Return the names of all samples of a watcher that uses every feature."""
    area = new_area()
    registry = CollectorRegistry()
    registry.register(WatcherCollector(_watcher(area)))
    try:
        with Publisher(area):
            register = Register(area)
            register.note(1)
            text = generate_latest(registry).decode()
            register.leave()
    finally:
        remove_area(area)
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def _watcher(area: str = "unused", steady_seconds: float = 0.0) -> WatcherLoop:
    """Return a watcher that has never run, with a status in which every metric has a sample."""
    from msgspec.structs import replace

    class Source:
        kinds = (APPMODELS,)

        restarts: ClassVar = {"gone": 1}

        def run(self, *_: object) -> None: ...

        def threads(self) -> tuple[()]:
            return ()

        def audit_now(self) -> None: ...

    watcher = WatcherLoop(area, [Source()], settings=SettingsRow("", "", "", steady_seconds))  # type: ignore[list-item]
    for event in (
        SourceState("appmodels", "watching", 1),
        AuditResult("appmodels", 1, 0),
        Replaced("appmodels", ()),
    ):
        watcher._apply(event)
    watcher.status = replace(
        watcher._status("writing"), area=area, metadata=MetadataStatus("redis://localhost", 1, 1, 1, 1, 1)
    )
    return watcher


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def used(expressions: Iterator[str]) -> set[str]:
    return {name for expression in expressions for name in _NAME.findall(expression)}


def test_metrics_parse_and_their_names_end_with_the_unit() -> None:
    found = names()
    assert {"shmroute_build_info", "shmroute_generation", "shmroute_snapshot_age_seconds"} <= found
    assert "shmroute_watch_restarts_total" in found
    for name in found:
        assert not name.endswith(("_ms", "_kb", "_mib")), name


def test_no_label_names_a_model() -> None:
    registry = CollectorRegistry()
    registry.register(WatcherCollector(_watcher()))
    labels = {label for family in registry.collect() for sample in family.samples for label in sample.labels}
    assert labels <= {"resource", "reason", "version"}


@pytest.mark.parametrize(("probe_seconds", "threshold"), [(5.0, 70.0), (30.0, 120.0), (300.0, 660.0), (0.0, inf)])
def test_the_alert_on_old_routes_follows_the_probe_period(probe_seconds: float, threshold: float) -> None:
    [rule] = [rule for rule in rules() if rule["alert"] == "ShmrouteRoutesStale"]
    steady = Timing(probe_seconds=probe_seconds).frozen_within if probe_seconds else 0.0
    registry = CollectorRegistry()
    registry.register(WatcherCollector(_watcher(steady_seconds=steady)))
    comparison, _, condition = rule["expr"].partition(" and ")
    age, _, limit = comparison.partition(" > ")
    healthy, _, more = limit.partition(" + ")

    assert (age, condition) == ("shmroute_snapshot_age_seconds", "shmroute_writing == 1")
    assert (registry.get_sample_value(healthy) or 0.0) + float(more) == threshold


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_dashboards_and_alerts_name_only_existing_metrics(file: str) -> None:
    text = (MONITORING / file).read_text()
    if file == "alerts.yaml":
        expressions = used(rule["expr"] for rule in rules())
    else:
        panels = json.loads(text)["panels"]
        expressions = used(target["expr"] for panel in panels for target in panel["targets"])
    assert expressions
    assert expressions <= names()
