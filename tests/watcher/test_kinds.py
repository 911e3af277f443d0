"""A further watched kind is one `WatchedKind`: its objects flow from a folder and from the API server into rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes import client, config

from shmroute.kube import Connection
from shmroute.resources.registry import APPMODELS
from shmroute.resources.table import watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.rows import InvalidRow, Kind
from shmroute.shm.reader import RowReader
from shmroute.sources.base import Source
from shmroute.sources.folder.source import FolderSource
from shmroute.sources.kubernetes.source import KubernetesSource
from tests.apiserver import ApiServer
from tests.watcher.running import Running, reading, wait_for

(WIDGETS,) = watch_tables(
    {"widgets": TableDefinition(resource="widgets.v1.example.com", kind="Widget", scope="Cluster")},
    several_namespaces=False,
)
DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Cluster",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


class Place:
    """A place in which a test keeps its widgets: a folder or the API server."""

    sources: list[Source]

    def put(self, manifest: dict[str, Any]) -> None:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError


class FolderPlace(Place):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sources = [FolderSource(path, kinds=(APPMODELS, WIDGETS))]

    def put(self, manifest: dict[str, Any]) -> None:
        (self.path / f"{manifest['metadata']['name']}.json").write_text(json.dumps(manifest))

    def delete(self, name: str) -> None:
        (self.path / f"{name}.json").unlink()


class ServerPlace(Place):
    def __init__(self, connection: Connection, api: client.ApiClient) -> None:
        client.ApiextensionsV1Api(api).create_custom_resource_definition(DEFINITION)  # type: ignore[arg-type]
        self.objects = client.CustomObjectsApi(api)
        wait_for(self._served)
        self.sources = [KubernetesSource(connection, kind, namespace=None) for kind in (APPMODELS, WIDGETS)]

    def _served(self) -> bool:
        """Return whether the server serves the new definition, which it does a moment after accepting it."""
        try:
            self.objects.list_cluster_custom_object("example.com", "v1", "widgets")
        except client.ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def put(self, manifest: dict[str, Any]) -> None:
        self.objects.patch_cluster_custom_object(
            *("example.com", "v1", "widgets", manifest["metadata"]["name"], manifest),
            field_manager="test",
            force=True,
            _content_type="application/apply-patch+yaml",
        )

    def delete(self, name: str) -> None:
        self.objects.delete_cluster_custom_object("example.com", "v1", "widgets", name)


@pytest.fixture(params=["folder", "API server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        yield FolderPlace(tmp_path)
        return
    kubeconfig = tmp_path / "kubeconfig"
    with ApiServer() as server, contextlib.ExitStack() as stack:
        server.kubeconfig(kubeconfig)
        connection = stack.enter_context(contextlib.closing(Connection(str(kubeconfig))))
        api = stack.enter_context(config.new_client_from_config(str(kubeconfig)))  # type: ignore[no-untyped-call]
        yield ServerPlace(connection, api)


def test_objects_of_a_third_kind_become_rows(place: Place, area: str) -> None:
    place.put(widget("first", size=3))
    it = Running(area, *place.sources)
    it.thread.start()
    try:
        with reading(area):
            rows = RowReader(area)

            def spec_of(name: str) -> Any:
                rows.refresh()
                row = rows.get(WIDGETS.feeds, name)
                return None if row is None else msgspec.msgpack.decode(row)["spec"]

            wait_for(lambda: spec_of("first") == {"size": 3})
            place.put(widget("second", size=1))
            wait_for(lambda: spec_of("second") == {"size": 1})
            place.put(widget("second", size=2**53, tags=["a", None]))
            wait_for(lambda: spec_of("second") == {"size": 2**53, "tags": ["a", None]})
            place.delete("second")
            wait_for(lambda: spec_of("second") is None)
            assert spec_of("first") == {"size": 3}
    finally:
        it.stop()


def test_an_unreadable_object_of_a_third_kind_is_listed_and_stays(area: str, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    place.put(widget("first", size=3))
    it = Running(area, *place.sources)
    it.thread.start()
    try:
        with reading(area):
            rows = RowReader(area)
            good = rows.get(WIDGETS.feeds, "first")
            bad = widget("first", size=4)
            bad["metadata"]["creationTimestamp"] = 5
            place.put(bad)

            def reason() -> str:
                rows.refresh()
                row = rows.get(Kind.INVALID, "widgets: first")
                return msgspec.msgpack.decode(row, type=InvalidRow).reason if row else ""

            wait_for(reason)
            assert "creationTimestamp" in reason()
            assert rows.get(WIDGETS.feeds, "first") == good
    finally:
        it.stop()
