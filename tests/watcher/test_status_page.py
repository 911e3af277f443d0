"""The status page and `/api` over HTTP: their content, their access rules, and hidden values."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shmroute import Reader
from shmroute.rows import InvalidRow, Kind, encode
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import Replaced
from shmroute.testing import Answer, Routes
from shmroute.watcher.build import build
from shmroute.watcher.http import PageFor, serve
from shmroute.watcher.options import WatchOptions
from shmroute.watcher.status_page import Asked, render
from shmroute.watcher.views import History, Views
from shmroute.watcher.workers import workers
from tests.watcher.running import appmodel, running, wait_for

SCRIPT = "<script>alert(1)</script>"


@contextmanager
def page_of(area: str, page: PageFor = "loopback", *, show_values: bool = False) -> Iterator[int]:
    """Yield the port of a watcher that serves the model `one` and one named like a script."""
    with running(area) as it:
        server = serve(it.watcher, "127.0.0.1:0", page, show_values=show_values)
        try:
            it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two", SCRIPT))))
            it.source.in_step()
            wait_for(lambda: it.watcher.status.models == 2)
            yield server.port
        finally:
            server.close()


def ask(port: int, path: str, method: str = "GET", host: str = "localhost") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def api(port: int, path: str) -> Any:
    status, _, text = ask(port, f"/api/{path}")
    assert status == 200, text
    return json.loads(text)


def test_page_shows_the_state_without_a_script(area: str) -> None:
    with page_of(area) as port:
        status, headers, text = ask(port, "/")
        assert api(port, "status")["workers"]["count"] == 0, "the page itself is no worker"
    assert status == 200
    assert "serving, in step" in text
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy


def test_names_from_the_cluster_are_escaped_on_the_page(area: str) -> None:
    with page_of(area) as port:
        for path in (f"/?search={quote('<script>')}", f"/?model={quote(SCRIPT)}", f"/?model={quote('<b>absent')}"):
            text = ask(port, path)[2]
            assert SCRIPT not in text
            assert "<b>absent" not in text
            assert "&lt;" in text


def test_search_explains_a_model_and_answers_in_pages(area: str) -> None:
    with page_of(area) as port:
        assert "app one v1, model version 1" in ask(port, "/?model=one")[2]
        first = api(port, "models?limit=1")
        assert len(first["items"]) == 1
        second = api(port, f"models?limit=1&start={first['next']}")
        assert second["next"] is None
        names = {item["model"] for page in (first, second) for item in page["items"]}
        assert names == {"one", SCRIPT}
        assert api(port, f"models/{quote(SCRIPT, safe='')}")["model"] == SCRIPT
        assert api(port, "status")["health"]["state"] == "ok"
        assert ask(port, "/api/models/absent")[0] == 404
        assert ask(port, "/api/nothing")[0] == 404
        assert ask(port, "/api/models?start=x")[0] == 400


def test_page_is_read_only(area: str) -> None:
    with page_of(area) as port:
        for method in ("POST", "PUT", "DELETE"):
            assert ask(port, "/", method)[0] == 405


def test_page_answers_on_loopback_only_unless_asked_otherwise(area: str) -> None:
    with page_of(area) as port:
        assert ask(port, "/", host="evil.example")[0] == 403, "a name that leads to the loopback"
        assert ask(port, "/healthz", host="10.0.0.1")[0] == 200
    with page_of(area, "off") as port:
        assert ask(port, "/")[0] == 403
        assert ask(port, "/api/status")[0] == 403
    with page_of(area, "all") as port:
        assert ask(port, "/", host="10.0.0.1:9901")[0] == 200


TENANTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: first, namespace: prod}
data: {code: "<b>acme", quota: "secret 42"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: second, namespace: prod}
data: {code: "<b>acme", quota: "9"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: third, namespace: prod}
data: {code: "other/key", quota: "9"}
"""
DECLARED = "tables: {tenants: {resource: configmaps.v1, key: .data.code, value: .data}}"


