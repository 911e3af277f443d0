"""Where no recording exists, the test server behaves as Kubernetes documents it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.apiserver import ApiError, ApiServer, Settings, app_model, endpoint_slice
from tests.apiserver.encoding import Object
from tests.apiserver.rawhttp import RawExchange

ALL = "/apis/iidp.com/v1/appmodels"
HERE = "/apis/iidp.com/v1/namespaces/default/appmodels"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def send(
    api: ApiServer, target: str, method: str = "GET", body: Object | None = None, content_type: str = "json"
) -> RawExchange:
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {target} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
        f"Content-Type: application/{content_type}\r\nAuthorization: Bearer {api.auth.token}\r\n\r\n"
    )
    return RawExchange("127.0.0.1", api.port, head.encode() + data)


def fetch(
    api: ApiServer, target: str, method: str = "GET", body: Object | None = None, content_type: str = "json"
) -> tuple[int, Object]:
    with send(api, target, method, body, content_type) as exchange:
        answer: Object = json.loads(exchange.body())
        return exchange.code, answer


def listed(api: ApiServer, query: str, path: str = ALL) -> list[str]:
    _, answer = fetch(api, f"{path}?{query}")
    return [each["metadata"]["name"] for each in answer["items"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("labelSelector=tier%3Da", ["one"]),
        ("labelSelector=tier!%3Da", ["three", "two"]),
        ("labelSelector=tier", ["one", "two"]),
        ("labelSelector=tier,iidp%3Diidp", ["one"]),
        ("labelSelector=tier%20in%20(a,b)", ["one", "two"]),
        ("labelSelector=!tier", ["three"]),
        ("fieldSelector=metadata.name%3Dtwo", ["two"]),
        ("fieldSelector=metadata.namespace%3Dother", ["three"]),
        ("fieldSelector=metadata.namespace!%3Dother", ["one", "two"]),
    ],
)
def test_selectors_choose_objects_by_label_and_field(api: ApiServer, query: str, expected: list[str]) -> None:
    api.apply(app_model("one", labels={"tier": "a", "iidp": "iidp"}))
    api.apply(app_model("two", labels={"tier": "b"}))
    api.apply(app_model("three", labels={}, namespace="other"))
    assert sorted(listed(api, query)) == expected


def test_a_field_that_cannot_be_selected_is_refused(api: ApiServer) -> None:
    code, status = fetch(api, f"{ALL}?fieldSelector=spec.app%3Dx")
    assert (code, status["message"]) == (400, "field label not supported: spec.app")


def test_a_field_selector_of_configmaps_names_the_fields_that_work(api: ApiServer) -> None:
    code, status = fetch(api, "/api/v1/configmaps?fieldSelector=data.on%3D1")
    only = '"data.on" is not a known field selector: only "metadata.name", "metadata.namespace"'
    assert (code, status["reason"], status["message"]) == (400, "BadRequest", only)


def test_an_exact_list_shows_the_past_until_it_is_compacted(api: ApiServer) -> None:
    api.apply(app_model("one"))
    then = api.revision
    api.apply(app_model("two"))
    query = f"resourceVersion={then}&resourceVersionMatch=Exact"
    assert listed(api, query) == ["one"]
    api.faults.compact()
    assert fetch(api, f"{ALL}?{query}")[0] == 410


def test_a_put_with_an_old_resource_version_conflicts(api: ApiServer) -> None:
    first = api.apply(app_model("one"))
    api.apply(app_model("one", ["changed"]))
    code, status = fetch(api, f"{HERE}/one", "PUT", first)
    assert (code, status["reason"]) == (409, "Conflict")
    del first["metadata"]["resourceVersion"]
    assert fetch(api, f"{HERE}/one", "PUT", first)[0] == 422


def test_a_post_drops_undeclared_fields_with_a_warning(api: ApiServer) -> None:
    obj = app_model("one")
    obj["spec"]["type"] = "model"
    with send(api, HERE, "POST", obj) as exchange:
        assert exchange.code == 201
        assert exchange.header("Warning") == '299 - "unknown field \\"spec.type\\""'
    stored = api.get("appmodels", "one")
    assert stored is not None
    assert "type" not in stored["spec"]
    assert fetch(api, HERE, "POST", obj)[1]["reason"] == "AlreadyExists"


def test_an_apply_removes_what_it_no_longer_claims(api: ApiServer) -> None:
    obj = app_model("one", annotations={"kept": "by another", "gone": "soon"})
    api.apply(obj, manager="first")
    other: Object = {**obj, "metadata": {"name": "one", "annotations": {"kept": "by another"}}, "spec": {}}
    api.apply(other, manager="second")
    api.apply(app_model("one"), manager="first")
    stored = api.get("appmodels", "one")
    assert stored is not None
    assert stored["metadata"]["annotations"] == {"kept": "by another"}


def test_an_unchanged_apply_writes_nothing_at_any_time(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.apply(app_model("one"), manager="b")
    monkeypatch.setattr(api.writer, "clock", lambda: datetime.now(UTC) + timedelta(seconds=5))
    second = api.apply(app_model("one"), manager="a")
    monkeypatch.setattr(api.writer, "clock", lambda: datetime.now(UTC) + timedelta(seconds=10))
    assert api.apply(app_model("one"), manager="b") == second != first


def test_one_conflict_is_one_line_of_the_message(api: ApiServer) -> None:
    api.apply(app_model("one"), manager="first")
    with pytest.raises(ApiError, match=r'with 1 conflict: conflict with "first": \.spec\.version'):
        api.apply(app_model("one", {"model": "v1"}, version="v2"), manager="second", force=False)


def test_an_apply_without_a_manager_is_refused(api: ApiServer) -> None:
    code, status = fetch(api, f"{HERE}/one", "PATCH", app_model("one"), "apply-patch+yaml")
    assert (code, status["details"]["causes"][0]["field"]) == (422, "fieldManager")


def test_a_dry_run_stores_nothing(api: ApiServer) -> None:
    assert fetch(api, f"{HERE}?dryRun=All", "POST", app_model("one"))[0] == 201
    assert api.get("appmodels", "one") is None


def test_a_finalizer_delays_the_deletion(api: ApiServer) -> None:
    obj = app_model("one")
    obj["metadata"]["finalizers"] = ["example.com/hold"]
    api.create(obj)
    assert "deletionTimestamp" in fetch(api, f"{HERE}/one", "DELETE")[1]["metadata"]
    patch = {"metadata": {"finalizers": None}}
    assert fetch(api, f"{HERE}/one", "PATCH", patch, "merge-patch+json")[0] == 200
    assert api.get("appmodels", "one") is None


def test_the_generation_counts_changes_of_the_content_only(api: ApiServer) -> None:
    api.apply(app_model("one"))
    assert api.apply(app_model("one", labels={"other": "label"}))["metadata"]["generation"] == 1
    assert api.apply(app_model("one", ["other"]))["metadata"]["generation"] == 2
    api.apply(endpoint_slice("one-a", "one", ["10.0.0.1"]))
    changed = api.apply(endpoint_slice("one-a", "one", ["10.0.0.2"]))
    assert changed["metadata"]["generation"] == 2


def test_a_streaming_list_asks_for_its_own_revision_match(api: ApiServer) -> None:
    code, status = fetch(api, f"{ALL}?watch=1&sendInitialEvents=true")
    assert (code, status["details"]["causes"][0]["field"]) == (422, "resourceVersionMatch")


def test_bookmarks_follow_events_in_their_interval() -> None:
    with ApiServer(settings=Settings(bookmark_every=0.01)) as api:
        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={api.revision}"
        with send(api, f"{ALL}?{query}") as exchange:
            api.wait_for_watches()
            api.apply(app_model("one"))
            lines = exchange.chunk()
            assert b'"ADDED"' in lines
            assert b'"BOOKMARK"' in lines or b'"BOOKMARK"' in exchange.chunk()


def test_all_objects_of_a_selection_are_deleted_at_once(api: ApiServer) -> None:
    api.apply(app_model("one"))
    api.apply(app_model("two", labels={"other": "label"}))
    assert fetch(api, f"{HERE}?labelSelector=iidp", "DELETE")[0] == 200
    assert [each["metadata"]["name"] for each in api.list("appmodels")] == ["two"]


def test_discovery_names_what_is_served(api: ApiServer) -> None:
    _, resources = fetch(api, "/apis/iidp.com/v1")
    assert [each["name"] for each in resources["resources"]] == ["appmodels"]
    _, groups = fetch(api, "/apis")
    assert "iidp.com" in [each["name"] for each in groups["groups"]]
