"""A definition with two served versions, as a real API server answers with conversion strategy None."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apiserver import ApiServer
from tests.watcher.test_kinds import DEFINITION

GROUP = "/apis/example.com"


def version(name: str, *, storage: bool, fields: tuple[str, ...]) -> dict[str, Any]:
    spec = {"type": "object", "properties": {field: {"type": "string"} for field in fields}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return {"name": name, "served": True, "storage": storage, "schema": schema}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    versions = [
        version("v1", storage=True, fields=("size", "colour")),
        version("v1alpha1", storage=False, fields=("size", "tint")),
        {**version("v0", storage=False, fields=()), "served": False},
    ]
    with ApiServer() as api:
        api.install({**DEFINITION, "spec": {**DEFINITION["spec"], "versions": versions}})
        write(api, "v1", "one", size="s", colour="red")
        write(api, "v1alpha1", "two", size="m", tint="light")
        yield api


def ask(api: ApiServer, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {api.auth.token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(api.url + path, data, headers), timeout=60) as answer:
        return [json.loads(line) for line in answer]


def write(api: ApiServer, version: str, name: str, **spec: str) -> None:
    manifest = {"apiVersion": f"example.com/{version}", "kind": "Widget", "metadata": {"name": name}, "spec": spec}
    (made,) = ask(api, f"{GROUP}/{version}/widgets", manifest)
    assert made["apiVersion"] == f"example.com/{version}"


@pytest.mark.parametrize(
    ("version", "specs"),
    [("v1", [{"size": "s", "colour": "red"}, {"size": "m"}]), ("v1alpha1", [{"size": "s"}, {"size": "m"}])],
)
def test_a_list_shows_every_object_in_the_version_of_its_path(api: ApiServer, version: str, specs: Any) -> None:
    (found,) = ask(api, f"{GROUP}/{version}/widgets")
    assert {found["apiVersion"], *(each["apiVersion"] for each in found["items"])} == {f"example.com/{version}"}
    assert [each["spec"] for each in found["items"]] == specs, "a field that the stored version lacks is lost"
    writers = [each["metadata"]["managedFields"][0]["apiVersion"] for each in found["items"]]
    assert writers == ["example.com/v1", "example.com/v1alpha1"]


def test_a_watch_shows_every_change_in_the_version_of_its_path(api: ApiServer) -> None:
    seen: list[Any] = []
    path = f"{GROUP}/v1alpha1/widgets?watch=1&timeoutSeconds=1&resourceVersion={api.store.revision}"
    thread = threading.Thread(target=lambda: seen.extend(ask(api, path)))
    thread.start()
    api.wait_for_watches(1, "widgets")
    write(api, "v1", "three", size="l", colour="green")
    api.delete("widgets", "three")
    thread.join(60)
    assert [(event["type"], event["object"]["apiVersion"], event["object"]["spec"]) for event in seen] == [
        ("ADDED", "example.com/v1alpha1", {"size": "l"}),
        ("DELETED", "example.com/v1alpha1", {"size": "l"}),
    ]


def test_discovery_lists_the_served_versions_alone(api: ApiServer) -> None:
    (group,) = ask(api, GROUP)
    assert [each["version"] for each in group["versions"]] == ["v1", "v1alpha1"]
    assert group["preferredVersion"]["version"] == "v1"
    for version in ("v1", "v1alpha1"):
        (resources,) = ask(api, f"{GROUP}/{version}")
        assert [each["name"] for each in resources["resources"]] == ["widgets"]
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        ask(api, f"{GROUP}/v0/widgets")
    refused.value.close()