@pytest.mark.parametrize("show", [False, True])
def test_declared_tables_can_be_searched_and_explained(area: str, tmp_path: Path, show: bool) -> None:
    manifests, declared = tmp_path / "manifests", tmp_path / "tables.yaml"
    manifests.mkdir()
    (manifests / "tenants.yaml").write_text(TENANTS)
    declared.write_text(DECLARED)
    watcher = build(WatchOptions(area=area, manifests=str(manifests), tables=str(declared)))
    thread = threading.Thread(target=watcher.run)
    thread.start()
    server = serve(watcher, "127.0.0.1:0", show_values=show)
    port = server.port
    try:
        wait_for(lambda: [item["rows"] for item in api(port, "tables")["items"]] == [2])
        (table,) = api(port, "tables")["items"]
        assert (table["table"], table["resource"], table["ready"]) == ("tenants", "configmaps.v1", True)
        assert [item["key"] for item in api(port, "tables/tenants?search=other")["items"]] == ["other/key"]
        alone = api(port, "tables/tenants/other/key")
        assert alone["waiting_objects"] == []
        assert alone["served_object"] == "prod/third", "the object, though no other claims the key"
        wait_for(lambda: api(port, "status")["health"]["state"] == "ok")  # no models, and none are missed
        facts = api(port, f"tables/tenants/{quote('<b>acme')}")
        assert len(facts["waiting_objects"]) == 1
        assert ("secret 42" in json.dumps(facts)) is show
        assert api(port, "events?since=10m")["items"]
        status, _, text = ask(port, "/api/events?since=abc")
        assert (status, "since='abc': write a number and s, m, h or d" in text) == (400, True)
        status, _, text = ask(port, "/api/models/nosuch")
        assert (status, "no app serves model 'nosuch' in area" in text) == (404, True)
        for missing in ("tables/absent", "tables/tenants/absent", "tables/absent/x"):
            assert ask(port, f"/api/{missing}")[0] == 404
        for path in ("/", "/?table=tenants&search=acme", f"/?table=tenants&key={quote('<b>acme')}", "/?table=%3Cb%3E"):
            text = ask(port, path)[2]
            assert "tenants" in text
            assert "<b>" not in text
            assert ("secret 42" in text) is (show and "key=" in path)
    finally:
        server.close()
        watcher.stop()
        thread.join()


@pytest.mark.parametrize("show", [False, True])
def test_metadata_values_are_hidden_unless_asked_for(area: str, show: bool) -> None:
    routes = Routes(area)
    routes.set({"one": Answer(app="app", metadata={"secret": 42})})
    facts = Views(area, show_values=show).model("one")
    routes.close()
    assert facts is not None
    assert ("secret" in json.dumps(facts)) is show


def test_set_aside_objects_are_listed_in_pages(area: str) -> None:
    rows = {
        (int(Kind.INVALID), f"AppModel east/{n}"): encode(
            InvalidRow("AppModel", "east", str(n), "bad", last_good=False)
        )
        for n in range(7)
    }
    with Publisher(area) as publisher:
        publisher.publish(rows)
    views = Views(area)
    seen, start = set(), 0
    while start is not None:
        page = views.invalid(start, 3)
        seen |= {item["name"] for item in page["items"]}
        start = page["next"]
    assert seen == {str(n) for n in range(7)}


def test_history_has_the_workers_and_the_page_what_changed(area: str) -> None:
    history = History()
    with running(area) as it, Reader(area) as reader:
        it.source.put(Replaced("appmodels", (appmodel("one", SCRIPT),)))
        it.source.in_step()
        reader.wait_ready(60)
        history.sample(it.watcher.status, workers(area))
        history.sample(it.watcher.status)
        it.source.put(Replaced("appmodels", ()))
        wait_for(lambda: Views(area).events(model=SCRIPT)["items"])
        page = render(Views(area), history.samples(), Asked())
    assert [(each["workers"], each["behind"]) for each in history.samples()] == [(1, 0), (None, None)]
    assert "Workers: 1 now" in page
    assert f"model {escape(SCRIPT)} removed: 1 by app one v1" in page
    assert SCRIPT not in page
