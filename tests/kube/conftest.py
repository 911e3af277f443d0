"""Clusters to test against: the test API server, and a real one where SHMROUTE_TEST_KUBECONFIG names it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import ApiError
from shmroute.kube import Connection, install_crd
from shmroute.kube.connection import path_of
from tests.apiserver import ApiServer

REAL = os.environ.get("SHMROUTE_TEST_KUBECONFIG")


@dataclass
class Cluster:
    """A cluster with a namespace of the test's own in it, and the CRD installed."""

    connection: Connection
    namespace: str

    def path(self, *more: str) -> str:
        return path_of("apis", "iidp.com", "v1", "namespaces", self.namespace, "appmodels", *more)

    def get(self, name: str) -> Any:
        """Return an AppModel of the namespace as the server has it; None where there is none."""
        try:
            return json.loads(self.connection.request("GET", self.path(name)).data)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def names(self) -> list[str]:
        items = json.loads(self.connection.request("GET", self.path()).data)["items"]
        return [item["metadata"]["name"] for item in items]


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """Yield the test API server, for faults that only it supports."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def api_connection(api: ApiServer, tmp_path: Path) -> Iterator[Connection]:
    with contextlib.closing(Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))) as connection:
        yield connection


@pytest.fixture(params=["test server", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="no cluster"))])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a cluster. Each test that uses this fixture runs against both clusters."""
    if request.param == "real":
        with _real_cluster() as real:
            yield real
    else:
        yield Cluster(request.getfixturevalue("api_connection"), "meta-test")


@contextlib.contextmanager
def _real_cluster() -> Iterator[Cluster]:
    with contextlib.closing(Connection(REAL)) as connection:
        install_crd(connection)
        namespace = f"shmroute-test-{secrets.token_hex(4)}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        connection.request("POST", "/api/v1/namespaces", body=json.dumps(body).encode())
        try:
            yield Cluster(connection, namespace)
        finally:
            connection.request("DELETE", path_of("apis", "iidp.com", "v1", "namespaces", namespace, "appmodels"))
            connection.request("DELETE", path_of("api", "v1", "namespaces", namespace))
