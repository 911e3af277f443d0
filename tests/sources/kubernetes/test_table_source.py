"""One table's resource: its objects stay while its definition is deleted, and a list decides once it is back."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

import pytest

from shmroute.kube.connection import Connection
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES, WatchedKind
from shmroute.sources.base import Deleted
from shmroute.sources.kubernetes import deletions
from shmroute.sources.kubernetes.deletions import DeletionGuard
from shmroute.sources.kubernetes.table_source import TableSource
from tests.apiserver import ApiServer, app_model, endpoint_slice
from tests.sources.kubernetes.following import CALM, Following

DEFINITION = ("customresourcedefinitions", "appmodels.iidp.com")

pytestmark = pytest.mark.fault(41)


def follow(
    connection: Connection, *namespaces: str, kind: WatchedKind = APPMODELS
) -> AbstractContextManager[Following]:
    """Follow a kind of those namespaces, or of all, as a watcher does."""
    made = Following(connection, kind)
    source = TableSource(connection, kind, namespaces=namespaces or None, selector="", scope_known=True, timing=CALM)
    made.source = source  # type: ignore[assignment]
    made.thread = threading.Thread(target=source.run, args=(made, made.stop), daemon=True)
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "AWAY_SECONDS", 0.02)
    monkeypatch.setattr(deletions, "AWAY_CAP_SECONDS", 0.1)


@pytest.mark.parametrize("namespaces", [(), ("a", "b")], ids=["all namespaces", "two namespaces"])
def test_objects_stay_while_the_definition_is_away_and_a_list_decides(
    api: ApiServer, connection: Connection, caplog: pytest.LogCaptureFixture, namespaces: tuple[str, ...]
) -> None:
    api.definitions.terminate_after = 0.5
    for namespace in ("a", "b"):
        api.apply(app_model("one", namespace=namespace))
    with follow(connection, *namespaces) as it:
        it.wait(lambda: len(it.items) == 2)
        api.wait_for_watches(max(1, len(namespaces)))
        api.delete(*DEFINITION)
        said = "install the CustomResourceDefinition appmodels.iidp.com; the last state is served"
        it.wait(lambda: it.reason.endswith(said))
        assert it.state is not None
        assert it.state.missing
        old = it.contact_ns
        it.wait(lambda: "objects stay as last seen" in caplog.text)
        assert "0 objects" not in caplog.text
        assert len(it.items) == 2
        assert it.of(Deleted) == []

        api.install()
        api.apply(app_model("two", namespace="b"))
        it.wait(lambda: it.items.keys() == {ObjectKey("b", "two")})
        it.wait(lambda: it.reason == "" and it.contact_ns > old)
        assert not it.state.missing
        api.delete("appmodels", "two", "b")
        it.wait(lambda: not it.items)


def test_a_list_of_a_definition_that_is_going_is_not_the_first_one(api: ApiServer, connection: Connection) -> None:
    api.definitions.terminate_after = 60.0
    api.apply(app_model("one"))
    api.delete(*DEFINITION)
    with follow(connection) as it:
        it.wait(lambda: "the definition of appmodels.iidp.com is being deleted" in it.reason)
        assert it.state is not None
        assert (it.state.missing, it.contact_ns) == (True, 0)


def test_deletions_go_through_without_the_right_to_discovery(
    api: ApiServer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    api.apply(app_model("one"))
    api.apply(app_model("two"))
    api.faults.fail(403, verb="")
    with follow(connection) as it:
        it.wait(lambda: len(it.items) == 2)
        api.wait_for_watches(1)
        api.delete("appmodels", "one")
        api.delete("appmodels", "two")
        it.wait(lambda: not it.items)
        assert caplog.text.count("discovery is refused") == 1


def test_a_mass_deletion_is_not_held_up(api: ApiServer, connection: Connection) -> None:
    for number in range(300):
        api.apply(app_model(f"m{number}"))
    with follow(connection) as it:
        it.wait(lambda: len(it.items) == 300)
        api.wait_for_watches(1)
        before = sum(request.path == "/apis/iidp.com/v1" for request in api.requests)
        for number in range(300):
            api.delete("appmodels", f"m{number}")
        it.wait(lambda: not it.items)
        requests = sum(request.path == "/apis/iidp.com/v1" for request in api.requests) - before
        assert 1 <= requests < 100


def test_endpoint_slices_are_deleted_without_asking_discovery(api: ApiServer, connection: Connection) -> None:
    """The API server has them itself, and a pod that is gone must be gone at once."""
    api.apply(endpoint_slice("one", "one"))
    with follow(connection, kind=ENDPOINTSLICES) as it:
        it.wait(lambda: len(it.items) == 1)
        api.wait_for_watches(1)
        api.delete("endpointslices", "one")
        it.wait(lambda: not it.items)
        assert not [request for request in api.requests if request.path.endswith("/v1")]


def test_a_guard_that_fails_is_started_again(
    api: ApiServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [RuntimeError("a defect")]
    whole = DeletionGuard.run

    def fail_once(guard: DeletionGuard, stop: threading.Event) -> None:
        if failures:
            raise failures.pop()
        whole(guard, stop)

    monkeypatch.setattr(DeletionGuard, "run", fail_once)
    api.apply(app_model("one"))
    with follow(connection) as it:
        it.wait(lambda: len(it.items) == 1)
        (thread,) = [each for each in it.source.threads() if each.name == "appmodels deletions"]
        assert (thread.restarts, thread.problem) == (1, "RuntimeError: a defect")
