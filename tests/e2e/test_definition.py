"""The definition of AppModels is deleted under a running watcher: routes stay, as rows of declared tables do.

On a real cluster these tests take away what other processes and users may need: they run there only one at a time, and
only where nobody else has an AppModel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from kubernetes import client, config

from shmroute import NotReady, Reader
from shmroute.kube import Connection, install_crd
from tests.cluster import Cluster
from tests.e2e.running import WAIT_SECONDS, appmodel, ready, shmroute, until, watcher, workers
from tests.leftovers import remove_area
from tests.ports import free_port

pytestmark = pytest.mark.fault(41)

TERMINATING_SECONDS = 1.5
"""Time between the deletion of the definition's objects and its own end, in the test API server."""


class Definition:
    """The AppModels' definition, to delete and install."""

    def __init__(self, cluster: Cluster, api: client.ApiClient) -> None:
        self._cluster = cluster
        self._api = client.ApiextensionsV1Api(api)

    def delete(self, *, wait: bool = True) -> None:
        self._api.delete_custom_resource_definition("appmodels.iidp.com")
        if wait:
            until(lambda: not self.exists(), "end of the definition")

    def exists(self) -> bool:
        found = self._api.list_custom_resource_definition(field_selector="metadata.name=appmodels.iidp.com")
        return bool(found.items)

    def install(self) -> None:
        connection = Connection(str(self._cluster.kubeconfig))
        try:
            install_crd(connection)
        finally:
            connection.close()


@pytest.fixture
def definition(cluster: Cluster, tmp_path: Path) -> Iterator[Definition]:
    if cluster.server is None:
        if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
            pytest.skip("other processes use the definition: run it without -n")
        found = cluster.api.list_cluster_custom_object("iidp.com", "v1", "appmodels", limit=1)
        if cast("dict[str, list[object]]", found)["items"]:
            pytest.skip("the cluster has AppModels: they would go with their definition")
    else:
        cluster.server.definitions.terminate_after = TERMINATING_SECONDS
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        it = Definition(cluster, api)
        yield it
        if not it.exists():
            it.install()


def apply(cluster: Cluster, name: str) -> None:
    cluster.apply(appmodel(name, name, "v1", {f"model_{name}": "v-1"}))


def test_routes_stay_while_their_definition_is_deleted_until_a_list_decides(
    cluster: Cluster, definition: Definition, area: str
) -> None:
    for name in ("one", "two", "three"):
        apply(cluster, name)
    port = free_port()
    with (
        watcher(cluster, area, "--listen", f"127.0.0.1:{port}"),
        workers(area, 1, "model_one", "model_two") as (worker,),
    ):
        reader = ready(area)
        until(lambda: len(reader.models()) == 3, "models")
        cluster.delete("AppModel", "three")
        until(lambda: "model_three" not in reader.models(), "deletion by a user")

        definition.delete()
        until(lambda: "the last state is served" in shmroute("status", "--area", area, check=False).stdout, "status")
        assert set(reader.models()) == {"model_one", "model_two"}
        assert worker.ask()["errors"] == []
        assert None not in worker.ask()["seen"].values()
        aged = reader.age
        until(lambda: reader.age > aged + 1.0, "growing age")
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'shmroute_source_missing{resource="appmodels"} 1.0' in metrics
        assert 'shmroute_source_missing{resource="endpointslices"} 0.0' in metrics
        assert "the last state is served" in httpx.get(f"http://127.0.0.1:{port}/readyz").text
        events = json.loads(shmroute("events", "--area", area, "-o", "json").stdout)["items"]
        assert any("the last state is served" in each["after"] for each in events)

        definition.install()
        until(lambda: definition.exists(), "definition")
        apply(cluster, "four")
        until(lambda: set(reader.models()) == {"model_four"}, "list that decides")
        until(lambda: "appmodels: watching, in step" in shmroute("status", "--area", area).stdout, "step")
        apply(cluster, "five")
        until(lambda: "model_five" in reader.models(), "change under the new definition")


def test_a_definition_back_within_a_second_leaves_no_old_route(
    cluster: Cluster, definition: Definition, area: str
) -> None:
    apply(cluster, "one")
    with watcher(cluster, area):
        reader = ready(area)
        if cluster.server is not None:
            cluster.server.definitions.terminate_after = 0.05
        definition.delete()
        definition.install()
        apply(cluster, "two")
        until(lambda: set(reader.models()) == {"model_two"}, "new list")


@pytest.mark.parametrize("saved", [True, False], ids=["checkpoint", "no checkpoint"])
def test_a_watcher_that_starts_without_the_definition_serves_what_was_saved(
    cluster: Cluster, definition: Definition, area: str, tmp_path: Path, saved: bool
) -> None:
    apply(cluster, "one")
    options = ("--checkpoint", str(tmp_path / "checkpoint"))
    with watcher(cluster, area, *options) as process:
        ready(area)
        until(lambda: (tmp_path / "checkpoint").exists(), "checkpoint")
        process.terminate()
        process.wait()
    remove_area(area)
    definition.delete()
    with watcher(cluster, area, *(options if saved else ())):
        reader = Reader(area)
        until(lambda: "appmodels.iidp.com" in shmroute("status", "--area", area, check=False).stdout, "reason")
        if saved:
            assert set(reader.models()) == {"model_one"}
        else:
            with pytest.raises(NotReady):
                reader.models()
        definition.install()
        apply(cluster, "two")
        if not saved:
            reader.wait_ready(WAIT_SECONDS)
        until(lambda: set(reader.models()) == {"model_two"}, "list that decides")


def test_a_watcher_that_starts_while_the_definition_goes_believes_no_list(
    cluster: Cluster, definition: Definition, area: str
) -> None:
    apply(cluster, "one")
    apply(cluster, "held")
    cluster.patch("AppModel", "held", {"metadata": {"finalizers": ["example.com/wait"]}})
    with watcher(cluster, area) as process:
        reader = ready(area)
        until(lambda: len(reader.models()) == 2, "models")
        process.kill()
        process.wait()
    if cluster.server is not None:
        cluster.server.definitions.terminate_after = 60.0
    definition.delete(wait=False)
    until(lambda: "one" not in [each["metadata"]["name"] for each in cluster.list("AppModel")], "deletions")
    with watcher(cluster, area):
        until(lambda: "is being deleted" in shmroute("status", "--area", area, check=False).stdout, "reason")
        assert set(reader.models()) == {"model_one", "model_held"}
    if cluster.server is None:
        cluster.patch("AppModel", "held", {"metadata": {"finalizers": None}})
        until(lambda: not definition.exists(), "end of the definition")
