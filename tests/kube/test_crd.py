"""The CRD: what it accepts, that it is shipped, and that installing it is safe to repeat."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from shmroute.errors import ApiError, InvalidObject
from shmroute.kube import Connection, Outcome, crd_yaml, install_crd
from shmroute.kube.connection import path_of
from tests.apiserver import ApiServer, app_model
from tests.kube.conftest import Cluster

NAME = "appmodels.iidp.com"
LOOSE_SPECS: list[Any] = [
    None,
    {},
    {"app": "a"},
    {"version": "v1", "models": [{"name": "m", "version": "v1"}]},
    {"app": "", "version": "", "models": [{"name": "", "version": ""}]},
    {"app": "a", "version": "v1", "models": [{"name": "m", "version": "1"}, {"name": "m", "version": "2"}]},
    {"app": "a" * 5_000, "version": "v1", "models": [{"name": "m" * 5_000, "version": "1"}]},
    {"app": "a", "models": [{"name": f"{number:0100}", "version": "1"} for number in range(8_000)]},
]


def served_schema(definition: Any) -> Any:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def rules_of(schema: Any) -> Any:
    """Return a schema without descriptions and default values."""
    if isinstance(schema, dict):
        words = {"description": str, "x-kubernetes-list-type": str}
        kept = {k: v for k, v in schema.items() if not (k in words and isinstance(v, words[k]))}
        return {key: rules_of(value) for key, value in kept.items()}
    return [rules_of(each) for each in schema] if isinstance(schema, list) else schema


def first_published() -> Any:
    recorded = (Path(__file__).parents[1] / "wire" / "crd-get.txt").read_text()
    return json.loads(recorded.strip().split("\n\n")[-1])


@pytest.fixture
def bare(tmp_path: Path) -> Any:
    """Return a test server without the CRD, and a connection to it."""
    with ApiServer(crd=False) as server:
        connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server, connection
        connection.close()


def test_shipped_definition_equals_the_one_for_kubectl() -> None:
    assert (Path(__file__).parents[2] / "crds" / "appmodels.yaml").read_text() == crd_yaml()


def test_the_definition_adds_no_rule_to_the_first_published_one() -> None:
    ours, original = yaml.safe_load(crd_yaml()), first_published()
    assert rules_of(served_schema(ours)) == rules_of(served_schema(original))
    assert served_schema(ours)["properties"]["spec"]["properties"]["models"]["x-kubernetes-list-type"] == "atomic"
    for field in ("group", "names", "scope"):
        assert ours["spec"][field] == original["spec"][field]


def test_every_field_of_the_schema_is_described() -> None:
    def undescribed(schema: Any, path: str) -> list[str]:
        below = [*schema.get("properties", {}).items(), *([("[]", schema["items"])] if "items" in schema else [])]
        own = [] if schema.get("description") else [path]
        return own + [each for name, part in below for each in undescribed(part, f"{path}.{name}")]

    assert undescribed(served_schema(yaml.safe_load(crd_yaml())), "") == []


@pytest.mark.parametrize("spec", LOOSE_SPECS, ids=lambda spec: str(spec)[:40])
def test_objects_that_the_original_schema_accepts_stay_acceptable(cluster: Cluster, spec: Any) -> None:
    install_crd(cluster.connection)
    loose = {"apiVersion": "iidp.com/v1", "kind": "AppModel", "metadata": {"name": "loose"}}
    if spec is not None:
        loose["spec"] = spec
    created = cluster.connection.request("POST", cluster.path(), body=json.dumps(loose).encode())
    assert created.status == 201
    updated = json.loads(created.data)
    updated["metadata"]["labels"] = {"touched": "yes"}
    cluster.connection.request("PUT", cluster.path("loose"), body=json.dumps(updated).encode())
    assert cluster.get("loose").get("spec") == spec


def test_installing_again_changes_nothing(cluster: Cluster) -> None:
    install_crd(cluster.connection)
    assert install_crd(cluster.connection) is Outcome.UNCHANGED


def test_appmodels_can_be_written_once_the_definition_is_installed(bare: tuple[ApiServer, Connection]) -> None:
    server, connection = bare
    assert install_crd(connection) is Outcome.CREATED
    body = json.dumps(app_model("first")).encode()
    path = "/apis/iidp.com/v1/namespaces/default/appmodels"
    assert connection.request("POST", path, body=body).status == 201
    assert server.get("appmodels", "first") is not None


def test_an_older_definition_is_brought_up_to_date_and_its_objects_stay(
    api: ApiServer, api_connection: Connection
) -> None:
    api.apply(app_model("old"))
    assert install_crd(api_connection) is Outcome.CONFIGURED
    installed = api.get("customresourcedefinitions", NAME)
    assert installed is not None
    assert [column["name"] for column in installed["spec"]["versions"][0]["additionalPrinterColumns"]] == [
        "App",
        "Version",
        "Age",
        "Models",
    ]
    assert api.get("appmodels", "old") is not None


def test_a_definition_with_versions_of_a_later_release_is_left_alone(
    api: ApiServer, api_connection: Connection
) -> None:
    later = yaml.safe_load(crd_yaml())
    later["spec"]["versions"].append({**later["spec"]["versions"][0], "name": "v2", "storage": False})
    api.apply(later)
    with pytest.raises(InvalidObject, match="v2"):
        install_crd(api_connection)
    assert not api.requests.select("patch", "customresourcedefinitions")


@pytest.mark.parametrize("allowed", ["list", "get", "get,create"])
def test_a_missing_right_is_named_with_verb_and_resource(bare: tuple[ApiServer, Connection], allowed: str) -> None:
    server, connection = bare
    server.auth.grant("admin", allowed, "customresourcedefinitions")
    with pytest.raises(ApiError) as caught:
        install_crd(connection)
    assert caught.value.status == 403
    missing = "patch" if "get" in allowed else "get"
    assert f'cannot {missing} resource "customresourcedefinitions"' in str(caught.value)
    assert "get, create and patch on customresourcedefinitions.apiextensions.k8s.io" in str(caught.value)


def test_a_definition_never_established_is_a_timeout_that_says_so(tmp_path: Path) -> None:
    with ApiServer(crd=False, establish_after=None) as server:
        connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
        with pytest.raises(ApiError, match=r"not served within 0\.3 s: condition Established is Unknown"):
            install_crd(connection, timeout_seconds=0.3)
        connection.close()


def test_the_installation_waits_until_the_definition_is_established(tmp_path: Path) -> None:
    with ApiServer(crd=False, establish_after=None) as server:
        connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
        installing = threading.Thread(target=install_crd, args=(connection,), daemon=True)
        installing.start()
        server.requests.wait(3, "get", "customresourcedefinitions")
        assert installing.is_alive()
        server.definitions.establish(NAME)
        installing.join(10)
        assert not installing.is_alive()
        connection.close()


def test_a_definition_that_is_being_deleted_is_not_called_installed(api: ApiServer, api_connection: Connection) -> None:
    definition = yaml.safe_load(crd_yaml())
    definition["metadata"]["finalizers"] = ["customresourcecleanup.apiextensions.k8s.io"]
    api.apply(definition)
    path = path_of("apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions", NAME)
    api_connection.request("DELETE", path)

    with pytest.raises(ApiError, match="409 Terminating: it is being deleted"):
        install_crd(api_connection)
