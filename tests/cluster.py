"""A cluster to test against: the test API server or a real one, with the same few operations.

They go through the official client, on purpose: what a test does to a cluster, and what it expects to be there, must
not pass through the code under test.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from kubernetes import client, config

from shmroute.kube import Connection, install_crd
from tests.apiserver import ApiServer

Manifest: TypeAlias = dict[str, Any]

_RESOURCES: Final = {
    "AppModel": ("iidp.com", "v1", "appmodels"),
    "EndpointSlice": ("discovery.k8s.io", "v1", "endpointslices"),
}
"""Kind -> group, version and plural."""

_DEFINITION = "appmodels.iidp.com"
_MANAGER = "shmroute-tests"


@dataclass
class Cluster:
    """One namespace of a cluster. Every operation raises `kubernetes.client.ApiException` when it is refused."""

    kubeconfig: Path
    namespace: str
    api: client.CustomObjectsApi
    server: ApiServer | None
    """The test API server, to inject faults that only it supports; None if the cluster is real."""

    def apply(self, manifest: Manifest) -> Manifest:
        """Create or change the object by server-side apply, as `kubectl apply --server-side --force-conflicts` does."""
        return self._call(
            "patch",
            manifest["kind"],
            manifest["metadata"]["name"],
            {**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}},
            field_manager=_MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
        )

    def patch(self, kind: str, name: str, change: Manifest) -> Manifest:
        """Change the object by a JSON merge patch; a value of None takes a field away."""
        return self._call("patch", kind, name, change, _content_type="application/merge-patch+json")

    def delete(self, kind: str, name: str) -> None:
        self._call("delete", kind, name)

    def get(self, kind: str, name: str) -> Manifest:
        return self._call("get", kind, name)

    def list(self, kind: str, *, selector: str = "") -> list[Manifest]:
        """Return the objects of the kind in the namespace, as the server has them now."""
        group, version, plural = _RESOURCES[kind]
        found = self.api.list_namespaced_custom_object(group, version, self.namespace, plural, label_selector=selector)
        return cast("dict[str, list[Manifest]]", found)["items"]

    def _call(self, verb: str, kind: str, name: str, *body: Manifest, **options: Any) -> Manifest:
        group, version, plural = _RESOURCES[kind]
        call = getattr(self.api, f"{verb}_namespaced_custom_object")
        answer: Manifest = call(group, version, self.namespace, plural, name, *body, **options)
        return answer


@contextlib.contextmanager
def test_server_cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """The test API server; its kubeconfig is written to that path."""
    with ApiServer() as server:
        server.kubeconfig(kubeconfig)
        with _client(kubeconfig) as api:
            yield Cluster(kubeconfig, "meta-test", client.CustomObjectsApi(api), server)


@contextlib.contextmanager
def real_cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """Yield a new namespace in the cluster of that kubeconfig, deleted afterwards.

    The CRD is installed and stays until the whole run ends, since tests in other processes use it.
    """
    with contextlib.closing(Connection(str(kubeconfig))) as connection:
        install_crd(connection)
    namespace = f"shmroute-test-{secrets.token_hex(4)}"
    with _client(kubeconfig) as api:
        namespaces = client.CoreV1Api(api)
        namespaces.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=namespace)))
        cluster = Cluster(kubeconfig, namespace, client.CustomObjectsApi(api), None)
        try:
            yield cluster
        finally:
            # A cluster without a namespace controller does not empty a namespace that is deleted.
            for group, version, plural in _RESOURCES.values():
                cluster.api.delete_collection_namespaced_custom_object(group, version, namespace, plural)
            namespaces.delete_namespace(namespace)


def has_definition(kubeconfig: Path) -> bool:
    """Return whether AppModels are defined in the cluster."""
    with _client(kubeconfig) as api:
        definitions = client.ApiextensionsV1Api(api).list_custom_resource_definition(
            field_selector=f"metadata.name={_DEFINITION}"
        )
    return bool(definitions.items)


def remove_definition(kubeconfig: Path) -> None:
    """Delete the CRD, unless there are AppModels in any namespace."""
    group, version, plural = _RESOURCES["AppModel"]
    with _client(kubeconfig) as api:
        found = client.CustomObjectsApi(api).list_cluster_custom_object(group, version, plural, limit=1)
        if not cast("dict[str, list[Manifest]]", found)["items"]:
            client.ApiextensionsV1Api(api).delete_custom_resource_definition(_DEFINITION)


@contextlib.contextmanager
def _client(kubeconfig: Path) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(str(kubeconfig)) as api:  # type: ignore[no-untyped-call]
        yield api
