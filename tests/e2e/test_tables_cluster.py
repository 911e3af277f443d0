"""Declared tables of the test API server, and of a real one where SHMROUTE_TEST_KUBECONFIG names it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes import client, config

from shmroute import NotReady, Reader, Table
from shmroute.shm.control import ControlReader
from shmroute.watcher import Watcher, WatchOptions
from shmroute.watcher.status import Status, decode_status
from tests.cluster import Cluster
from tests.e2e.running import WAIT_SECONDS, shmroute, until, watcher
from tests.watcher.test_kinds import DEFINITION
from tests.watcher.test_tables_live import Noting

TERMINATING_SECONDS = 3.0
"""Time between the deletion of a definition's objects and its own end, in the test API server."""

SELECTED = {"app": "gateway"}
ONLY_V1 = {"v1": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}


@pytest.fixture
def core(cluster: Cluster) -> Iterator[client.CoreV1Api]:
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        yield client.CoreV1Api(api)


def config_map(name: str, labels: dict[str, str | None] | None = None, **data: str) -> Any:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


def reason(watcher: Watcher, table: str) -> str:
    return "".join(state.reason for state in watcher.status.sources if state.resource == table)


def test_config_maps_are_followed_by_selector(
    cluster: Cluster, core: client.CoreV1Api, area: str, tmp_path: Path
) -> None:
    space = cluster.namespace
    core.create_namespaced_config_map(space, config_map("dark", {**SELECTED}, on="1"))
    core.create_namespaced_config_map(space, config_map("other", on="1"))
    tables = tmp_path / "tables.yaml"
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
        until(lambda: "by fieldSelector 'data.on=1'" in reason(watcher, "wrong"), "reason of a field")
        # Each call is waited for: of changes that a handler has not been called for yet, it gets the newest only.
        until(lambda: len(noting.calls) == 1, "call of the handler")

        core.patch_namespaced_config_map("dark", space, {"data": {"on": "2"}})
        until(lambda: flags["dark"] == {"on": "2"} == dark["dark"], "change")
        until(lambda: len(noting.calls) == 2, "call of the handler")
        core.patch_namespaced_config_map("other", space, config_map("other", {**SELECTED}))
        until(lambda: "other" in flags, "label given")
        until(lambda: len(noting.calls) == 3, "call of the handler")
        core.patch_namespaced_config_map("dark", space, config_map("dark", {"app": None}))
        until(lambda: list(flags) == ["other"], "label taken away")
        until(lambda: len(noting.calls) == 4, "call of the handler")
        assert dark["dark"] == {"on": "2"}, "the other table selects by name"
        core.delete_namespaced_config_map("other", space)
        until(lambda: not flags, "deletion")
        until(lambda: len(noting.calls) == 5, "call of the handler")
        assert [call[0] for call in noting.calls] == ["add", "update", "add", "delete", "delete"]

        def lists() -> dict[str, int]:
            return {state.resource: state.lists for state in watcher.status.sources}

        until(lambda: lists()["dark"] == 1, "the count of the first list, which is told once a second")
        before = lists()
        tables.write_text(
            "tables:\n  dark: {resource: configmaps.v1, fieldSelector: metadata.name=dark, value: .data}\n"
        )
        until(lambda: watcher.status.tables == ("dark",), "the tables file")
        core.patch_namespaced_config_map("dark", space, {"data": {"on": "3"}})
        until(lambda: dark["dark"] == {"on": "3"}, "change of the table that stayed")
        now = lists()
        assert now == {name: count for name, count in before.items() if name in now}, "nothing was listed again"
    with contextlib.suppress(client.ApiException):
        core.delete_namespaced_config_map("dark", space)


class Widget(msgspec.Struct):
    code: str
    size: int = 0
    tags: list[str] = []


