"""The events of a source, with the test server and, if configured, a real one."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from shmroute.kube.connection import Connection, path_of
from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.endpointslice import EndpointSlice
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import ENDPOINTSLICES
from shmroute.sources.base import AuditResult, Changed, Deleted, Replaced, Resync, SourceState
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.sources.kubernetes.timing import Timing
from tests.apiserver import ApiServer, app_model, endpoint, endpoint_slice
from tests.cluster import Cluster
from tests.sources.kubernetes.following import CALM, LIVELY, Following, fast_settings

SELECTOR = "iidp=iidp"
REAL = Timing(contact_report_seconds=0.0, probe_seconds=0.6, confirm_seconds=0.0, bookmark_seconds=0.0)
"""Default times for a real server, except for the probe period."""


@pytest.fixture
def there(cluster: Cluster) -> Iterator[Connection]:
    """Yield a connection to the cluster."""
    if cluster.server is not None:
        cluster.server.settings.clock = fast_settings().clock
    with contextlib.closing(Connection(str(cluster.kubeconfig))) as made:
        yield made


@pytest.fixture
def one(cluster: Cluster, there: Connection) -> Iterator[Following]:
    """Yield a source on a cluster that holds the AppModel "one"."""
    cluster.apply(app_model("one", app="app"))
    with Following(there, namespace=cluster.namespace, selector=SELECTOR, timing=REAL) as follow:
        follow.wait_synced()
        yield follow


# -- on either cluster


def test_the_first_event_is_the_complete_list(one: Following, cluster: Cluster) -> None:
    [first] = [event for event in one.events if not isinstance(event, SourceState)]

    assert isinstance(first, Replaced)
    [item] = first.items
    assert isinstance(item, AppModel)
    assert (item.key, item.app) == (ObjectKey(cluster.namespace, "one"), "app")
    assert 0 < first.received_ns <= time.monotonic_ns()


def test_additions_changes_and_deletions_arrive_in_order(one: Following, cluster: Cluster) -> None:
    cluster.apply(app_model("two"))
    cluster.apply(app_model("two", version="v2"))
    cluster.delete("AppModel", "two")

    one.wait(lambda: bool(one.of(Deleted)))
    versions = [event.item.version for event in one.of(Changed) if isinstance(event.item, AppModel)]
    assert versions == ["v1", "v2"]
    assert one.of(Deleted)[0].key == ObjectKey(cluster.namespace, "two")
    assert one.names == {"one"}
    assert one.source.stats.lists == 1


def test_removing_the_label_withdraws_an_object_and_adding_restores_it(one: Following, cluster: Cluster) -> None:
    cluster.patch("AppModel", "one", {"metadata": {"labels": {"iidp": "no"}}})
    one.wait(lambda: one.names == set())

    cluster.patch("AppModel", "one", {"metadata": {"labels": {"iidp": "iidp"}}})
    one.wait(lambda: one.names == {"one"})


def test_an_invalid_object_is_sent_with_its_reason(one: Following, cluster: Cluster) -> None:
    cluster.apply({**app_model("empty"), "spec": {"app": "a"}})
    cluster.apply(app_model("two"))

    one.wait(lambda: one.names == {"one", "empty", "two"})
    broken = one.items[ObjectKey(cluster.namespace, "empty")]
    assert isinstance(broken, InvalidAppModel)
    assert broken.reason


def test_a_stop_ends_a_quiet_watch_at_once(one: Following) -> None:
    began = time.monotonic()
    one.stop.set()
    one.thread.join(5.0)

    assert not one.thread.is_alive()
    assert time.monotonic() - began < 5.0
    assert one.phases[-1] == "stopped"


def test_last_contact_is_updated_on_an_idle_watch(one: Following) -> None:
    before = one.contact_ns

    one.wait(lambda: one.contact_ns > before and one.source.stats.probes >= 2)
    assert one.source.stats.restarts == {}


def test_a_quiet_resource_among_busy_ones_is_never_reconnected(
    one: Following, cluster: Cluster, there: Connection
) -> None:
    services = path_of("api", "v1", "namespaces", cluster.namespace, "services")
    # An event of this resource, for the test server: without one it sends no bookmark, as servers once did.
    cluster.apply(app_model("one", version="v2"))
    for number in range(2):
        contact = one.contact_ns
        spec = {"ports": [{"port": 80}], "clusterIP": "None"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"busy-{number}"}, "spec": spec}
        there.request("POST", services, body=json.dumps(service).encode())
        one.wait_probes(2, 30.0)
        one.wait_contact(contact, 30.0)

    assert one.source.stats.peeks > 0
    assert one.source.stats.restarts == {}
    assert (one.source.stats.lists, one.source.stats.watches) == (1, 1)


def test_an_audit_of_equal_states_finds_no_difference(one: Following, cluster: Cluster) -> None:
    cluster.apply(app_model("two"))
    one.wait(lambda: one.names == {"one", "two"})

    one.source.audit_now()

    one.wait(lambda: bool(one.of(AuditResult)))
    [result] = one.of(AuditResult)
    assert (result.checked, result.differences, result.error) == (2, 0, "")
    assert one.source.stats.lists == 1


def test_endpointslices_are_followed_as_well(cluster: Cluster, there: Connection) -> None:
    with Following(there, ENDPOINTSLICES, namespace=cluster.namespace, timing=REAL) as follow:
        follow.wait_synced()
        cluster.apply(endpoint_slice("iiot-1", "iiot", [endpoint("10.0.0.1")]))
        follow.wait(lambda: follow.names == {"iiot-1"})
        [item] = follow.items.values()
        assert isinstance(item, EndpointSlice)
        assert item.endpoints[0].address == "10.0.0.1"

        cluster.patch("EndpointSlice", "iiot-1", {"metadata": {"labels": {"kubernetes.io/service-name": None}}})
        follow.wait(lambda: follow.names == set())


# -- what only the test server can show


def test_first_list_is_at_resource_version_0_and_the_watch_follows(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, selector=SELECTOR) as follow:
        follow.wait_watched(api)

        streaming, watch = api.requests.select("watch")
        assert streaming.query["sendInitialEvents"] == "true"
        assert streaming.query["resourceVersion"] == "0"
        assert watch.query["resourceVersion"] == str(api.revision)
        assert watch.query["allowWatchBookmarks"] == "true"
        assert {request.query["labelSelector"] for request in (streaming, watch)} == {SELECTOR}
        assert 300 <= int(watch.query["timeoutSeconds"]) <= 600
        assert follow.source.stats.lists == 1


def test_without_a_namespace_all_namespaces_are_followed(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one", namespace="a"))
    api.apply(app_model("one", namespace="b"))
    with Following(connection) as follow:
        follow.wait_for(api)
        assert len(follow.items) == 2


def test_with_a_namespace_no_other_is_requested(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one", namespace="a"))
    api.apply(app_model("one", namespace="b"))
    with Following(connection, namespace="a") as follow:
        follow.wait_watched(api)
        assert follow.items.keys() == {ObjectKey("a", "one")}
        assert {request.namespace for request in api.requests} == {"a"}


def test_a_paged_list_is_sent_after_its_last_page(api: ApiServer, connection: Connection) -> None:
    api.settings.streaming_lists = False
    api.preload(app_model(f"m{number:04}") for number in range(1_234))
    with Following(connection) as follow:
        follow.wait_watched(api)
        follow.source.relist("test")
        follow.wait_replaced(2)

        pages = [request for request in api.requests.select("list") if request.query.get("limit") == "500"][-3:]
        assert ["continue" in page.query for page in pages] == [False, True, True]
        assert all("resourceVersion" not in page.query for page in pages)
        assert [len(event.items) for event in follow.of(Replaced)] == [1_234, 1_234]
        follow.wait_for(api)


def test_watch_that_ends_cleanly_is_reopened_without_wait_or_list(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(CALM, watch_seconds=(2.0, 2.0))) as follow:
        follow.wait(lambda: follow.source.stats.watches >= 4)

        assert follow.source.stats.lists == 1
        assert follow.source.stats.errors == 0
        assert follow.source.stats.restarts.keys() == {"ended"}
        assert "backing-off" not in follow.phases


def test_a_bookmark_moves_the_point_of_resumption(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_watched(api)
        revision = api.bump(50)
        api.bookmark()
        follow.wait(lambda: follow.source.stats.bookmarks == 1)
        api.faults.cut_streams()
        api.requests.wait(3, "watch")

        assert api.requests.select("watch")[-1].query["resourceVersion"] == str(revision)


def test_a_resync_is_local_and_costs_no_request(api: ApiServer, connection: Connection) -> None:
    with Following(connection, resync_seconds=0.05) as follow:
        follow.wait(lambda: len(follow.of(Resync)) >= 3)

        assert isinstance(next(event for event in follow.events if not isinstance(event, SourceState)), Replaced)
        assert len(api.requests) == 2


def test_no_resync_is_sent_before_the_first_list(api: ApiServer, connection: Connection) -> None:
    with api.faults.hang(), Following(connection, resync_seconds=0.02) as follow:
        api.requests.wait(1)
        follow.stop.wait(0.2)

        assert follow.of(Resync) == []


def test_last_contact_is_updated_while_events_come(api: ApiServer, connection: Connection) -> None:
    with Following(connection) as follow:
        follow.wait_watched(api)
        before = follow.contact_ns
        api.apply(app_model("one"))

        follow.wait(lambda: follow.contact_ns > before)


def test_many_events_cause_few_state_updates(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(CALM, contact_report_seconds=3600.0)) as follow:
        follow.wait_watched(api)
        states = len(follow.of(SourceState))
        api.preload(app_model(f"m{number:03}") for number in range(300))
        follow.wait_for(api)

        assert len(follow.of(SourceState)) == states


def test_no_event_comes_after_run_has_returned(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        follow.stop.set()
        follow.thread.join(10.0)
        said = len(follow.events)
        follow.source.audit_now()
        api.apply(app_model("late"))
        threading.Event().wait(0.3)

        assert len(follow.events) == said


@pytest.mark.parametrize("where", ["a streaming list", "a page", "a watch"])
def test_a_stop_ends_every_kind_of_wait(api: ApiServer, connection: Connection, where: str) -> None:
    patient = msgspec.structs.replace(CALM, answer_seconds=60.0, list_silence_seconds=60.0)
    follow = Following(connection, timing=patient)
    with contextlib.ExitStack() as stack:
        if where == "a watch":
            stack.enter_context(follow).wait_watched(api)
        else:
            api.faults.refuse_streaming_lists(1 if where == "a page" else 0, http=True)
        fault = stack.enter_context(api.faults.hang(verb="list" if where == "a page" else "watch"))
        if where == "a watch":
            api.faults.end_streams()
        else:
            stack.enter_context(follow)
        follow.wait(lambda: fault.hits > 0)

        follow.stop.set()
        follow.thread.join(5.0)

        assert not follow.thread.is_alive()


@pytest.mark.fault(15)
@pytest.mark.parametrize("kind", [Changed, Deleted])
def test_a_sink_that_fails_once_does_not_end_the_watch(
    api: ApiServer, connection: Connection, caplog: pytest.LogCaptureFixture, kind: type[Changed | Deleted]
) -> None:
    api.apply(app_model("gone"))
    with Following(connection) as follow:
        follow.wait_watched(api)
        whole = follow.put
        broken: list[object] = []

        def fail_once(event: object) -> None:
            if isinstance(event, kind) and not broken:
                broken.append(event)
                raise RuntimeError("a defect of the owner")
            whole(event)  # type: ignore[arg-type]

        follow.put = fail_once  # type: ignore[method-assign]
        api.apply(app_model("one"))
        api.delete("appmodels", "gone")

        follow.wait_for(api)
        assert broken
        assert follow.source.stats.restarts == {"defect": 1}
        assert follow.source.stats.lists == 1
        assert "a defect of the owner" in caplog.text


@pytest.mark.fault(15)
def test_a_list_that_the_sink_refused_is_sent_again(
    api: ApiServer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    api.apply(app_model("one"))
    follow = Following(connection)
    whole = follow.put
    broken: list[object] = []

    def fail_once(event: object) -> None:
        if isinstance(event, Replaced) and not broken:
            broken.append(event)
            raise RuntimeError("a defect of the owner")
        whole(event)  # type: ignore[arg-type]

    follow.put = fail_once  # type: ignore[method-assign]
    with follow:
        follow.wait_for(api)
        follow.wait_watched(api)

        assert broken
        assert len(follow.of(Replaced)) == 1
        assert follow.of(Changed) == []
        assert follow.source.stats.restarts == {"defect": 1}
        assert follow.source.stats.lists == 2
        assert "a defect of the owner" in caplog.text


def test_a_source_reports_what_it_follows(connection: Connection) -> None:
    assert KubernetesSource(connection, ENDPOINTSLICES, namespace=None).kinds == (ENDPOINTSLICES,)


def test_a_reason_that_lasts_is_logged_once(
    api: ApiServer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    api.delete("customresourcedefinitions", "appmodels.iidp.com")
    with Following(connection, timing=CALM) as follow:
        follow.wait(lambda: follow.source.stats.errors >= 5)
        said = [record for record in caplog.records if "no API group 'iidp.com'" in record.getMessage()]
        assert [record.levelname for record in said] == ["WARNING"]
