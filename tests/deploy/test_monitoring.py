"""The dashboard and the alert rules name only metrics that a watcher has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shmroute.resources.registry import APPMODELS
from shmroute.rows import SettingsRow
from shmroute.shm.register import Register
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import AuditResult, Replaced, SourceState
from shmroute.sources.kubernetes.timing import SourceStats
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.metrics import WatcherCollector
from shmroute.watcher.status import MetadataStatus
from tests.deploy.rendering import DEPLOY
from tests.leftovers import new_area, remove_area

MONITORING = DEPLOY / "monitoring"
_NAME = re.compile(r"\bshmroute_[a-z0-9_]+")


def names() -> set[str]:
    """Every sample name a watcher with everything switched on exposes."""
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


def _watcher(area: str = "unused") -> WatcherLoop:
    """A watcher that has never run, with a status in which every metric has a sample."""
    from msgspec.structs import replace

    class Source:
        kinds = (APPMODELS,)

        stats = SourceStats(restarts={"gone": 1})

        def run(self, *_: object) -> None: ...

    watcher = WatcherLoop(area, [Source()], settings=SettingsRow("", "", ""))  # type: ignore[list-item]
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


def used(expressions: Iterator[str]) -> set[str]:
    return {name for expression in expressions for name in _NAME.findall(expression)}


def test_the_scrape_passes_the_parser_and_names_carry_their_unit() -> None:
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


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_only_metrics_that_exist_are_named(file: str) -> None:
    text = (MONITORING / file).read_text()
    if file == "alerts.yaml":
        rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        expressions = used(rule["expr"] for rule in rules)
    else:
        panels = json.loads(text)["panels"]
        expressions = used(target["expr"] for panel in panels for target in panel["targets"])
    assert expressions
    assert expressions <= names()
