"""The same operations on either cluster, in a namespace of the test's own."""

from __future__ import annotations

import pytest
from kubernetes.client import ApiException

from tests.apiserver import app_model, endpoint, endpoint_slice
from tests.cluster import Cluster


def test_applied_objects_are_listed_until_deleted(cluster: Cluster) -> None:
    assert cluster.list("AppModel") == []
    cluster.apply(app_model("one", ["model"]))
    cluster.apply(endpoint_slice("one-1", "one", [endpoint("10.0.0.1")]))
    for kind, name in (("AppModel", "one"), ("EndpointSlice", "one-1")):
        (found,) = cluster.list(kind)
        assert found["metadata"]["name"] == name
        assert found["metadata"]["namespace"] == cluster.namespace
        cluster.delete(kind, name)
        assert cluster.list(kind) == []


def test_a_label_can_be_removed(cluster: Cluster) -> None:
    cluster.apply(app_model("one", ["model"]))
    assert len(cluster.list("AppModel", selector="iidp=iidp")) == 1
    cluster.patch("AppModel", "one", {"metadata": {"labels": {"iidp": None}}})
    assert cluster.list("AppModel", selector="iidp=iidp") == []
    assert cluster.get("AppModel", "one")["metadata"]["name"] == "one"


def test_refused_requests_of_the_test_cluster_raise(cluster: Cluster) -> None:
    manifest = app_model("one", ["model"])
    manifest["spec"]["models"] = []
    with pytest.raises(ApiException) as refused:
        cluster.apply(manifest)
    assert refused.value.status == 422
