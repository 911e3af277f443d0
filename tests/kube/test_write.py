"""Writing AppModels: what is sent, what is refused before anything is sent, and what the result says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from shmroute.errors import ApiError, ConfigError, InvalidObject
from shmroute.kube import (
    Abort,
    Connection,
    Outcome,
    Written,
    apply_appmodels,
    appmodel_manifest,
    crd_yaml,
    delete_appmodels,
    find_keys,
)
from shmroute.kube.discovery import Served, missing_because
from shmroute.manifests.files import decode
from shmroute.resources.appmodel import AppModel
from shmroute.resources.key import ObjectKey
from tests.apiserver import ApiServer, app_model
from tests.kube.conftest import Cluster

NEWSDKAPP = """\
apiVersion: iidp.com/v1
kind: AppModel
metadata:
  name: newsdkapp
spec:
  app: newSdkApp
  version: v-2
  models:
  - name: model1
    version: v-1
  - {name: model2, version: v-1}
"""

PLATFORM_EXAMPLE = """\
apiVersion: iidp.com/v1
kind: AppModel
metadata:
  name: base
spec:
  type: model
  version: "1.7"
  models: [model1, model2]
"""


def outcomes(results: Sequence[Written]) -> dict[str, str]:
    return {result.key.name: str(result.outcome) for result in results}


def test_applied_appmodel_equals_the_platforms(cluster: Cluster) -> None:
    def apply(text: str) -> dict[str, str]:
        return outcomes(
            apply_appmodels(cluster.connection, decode(text.encode(), "app.yaml"), namespace=cluster.namespace)
        )

    assert apply(NEWSDKAPP) == {"newsdkapp": "created"}
    assert apply(NEWSDKAPP) == {"newsdkapp": "unchanged"}
    assert apply(NEWSDKAPP.replace("v-2", "v-3")) == {"newsdkapp": "configured"}
    stored = cluster.get("newsdkapp")
    assert stored["metadata"]["labels"] == {"iidp": "iidp"}
    assert stored["spec"]["app"] == "newSdkApp"
    assert stored["spec"]["version"] == "v-3"
    assert [(entry["manager"], entry["operation"]) for entry in stored["metadata"]["managedFields"]] == [
        ("appmodels-manager", "Apply")
    ]


def test_a_model_removed_from_the_manifest_is_removed_from_the_object(cluster: Cluster) -> None:
    models = {"model1": "v1", "model2": "v1"}
    apply_appmodels(cluster.connection, [appmodel_manifest("app", "v1", models, namespace=cluster.namespace)])
    del models["model1"]
    apply_appmodels(cluster.connection, [appmodel_manifest("app", "v2", models, namespace=cluster.namespace)])
    assert [model["name"] for model in cluster.get("app")["spec"]["models"]] == ["model2"]


def test_fields_of_another_writer_are_taken_over(cluster: Cluster) -> None:
    by_hand = app_model("app", {"model": "v1"}, namespace=cluster.namespace)
    cluster.connection.request("POST", cluster.path(), body=json.dumps(by_hand).encode())
    manifest = appmodel_manifest("app", "v2", {"model": "v2"}, namespace=cluster.namespace)
    assert outcomes(apply_appmodels(cluster.connection, [manifest])) == {"app": "configured"}
    assert cluster.get("app")["spec"]["models"] == [{"name": "model", "version": "v2"}]


def test_an_object_exported_from_a_cluster_can_be_applied_again(cluster: Cluster) -> None:
    manifest = appmodel_manifest("app", "v1", {"model": "v1"}, namespace=cluster.namespace)
    apply_appmodels(cluster.connection, [manifest])
    exported = cluster.get("app")
    delete_appmodels(cluster.connection, [ObjectKey(cluster.namespace, "app")])
    assert outcomes(apply_appmodels(cluster.connection, [exported])) == {"app": "created"}
    assert outcomes(apply_appmodels(cluster.connection, [exported])) == {"app": "unchanged"}


def test_the_largest_accepted_number_of_models_can_be_written(cluster: Cluster) -> None:
    models = {f"model-{number:05}": "v1" for number in range(10_000)}
    manifest = appmodel_manifest("large", "v1", models, namespace=cluster.namespace)
    assert outcomes(apply_appmodels(cluster.connection, [manifest])) == {"large": "created"}
    assert len(cluster.get("large")["spec"]["models"]) == 10_000


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_nothing_is_sent_unless_every_document_is_valid(
    api: ApiServer, api_connection: Connection, spoiled: int
) -> None:
    manifests = [appmodel_manifest(name, "v1", {f"{name}-model": "v1"}) for name in ("a", "b", "c")]
    del manifests[spoiled]["spec"]["app"]
    with pytest.raises(InvalidObject, match=r"nothing was sent.*spec\.app is missing"):
        apply_appmodels(api_connection, manifests)
    assert len(api.requests) == 0


def test_all_problems_of_all_documents_are_reported_with_their_lines(api_connection: Connection) -> None:
    text = "\n---\n".join([PLATFORM_EXAMPLE, NEWSDKAPP, NEWSDKAPP.replace("v-2", "1.10"), "kind: Service"])
    with pytest.raises(InvalidObject) as caught:
        apply_appmodels(api_connection, decode(text.encode(), "apps.yaml"))
    told = str(caught.value)
    assert "apps.yaml, document 1 (AppModel base): spec.app is missing" in told
    assert "spec.models[0] is a plain string: write {name: ..., version: ...}" in told
    assert "spec.type is not a field of an AppModel" in told
    assert 'apps.yaml, document 3 (AppModel newsdkapp): spec.version is a number: write "1.10", in quotes' in told
    assert "apps.yaml, document 4: kind is 'Service': write AppModel" in told
    assert "document 2" not in told


def test_one_object_given_twice_is_refused(api: ApiServer, api_connection: Connection) -> None:
    text = "\n---\n".join([NEWSDKAPP, NEWSDKAPP.replace("v-2", "v-3")])
    with pytest.raises(InvalidObject, match=r"document 2 \(AppModel newsdkapp\): apps.yaml, document 1 is the same"):
        apply_appmodels(api_connection, decode(text.encode(), "apps.yaml"))
    assert len(api.requests) == 0


def test_an_empty_list_of_manifests_is_refused(api_connection: Connection) -> None:
    with pytest.raises(InvalidObject, match="no AppModel was given"):
        apply_appmodels(api_connection, [])


def test_a_label_that_would_hide_the_object_from_watchers_is_refused(api_connection: Connection) -> None:
    manifest = app_model("app", labels={"iidp": "no", "team": "x"})
    with pytest.raises(InvalidObject, match=r"metadata\.labels\.iidp is 'no'"):
        apply_appmodels(api_connection, [manifest])


def test_other_labels_stay_beside_the_added_one(api: ApiServer, api_connection: Connection) -> None:
    apply_appmodels(api_connection, [app_model("app", labels={"team": "x"})])
    stored = api.get("appmodels", "app")
    assert stored is not None
    assert stored["metadata"]["labels"] == {"iidp": "iidp", "team": "x"}


def test_namespace_comes_from_manifest_then_option_then_context(api: ApiServer, api_connection: Connection) -> None:
    named, open_ = appmodel_manifest("a", "v", {"m": "1"}, namespace="its-own"), appmodel_manifest("b", "v", {"n": "1"})
    assert [result.key.namespace for result in apply_appmodels(api_connection, [named, open_], namespace="option")] == [
        "its-own",
        "option",
    ]
    assert apply_appmodels(api_connection, [open_])[0].key.namespace == api_connection.namespace == "default"
    assert "namespace" not in open_["metadata"]


def test_a_refused_object_is_named_and_earlier_ones_are_written(api: ApiServer, api_connection: Connection) -> None:
    api.auth.grant("admin", "get,create,patch", "appmodels", "allowed")
    manifests = [
        appmodel_manifest("a", "v1", {"m": "v1"}, namespace="allowed"),
        appmodel_manifest("b", "v1", {"n": "v1"}, namespace="closed"),
        appmodel_manifest("c", "v1", {"o": "v1"}, namespace="allowed"),
    ]
    told: list[Written] = []
    with pytest.raises(ApiError, match=r'apply of AppModel closed/b: 403 Forbidden: .*cannot get resource "appmodels"'):
        apply_appmodels(api_connection, manifests, report=told.append)
    assert told == [Written(ObjectKey("allowed", "a"), Outcome.CREATED)]
    assert [item["metadata"]["name"] for item in api.list("appmodels")] == ["a"]


def test_a_cluster_without_the_crd_gets_an_error_that_says_how_to_install_it(tmp_path: Any) -> None:
    with ApiServer(crd=False) as server:
        connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
        with pytest.raises(ApiError, match="shmroute crd install"):
            apply_appmodels(connection, [app_model("app")])
        with pytest.raises(ApiError, match="shmroute crd install"):
            delete_appmodels(connection, [ObjectKey("default", "app")])
        connection.close()


def test_before_send_runs_after_the_dry_run_and_before_writing(
    cluster: Cluster,
) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def before_send(appmodels: Sequence[AppModel]) -> None:
        seen.append(([appmodel.app for appmodel in appmodels], cluster.names()))

    manifests = [appmodel_manifest(app, "v1", {f"{app}-m": "v1"}, namespace=cluster.namespace) for app in ("A", "B")]
    results = apply_appmodels(cluster.connection, manifests, before_send=before_send)
    assert seen == [(["A", "B"], [])]
    assert outcomes(results) == {"a": "created", "b": "created"}


def test_nothing_is_written_when_the_server_refuses_one_object(api: ApiServer, api_connection: Connection) -> None:
    api.auth.grant("admin", "get,create,patch", "appmodels", "allowed")
    manifests = [
        appmodel_manifest("a", "v1", {"m": "v1"}, namespace="allowed"),
        appmodel_manifest("b", "v1", {"n": "v1"}, namespace="closed"),
    ]
    with pytest.raises(ApiError, match="closed/b"):
        apply_appmodels(api_connection, manifests, before_send=lambda _: pytest.fail("must not be called"))
    assert api.list("appmodels") == []


def test_nothing_is_written_when_before_send_fails(api: ApiServer, api_connection: Connection) -> None:
    def before_send(_: Sequence[AppModel]) -> None:
        raise OSError("no metadata store")

    with pytest.raises(OSError, match="no metadata store"):
        apply_appmodels(api_connection, [app_model("app")], before_send=before_send)
    assert api.list("appmodels") == []


def test_a_hanging_apply_ends_when_it_is_aborted(api: ApiServer, api_connection: Connection) -> None:
    api.faults.hang(verb="patch")
    abort = Abort()
    failures: list[ApiError] = []

    def apply() -> None:
        try:
            apply_appmodels(api_connection, [app_model("app")], abort=abort)
        except ApiError as error:
            failures.append(error)

    applying = threading.Thread(target=apply, daemon=True)
    applying.start()
    api.requests.wait(1, "patch", "appmodels")
    abort.set()
    applying.join(10)
    assert not applying.is_alive()
    assert failures[0].reason == "Aborted"


def test_delete_reports_which_objects_existed(cluster: Cluster) -> None:
    manifest = appmodel_manifest("app", "v1", {"m": "v1"}, namespace=cluster.namespace)
    apply_appmodels(cluster.connection, [manifest])
    keys = find_keys([manifest, app_model("never", namespace=cluster.namespace)], namespace="elsewhere")
    told: list[Written] = []
    assert outcomes(delete_appmodels(cluster.connection, keys, report=told.append)) == {
        "app": "deleted",
        "never": "not found",
    }
    assert cluster.get("app") is None
    assert len(told) == 2


def test_an_appmodel_held_by_a_finalizer_is_not_reported_deleted(cluster: Cluster) -> None:
    manifest = appmodel_manifest("app", "v1", {"m": "v1"}, namespace=cluster.namespace)
    manifest["metadata"]["finalizers"] = ["acme.com/hold"]
    apply_appmodels(cluster.connection, [manifest])
    try:
        for _ in range(2):
            [written] = delete_appmodels(cluster.connection, [ObjectKey(cluster.namespace, "app")])
            assert (written.outcome, written.finalizers) == (Outcome.DELETING, ("acme.com/hold",))
            assert "deletionTimestamp" in cluster.get("app")["metadata"]
    finally:
        patch = b'{"metadata":{"finalizers":null}}'
        cluster.connection.request("PATCH", cluster.path("app"), None, patch, "application/merge-patch+json")
    assert cluster.get("app") is None


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        (None, "discovery does not say why"),
        (Served(None, None), "no API group 'iidp.com': install"),
        (Served(("v2", "v1beta1"), None), r"version 'iidp.com/v1' \(served: v2, v1beta1\)"),
        (Served(("v1",), None), "has no resource 'appmodels'"),
        (Served(("v1",), False), "has the scope Cluster, and must have the scope Namespaced"),
        (Served(("v1",), True), "about to serve it"),
    ],
)
def test_each_kind_of_404_has_its_own_remedy(found: Served | None, hint: str) -> None:
    assert re.search(hint, missing_because(found, "iidp.com", "v1", "appmodels", namespaced=True))


def test_an_apply_without_the_definition_says_so(tmp_path: Path) -> None:
    with ApiServer(crd=False) as server:
        connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
        with pytest.raises(ApiError, match=r"install the CustomResourceDefinition appmodels\.iidp\.com"):
            apply_appmodels(connection, [appmodel_manifest("app", "v1", {"m": "v1"})])
        connection.close()


def test_an_apply_to_a_definition_of_another_scope_says_so(tmp_path: Path) -> None:
    definition = yaml.safe_load(crd_yaml())
    definition["spec"]["scope"] = "Cluster"
    with ApiServer(crd=False) as server:
        server.install(definition)
        connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
        with pytest.raises(ApiError, match="has the scope Cluster, and must have the scope Namespaced"):
            apply_appmodels(connection, [appmodel_manifest("app", "v1", {"m": "v1"})])
        connection.close()


@pytest.mark.parametrize("namespace", ["", "a,b", " a", "a\n", "Meta-Test", "*", "a/b", "a" * 64])
def test_impossible_namespace_is_refused_before_anything_is_sent(
    api: ApiServer, api_connection: Connection, namespace: str
) -> None:
    with pytest.raises(ConfigError, match="not the name of a namespace"):
        apply_appmodels(api_connection, [appmodel_manifest("app", "v1", {"m": "v1"})], namespace=namespace)
    assert not list(api.requests)


def test_a_refused_deletion_names_the_object(api: ApiServer, api_connection: Connection) -> None:
    api.apply(app_model("app"))
    api.auth.forbid("delete", "appmodels")
    with pytest.raises(ApiError, match="delete of AppModel default/app: 403 Forbidden"):
        delete_appmodels(api_connection, [ObjectKey("default", "app")])


def test_keys_are_found_in_manifests_whose_specs_are_broken() -> None:
    assert find_keys(decode(PLATFORM_EXAMPLE.encode(), "f"), namespace="ns") == [ObjectKey("ns", "base")]


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}, r"not an AppModel \(v1 Service\)"),
        ({"apiVersion": "iidp.com/v1", "kind": "AppModel", "metadata": {}}, r"metadata\.name is missing"),
        ({"apiVersion": "iidp.com/v1", "kind": "AppModel"}, r"metadata\.name is missing"),
        (app_model("a") | {"metadata": {"name": "a", "namespace": 3}}, r"metadata\.namespace is not a string"),
    ],
)
def test_an_invalid_manifest_deletes_nothing(manifest: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidObject, match=f"nothing was deleted: manifest 1: {problem}"):
        find_keys([manifest], namespace="ns")


def test_an_appmodel_is_made_from_its_parts() -> None:
    made = appmodel_manifest("newSdkApp", "v-2", [("m1", "v-1"), ("m2", "v-2")], service="other/svc", port=8060)
    assert made == {
        "apiVersion": "iidp.com/v1",
        "kind": "AppModel",
        "metadata": {"name": "newsdkapp", "annotations": {"iidp.com/service": "other/svc", "iidp.com/port": "8060"}},
        "spec": {
            "app": "newSdkApp",
            "version": "v-2",
            "models": [{"name": "m1", "version": "v-1"}, {"name": "m2", "version": "v-2"}],
        },
    }


def test_a_worker_never_loads_the_cluster_functions() -> None:
    code = (
        "import sys, shmroute, shmroute.kube; print([m for m in ('yaml', 'urllib3', 'kubernetes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