class Widgets:
    """Cluster-scoped custom resources of a group that only this run has: a real cluster may hold others."""

    def __init__(self, api: client.ApiClient, folder: Path, area: str) -> None:
        self.group = f"t{secrets.token_hex(4)}.example.com"
        self.name = f"widgets.{self.group}"
        self.file = folder / "tables.yaml"
        self.area = area
        self._definitions = client.ApiextensionsV1Api(api)
        self._objects = client.CustomObjectsApi(api)

    def define(self, scope: str = "Cluster", versions: Mapping[str, Any] = ONLY_V1) -> None:
        """Install the definition: served version -> its schema; the first one is stored."""
        names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
        served = [
            {"name": name, "served": True, "storage": not at, "schema": {"openAPIV3Schema": schema}}
            for at, (name, schema) in enumerate(versions.items())
        ]
        spec = {"group": self.group, "scope": scope, "names": names, "versions": served}
        definition = {**DEFINITION, "metadata": {"name": self.name}, "spec": spec}

        self._definitions.create_custom_resource_definition(definition)  # type: ignore[arg-type]

    def undefine(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Delete the definition, and wait until it is gone, with its objects. Calls `meanwhile` again and again."""
        self._definitions.delete_custom_resource_definition(self.name)

        def gone() -> bool:
            meanwhile()
            return not self._defined()

        until(gone, "end of the definition")

    def _defined(self) -> bool:
        try:
            self._definitions.read_custom_resource_definition(self.name)
        except client.ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def create(self, name: str, version: str = "v1", namespace: str = "", **spec: Any) -> None:
        manifest = {"apiVersion": f"{self.group}/{version}", "kind": "Widget", "metadata": {"name": name}, "spec": spec}

        def created() -> bool:
            try:
                if namespace:
                    self._objects.create_namespaced_custom_object(self.group, version, namespace, "widgets", manifest)
                else:
                    self._objects.create_cluster_custom_object(self.group, version, "widgets", manifest)
            except client.ApiException as error:
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS):
                    raise
                return False  # a new definition is served a moment later
            return True

        until(created, "definition that is served")

    def delete(self, name: str, version: str = "v1") -> None:
        self._objects.delete_cluster_custom_object(self.group, version, "widgets", name)

    @contextlib.contextmanager
    def watched(self, cluster: Cluster, *versions: str, declared: str = "") -> Iterator[list[Table[Widget]]]:
        """Yield a watcher with one table for each version, named after it; `declared` are more fields of each."""
        entry = "{resource: widgets.%s.%s, key: .spec.code, value: .spec, index: {tag: '.spec.tags[*]'}, %s}"
        entries = {version: entry % (version, self.group, declared) for version in versions}
        self.file.write_text("tables:\n" + "".join(f"  {name}: {what}\n" for name, what in entries.items()))
        with watcher(cluster, self.area, "--tables", str(self.file)), Reader(self.area) as reader:
            reader.wait_ready(60)
            yield [reader.table(version, Widget) for version in versions]

    def status(self) -> Status | None:
        payload = ControlReader(self.area).status()
        return decode_status(payload) if payload else None

    def reason(self) -> str:
        """Return what the tables' sources wait for, as the watcher says."""
        status = self.status()
        return "".join(state.reason for state in status.sources if state.resource == "v1") if status else ""


def schema_of(spec: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": spec}}}


def becomes(table: Table[Widget], rows: dict[str, Widget]) -> None:
    """Wait for exactly these rows; a missing definition is looked for every 10 to 20 s."""
    deadline = time.monotonic() + 2 * WAIT_SECONDS
    while dict(table) != rows:
        assert time.monotonic() < deadline, dict(table)
        time.sleep(0.05)


@pytest.fixture
def widgets(cluster: Cluster, tmp_path: Path, area: str) -> Iterator[Widgets]:
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        it = Widgets(api, tmp_path, area)
        try:
            yield it
        finally:
            with contextlib.suppress(client.ApiException):  # there is none
                it.undefine()


def test_a_definition_installed_late_makes_only_its_table_wait(cluster: Cluster, widgets: Widgets) -> None:
    with widgets.watched(cluster, "v1") as (table,):
        assert not table.ready
        with pytest.raises(NotReady):
            table["first"]
        until(lambda: "definition installed?" in widgets.reason(), "reason of the table")
        until(lambda: (now := widgets.status()) and now.age < 60, "age of routes, which do not wait for the table")
        widgets.define()
        widgets.create("one", code="first", size=3)
        table.wait_ready(60)
        until(lambda: table.get("first") == Widget("first", 3), "row")
        widgets.create("two", code="second", tags=["x"])
        until(lambda: table.keys_by("tag", "x") == ("second",), "index")
        widgets.delete("one")
        until(lambda: "first" not in table, "deletion")


def test_a_restarted_watcher_keeps_the_last_rows_until_its_own_list(cluster: Cluster, widgets: Widgets) -> None:
    widgets.define()
    widgets.create("one", code="first", size=3)
    with widgets.watched(cluster, "v1") as (table,):
        table.wait_ready(60)
        assert table["first"].size == 3
        until(lambda: table.age < 60, "age")
    widgets.undefine()
    with widgets.watched(cluster, "v1") as (table,):
        until(lambda: "definition installed?" in widgets.reason(), "status of the new watcher")
        assert table.age < 60, "since the watcher before it was in step"
        assert table["first"].size == 3, "what was known is served while the resource is away"
        widgets.define()
        widgets.create("two", code="second")
        becomes(table, {"second": Widget("second")})


@pytest.mark.parametrize("scope", ["Cluster", "Namespaced"])
def test_a_definition_that_is_deleted_leaves_the_last_rows_until_it_is_back(
    cluster: Cluster, widgets: Widgets, scope: str
) -> None:
    """An API server deletes every object, one by one, before the definition itself goes. It may return otherwise."""
    widgets.define()
    widgets.create("one", code="first", size=3)
    widgets.create("two", code="second")
    with widgets.watched(cluster, "v1") as (table,):
        table.wait_ready(60)
        until(lambda: len(table) == 2, "rows")
        widgets.delete("two")
        until(lambda: "second" not in table, "deletion by a user")

        if cluster.server is not None:
            cluster.server.definitions.terminate_after = TERMINATING_SECONDS
        reasons: set[str] = set()
        rows: list[dict[str, Widget]] = []

        def look() -> None:
            rows.append(dict(table))
            reasons.add(widgets.reason())

        widgets.undefine(look)
        assert all(each == {"first": Widget("first", 3)} for each in rows), "the deletions of the server are no user's"
        if cluster.server is not None:  # a real one may be too fast for the status, which is written once a second
            assert any("is being deleted; the last state is served" in each for each in reasons), reasons
        until(lambda: "the last state is served" in widgets.reason(), "reason")
        aged = table.age
        until(lambda: table.age > aged + 1.0, "growing age")
        (shown,) = json.loads(shmroute("get", "tables", "v1", "-o", "json", "--area", widgets.area).stdout)["items"]
        assert shown["age"] > aged + 1.0
        assert dict(table) == {"first": Widget("first", 3)}, "the last known good"

        namespace = cluster.namespace if scope == "Namespaced" else ""
        widgets.define(scope=scope)
        widgets.create("three", namespace=namespace, code="third")
        becomes(table, {"third": Widget("third")})
        until(lambda: table.age < aged + 1.0, "age of a table in step")
        widgets.create("four", namespace=namespace, code="fourth")
        until(lambda: "fourth" in table, "change under the new definition")


def test_a_deleted_definition_leaves_the_rows_of_a_declared_scope(cluster: Cluster, widgets: Widgets) -> None:
    with widgets.watched(cluster, "v1", declared="scope: Cluster, kind: Widget") as (table,):
        until(lambda: widgets.reason(), "reason of the table")
        widgets.define()
        widgets.create("one", code="first")
        widgets.create("two", code="second")
        table.wait_ready(60)
        becomes(table, {"first": Widget("first"), "second": Widget("second")})
        widgets.delete("two")
        until(lambda: "second" not in table, "deletion by a user")

        widgets.undefine()
        until(lambda: "the last state is served" in widgets.reason(), "reason")
        assert dict(table) == {"first": Widget("first")}, "the last known good"


def test_an_object_written_in_any_served_version_is_seen(cluster: Cluster, widgets: Widgets) -> None:
    code, size = {"code": {"type": "string"}}, {"size": {"type": "integer"}}
    widgets.define(versions={"v1": schema_of(code), "v1beta1": schema_of({**code, **size})})
    widgets.create("one", code="first")
    widgets.create("two", "v1beta1", code="second", size=3)
    with widgets.watched(cluster, "v1", "v1beta1") as tables:
        for table in tables:
            table.wait_ready(60)
            assert dict(table) == {"first": Widget("first"), "second": Widget("second")}, "v1 stores no size"
        widgets.create("three", "v1beta1", code="third")
        widgets.create("four", code="fourth")
        for table in tables:
            until(lambda: {"third", "fourth"} <= set(table), "rows written in either version")  # noqa: B023
        widgets.delete("two")
        widgets.delete("one", "v1beta1")
        for table in tables:
            until(lambda: set(table) == {"third", "fourth"}, "deletions in either version")  # noqa: B023
