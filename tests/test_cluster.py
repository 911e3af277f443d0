"""The same operations on either cluster, in a namespace of the test's own."""

from __future__ import annotations

import pytest
from kubernetes.client import ApiException

from tests.apiserver import app_model, endpoint, endpoint_slice
from tests.cluster import Cluster


def test_what_is_applied_is_listed_until_it_is_deleted(cluster: Cluster) -> None:
    assert cluster.list("AppModel") == []
    cluster.apply(app_model("one", ["model"]))
    cluster.apply(endpoint_slice("one-1", "one", [endpoint("10.0.0.1")]))
    for kind, name in (("AppModel", "one"), ("EndpointSlice", "one-1")):
        (found,) = cluster.list(kind)
        assert found["metadata"]["name"] == name
        assert found["metadata"]["namespace"] == cluster.namespace
        cluster.delete(kind, name)
        assert cluster.list(kind) == []


def test_a_label_can_be_taken_away(cluster: Cluster) -> None:
    cluster.apply(app_model("one", ["model"]))
    assert len(cluster.list("AppModel", selector="iidp=iidp")) == 1
    cluster.patch("AppModel", "one", {"metadata": {"labels": {"iidp": None}}})
    assert cluster.list("AppModel", selector="iidp=iidp") == []
    assert cluster.get("AppModel", "one")["metadata"]["name"] == "one"


def test_what_is_refused_raises(cluster: Cluster) -> None:
    manifest = app_model("one", ["model"])
    manifest["spec"]["models"] = []
    with pytest.raises(ApiException) as refused:
        cluster.apply(manifest)
    assert refused.value.status == 422
