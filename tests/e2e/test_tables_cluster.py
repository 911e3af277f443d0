"""Declared tables of the test API server, and of a real one where SHMROUTE_TEST_KUBECONFIG names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config

from shmroute import Reader
from shmroute.watcher import Watcher, WatchOptions
from tests.cluster import Cluster
from tests.e2e.running import until
from tests.watcher.test_tables_live import Noting

SELECTED = {"app": "gateway"}


@pytest.fixture
def core(cluster: Cluster) -> Iterator[client.CoreV1Api]:
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        yield client.CoreV1Api(api)


def config_map(name: str, labels: dict[str, str | None] | None = None, **data: str) -> Any:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


def reason(watcher: Watcher, table: str) -> str:
    return "".join(state.reason for state in watcher.status.sources if state.resource == table)


def test_config_maps_by_selector_come_change_and_go(cluster: Cluster, core: client.CoreV1Api, area: str) -> None:
    space = cluster.namespace
    core.create_namespaced_config_map(space, config_map("dark", {**SELECTED}, on="1"))
    core.create_namespaced_config_map(space, config_map("other", on="1"))
    tables = cluster.kubeconfig.parent / "tables.yaml"
    tables.write_text(
        """\
tables:
  flags: {resource: configmaps.v1, selector: app=gateway, value: .data}
  dark: {resource: configmaps.v1, fieldSelector: metadata.name=dark, value: .data}
  wrong: {resource: configmaps.v1, fieldSelector: data.on=1}
"""
    )
    options = WatchOptions(area=area, kubeconfig=str(cluster.kubeconfig), namespaces=(space,), tables=str(tables))
    noting = Noting()
    with Watcher(options, table_handlers={"flags": noting}) as watcher, Reader(area) as reader:
        reader.wait_ready(60)
        flags, dark = reader.table("flags"), reader.table("dark")
        flags.wait_ready(60)
        dark.wait_ready(60)
        assert dict(flags) == dict(dark) == {"dark": {"on": "1"}}
        until(lambda: "selectableFields" in reason(watcher, "wrong"), "reason of a field that cannot be selected")

        core.patch_namespaced_config_map("dark", space, {"data": {"on": "2"}})
        until(lambda: flags["dark"] == {"on": "2"} == dark["dark"], "change")
        core.patch_namespaced_config_map("other", space, config_map("other", {**SELECTED}))
        until(lambda: "other" in flags, "label given")
        core.patch_namespaced_config_map("dark", space, config_map("dark", {"app": None}))
        until(lambda: list(flags) == ["other"], "label taken away")
        assert dark["dark"] == {"on": "2"}, "the other table selects by name"
        core.delete_namespaced_config_map("other", space)
        until(lambda: not flags, "deletion")
        until(lambda: len(noting.calls) >= 5, "calls of the handler")
        assert [call[0] for call in noting.calls] == ["add", "update", "add", "delete", "delete"]

        lists = {state.resource: state.lists for state in watcher.status.sources}
        tables.write_text(
            "tables:\n  dark: {resource: configmaps.v1, fieldSelector: metadata.name=dark, value: .data}\n"
        )
        until(lambda: watcher.status.tables == ("dark",), "the tables file")
        core.patch_namespaced_config_map("dark", space, {"data": {"on": "3"}})
        until(lambda: dark["dark"] == {"on": "3"}, "change of the table that stayed")
        now = {state.resource: state.lists for state in watcher.status.sources}
        assert now == {name: count for name, count in lists.items() if name in now}, "nothing was listed again"
    with contextlib.suppress(client.ApiException):
        core.delete_namespaced_config_map("dark", space)
