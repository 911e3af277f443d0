"""Endless, slow or foreign answers of a server or proxy cost one attempt each, and no route."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from shmroute.kube.connection import Connection
from shmroute.sources.base import Deleted, Replaced
from shmroute.sources.kubernetes import api as requests
from shmroute.sources.kubernetes import listing
from tests.apiserver import ApiServer, app_model, app_model_definition
from tests.apiserver.encoding import dumps, loads
from tests.apiserver.lists import encode_token
from tests.sources.kubernetes.following import CALM, LIVELY, Following


@pytest.fixture
def follow(api: ApiServer, connection: Connection) -> Following:
    api.settings.streaming_lists = False
    for name in ("one", "two"):
        api.apply(app_model(name))
    return Following(connection, timing=CALM)


def lists_as(api: ApiServer, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    """Change the body of every further list by `change`."""
    whole = api.lister._list
    monkeypatch.setattr(api.lister, "_list", lambda *arguments: change(whole(*arguments)))


def check_nothing_lost(api: ApiServer, follow: Following, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Ask for a list, see it refused for that reason, and the next good one taken."""
    follow.source.relist("test")
    follow.wait(lambda: reason in follow.reason)
    assert follow.names == {"one", "two"}
    asked, began = len(api.requests), time.monotonic()
    follow.stop.wait(0.5)
    assert len(api.requests) - asked < 20 + 40 * (time.monotonic() - began)  # 0.1 s is the longest wait here

    monkeypatch.undo()
    follow.wait_replaced(2)
    follow.wait_for(api)
    assert follow.of(Deleted) == []


@pytest.mark.fault(45)
def test_a_list_with_a_repeated_continue_token_is_refused(
    api: ApiServer, follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_page(body: bytes) -> bytes:
        page = loads(body)
        page["metadata"]["continue"] = encode_token(api.revision, "a")
        return dumps(page)

    with follow:
        follow.wait_for(api)
        lists_as(api, monkeypatch, same_page)
        check_nothing_lost(api, follow, monkeypatch, "the server has sent the same page of the list twice")


@pytest.mark.fault(45)
def test_a_list_without_end_is_refused(api: ApiServer, follow: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = iter(range(10**9))

    def another_page(body: bytes) -> bytes:
        page = loads(body)
        start = str(next(pages))
        page["metadata"]["continue"] = encode_token(api.revision, start)
        return dumps(page)

    with follow:
        follow.wait_for(api)
        lists_as(api, monkeypatch, another_page)
        monkeypatch.setattr(requests, "PAGES_MAX", 5)
        check_nothing_lost(api, follow, monkeypatch, "a list of more than 5 pages")


@pytest.mark.fault(45)
@pytest.mark.parametrize("bound", ["page", "list"])
def test_a_list_beyond_its_bytes_is_refused(
    api: ApiServer, follow: Following, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    with follow:
        follow.wait_for(api)
        if bound == "page":
            monkeypatch.setattr(requests, "PAGE_MAX_BYTES", 100)
        else:
            monkeypatch.setattr(listing, "LIST_MAX_BYTES", 100)
        check_nothing_lost(api, follow, monkeypatch, "TooLarge")


@pytest.mark.fault(45)
@pytest.mark.parametrize("streaming", [True, False])
def test_a_list_of_one_byte_at_a_time_has_a_deadline(
    api: ApiServer, connection: Connection, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.settings.streaming_lists = streaming
    api.apply(app_model("one"))
    timing = msgspec.structs.replace(CALM, page_seconds=0.3, list_seconds=0.3)
    with api.faults.trickle(1, 0.02), Following(connection, timing=timing) as follow:
        follow.wait(lambda: "no answer: Timeout" in follow.reason)
        assert follow.of(Replaced) == []


@pytest.mark.fault(45)
def test_a_200_of_another_kind_deletes_nothing(
    api: ApiServer, follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_pods(_: bytes) -> bytes:
        return b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}'

    with follow:
        follow.wait_for(api)
        lists_as(api, monkeypatch, of_pods)
        check_nothing_lost(api, follow, monkeypatch, "the answer is 'PodList' of 'v1', not AppModelList")


def test_answers_that_close_the_connection_do_not_cut_a_quiet_watch(api: ApiServer, connection: Connection) -> None:
    api.http.close_each = True
    timing = msgspec.structs.replace(CALM, answer_seconds=0.5)
    with Following(connection, timing=timing) as follow:
        follow.wait_watched(api)
        follow.stop.wait(1.5)
        assert follow.source.stats.restarts == {}
        api.apply(app_model("one"))
        follow.wait_for(api)

        assert follow.source.stats.watches == 1


def test_answers_that_close_the_connection_do_not_cut_a_probed_watch(api: ApiServer, connection: Connection) -> None:
    api.http.close_each = True
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        follow.wait_probes(3)

        assert follow.source.stats.restarts == {}


# -- the three 404s that look alike


def test_a_group_that_is_not_installed_is_named(api: ApiServer, connection: Connection) -> None:
    api.delete("customresourcedefinitions", "appmodels.iidp.com")
    with Following(connection) as follow:
        follow.wait(lambda: "has no API group 'iidp.com': install the CustomResourceDefinition" in follow.reason)


def test_a_version_that_is_not_served_is_named(api: ApiServer, connection: Connection) -> None:
    definition = app_model_definition()
    definition["spec"]["versions"][0]["name"] = "v2"
    api.delete("customresourcedefinitions", "appmodels.iidp.com")
    api.install(definition)
    with Following(connection) as follow:
        follow.wait(lambda: "does not serve version 'iidp.com/v1' (served: v2)" in follow.reason)


def test_a_definition_of_scope_cluster_is_named(api: ApiServer, connection: Connection) -> None:
    definition = app_model_definition()
    definition["spec"]["scope"] = "Cluster"
    api.delete("customresourcedefinitions", "appmodels.iidp.com")
    api.install(definition)
    with Following(connection, namespace="default") as follow:
        follow.wait(lambda: "has the scope Cluster, and must have the scope Namespaced" in follow.reason)


@pytest.mark.fault(45)
def test_objects_of_a_definition_of_scope_cluster_are_not_served(api: ApiServer, connection: Connection) -> None:
    definition = app_model_definition()
    definition["spec"]["scope"] = "Cluster"
    api.delete("customresourcedefinitions", "appmodels.iidp.com")
    api.install(definition)
    manifest = app_model("one")
    del manifest["metadata"]["namespace"]
    api.apply(manifest)
    with Following(connection) as follow:  # of all namespaces, which a cluster-scoped resource has the path of
        follow.wait(lambda: "has the scope Cluster, and must have the scope Namespaced" in follow.reason)
        assert follow.names == set()


def test_refused_discovery_leaves_the_reason_unknown(api: ApiServer, connection: Connection) -> None:
    api.delete("customresourcedefinitions", "appmodels.iidp.com")
    api.faults.fail(403, verb="")
    with Following(connection) as follow:
        follow.wait(lambda: "discovery does not say why" in follow.reason)
