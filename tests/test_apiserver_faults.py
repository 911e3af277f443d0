"""The test API server fails exactly as a test requests."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver import (
    ApiServer,
    app_model,
    app_models,
    endpoint_slice,
    make_certificates,
)
from tests.apiserver.encoding import Object
from tests.apiserver.rawhttp import TIMEOUT_SECONDS, RawExchange

ALL = "/apis/iidp.com/v1/appmodels"
ONE = "/apis/iidp.com/v1/namespaces/default/appmodels/one"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def send(api: ApiServer, target: str, method: str = "GET", close: bool = True) -> RawExchange:
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nUser-Agent: test/1\r\n"
    head += f"Authorization: Bearer {api.auth.token}\r\n"
    head += "Connection: close\r\n\r\n" if close else "\r\n"
    return RawExchange("127.0.0.1", api.port, head.encode())


def fetch(api: ApiServer, target: str = ALL) -> tuple[int, Object]:
    with send(api, target) as exchange:
        body = exchange.body()
        return exchange.code, json.loads(body) if body.startswith(b"{") else {}


def watch(api: ApiServer, query: str = "", path: str = ALL) -> RawExchange:
    open_before = api.open_watches()
    exchange = send(api, f"{path}?watch=1&allowWatchBookmarks=true{query}")
    api.wait_for_watches(open_before + 1)
    return exchange


def from_now(api: ApiServer) -> str:
    return f"&resourceVersion={api.revision}"


def event(exchange: RawExchange) -> Object:
    parsed: Object = json.loads(exchange.chunk())
    return parsed


def name_of(parsed: Object) -> tuple[str, str]:
    return parsed["type"], parsed["object"]["metadata"]["name"]


# -- connections ----------------------------------------------------------------------------


def test_connections_are_refused_and_accepted_again_on_the_same_port(api: ApiServer) -> None:
    idle = socket.create_connection(("127.0.0.1", api.port), TIMEOUT_SECONDS)
    api.wait_until(lambda: api.connections == 1)
    api.faults.refuse()
    with pytest.raises(ConnectionRefusedError):
        fetch(api)
    with idle:
        assert idle.recv(1) == b""
    api.faults.accept()
    assert fetch(api)[0] == 200


def test_a_closed_server_leaves_neither_port_nor_threads() -> None:
    before = threading.active_count()
    with ApiServer() as server:
        port = server.port
        exchange = watch(server)
    exchange.close()
    assert threading.active_count() == before
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_keep_alive_serves_several_requests_on_one_connection(api: ApiServer) -> None:
    head = f"GET /version HTTP/1.1\r\nAuthorization: Bearer {api.auth.token}\r\n\r\n"
    with send(api, "/version", close=False) as exchange:
        exchange.body()
        exchange._sock.sendall(head.encode())
        assert exchange._file.readline().startswith(b"HTTP/1.1 200")
    assert api.connections == 1
    assert len(api.requests) == 2


# -- responses ------------------------------------------------------------------------------


def test_an_error_is_answered_the_given_number_of_times(api: ApiServer) -> None:
    fault = api.faults.unavailable(times=2, retry_after=7, verb="list")
    with send(api, ALL) as exchange:
        assert exchange.code == 503
        assert exchange.header("Retry-After") == "7"
    assert fetch(api)[0] == 503
    assert fetch(api)[0] == 200
    assert fault.hits == 2


def test_an_error_lasts_until_it_is_cancelled(api: ApiServer) -> None:
    with api.faults.too_many_requests(resource="appmodels"):
        assert fetch(api)[0] == 429
        assert fetch(api, "/apis/discovery.k8s.io/v1/endpointslices")[0] == 200
    assert fetch(api)[0] == 200


def test_an_injected_error_ends_after_its_time(api: ApiServer) -> None:
    api.faults.fail(500, seconds=0.0)
    assert fetch(api)[0] == 200


def test_a_rotated_token_is_refused_until_the_new_one_is_used(api: ApiServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    api.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)
    old = api.auth.token
    new = api.auth.rotate()
    request = f"GET {ALL} HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer {old}\r\n\r\n"
    with RawExchange("127.0.0.1", api.port, request.encode()) as exchange:
        assert exchange.code == 401
    assert token_file.read_text() == old
    assert api.auth.token == new
    assert fetch(api)[0] == 200


def test_a_revoked_verb_is_forbidden_until_it_is_granted(api: ApiServer) -> None:
    api.auth.forbid("watch", "appmodels")
    code, status = fetch(api, f"{ALL}?watch=1")
    assert code == 403
    assert status["message"] == (
        'appmodels.iidp.com is forbidden: User "admin" cannot watch resource "appmodels" in API '
        'group "iidp.com" at the cluster scope'
    )
    assert fetch(api)[0] == 200
    api.auth.permit()
    watch(api).close()


def test_the_body_of_a_page_is_cut_at_a_byte(api: ApiServer) -> None:
    api.preload(app_models(6))
    api.faults.cut_body(100, page=2)
    code, first = fetch(api, f"{ALL}?limit=2")
    assert code == 200
    second = f"{ALL}?limit=2&continue={first['metadata']['continue']}"
    with send(api, second) as exchange, pytest.raises(EOFError, match="100 of"):
        exchange.body()
    assert fetch(api, second)[0] == 200


def test_a_chunked_body_is_cut_within_a_chunk(api: ApiServer) -> None:
    api.preload(app_models(100))
    api.faults.cut_body(40_000)
    with send(api, ALL) as exchange, pytest.raises(EOFError):
        exchange.body()


def test_a_page_can_fail(api: ApiServer) -> None:
    api.preload(app_models(4))
    api.faults.fail_page(2, 503)
    _, first = fetch(api, f"{ALL}?limit=2")
    assert fetch(api, f"{ALL}?limit=2&continue={first['metadata']['continue']}")[0] == 503


def test_a_hanging_request_ends_when_the_fault_is_cancelled(api: ApiServer) -> None:
    fault = api.faults.hang(verb="list")
    with socket.create_connection(("127.0.0.1", api.port), TIMEOUT_SECONDS) as sock:
        sock.sendall(f"GET {ALL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        api.wait_until(lambda: fault.hits == 1)
        fault.cancel()
        assert sock.recv(1) == b""


def test_a_hanging_server_still_closes() -> None:
    with ApiServer() as server:
        fault = server.faults.hang()
        sock = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS)
        sock.sendall(b"GET /version HTTP/1.1\r\n\r\n")
        server.wait_until(lambda: fault.hits == 1)
    with sock:
        assert sock.recv(1) == b""


def test_trickled_and_rechunked_bodies_arrive_whole(api: ApiServer) -> None:
    api.preload(app_models(3))
    expected = fetch(api)[1]
    with api.faults.trickle(piece_bytes=64, pause_seconds=0.0001), api.faults.chunk(100):
        assert fetch(api)[1] == expected
    with api.faults.delay(0.001):
        assert fetch(api)[1] == expected


# -- watches --------------------------------------------------------------------------------


def test_events_during_injected_silence_are_lost(api: ApiServer) -> None:
    with watch(api, from_now(api)) as exchange:
        with api.faults.silence("appmodels") as fault:
            api.apply(app_model("lost"))
            api.wait_until(lambda: fault.hits == 1)
        api.apply(app_model("seen"))
        assert name_of(event(exchange)) == ("ADDED", "seen")


def test_a_frozen_watch_delivers_everything_later(api: ApiServer) -> None:
    with watch(api, from_now(api)) as exchange:
        with api.faults.freeze():
            api.apply(app_model("one"))
            api.apply(app_model("two"))
        lines = exchange.chunk().splitlines()
        assert [name_of(json.loads(each))[1] for each in lines] == ["one", "two"]


def test_a_dropped_event_is_lost_in_every_watch(api: ApiServer) -> None:
    api.faults.drop_event(name="two")
    with watch(api, from_now(api)) as first, watch(api, from_now(api)) as second:
        for name in ("one", "two", "three"):
            api.apply(app_model(name))
            if name != "two":
                assert name_of(event(first)) == ("ADDED", name)
                assert name_of(event(second)) == ("ADDED", name)


def test_streams_end_properly_or_are_cut(api: ApiServer) -> None:
    with watch(api, from_now(api)) as exchange:
        assert api.faults.end_streams() == 1
        assert exchange.chunk() == b""
    with watch(api, from_now(api)) as exchange:
        assert api.faults.cut_streams("appmodels") == 1
        with pytest.raises(EOFError):
            exchange.chunk()
    with watch(api, from_now(api)) as exchange:
        api.faults.cut_streams(reset=True)
        with pytest.raises(ConnectionResetError):
            exchange.chunk()


def test_watches_end_at_once_the_given_number_of_times(api: ApiServer) -> None:
    api.preload(app_models(2))
    api.faults.end_at_once(times=2)
    for _ in range(2):
        with send(api, f"{ALL}?watch=1") as exchange:
            assert exchange.chunk() == b""
    with watch(api) as exchange:
        assert exchange.chunk()


def test_a_streaming_list_is_cut_before_its_bookmark(api: ApiServer) -> None:
    api.preload(app_models(5))
    api.faults.cut_after_lines(5)
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    received = b""
    with send(api, f"{ALL}?{query}&allowWatchBookmarks=true") as exchange:
        while received.count(b"\n") < 5:
            received += exchange.chunk()
        with pytest.raises(EOFError):
            exchange.chunk()
    assert received.count(b'"ADDED"') == 5
    assert b"BOOKMARK" not in received


@pytest.mark.parametrize("http", [False, True])
def test_a_streaming_list_is_refused_in_the_stream_or_by_status(api: ApiServer, http: bool) -> None:
    api.faults.refuse_streaming_lists(http=http)
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    code, answer = fetch(api, f"{ALL}?{query}")
    if http:
        assert (code, answer["reason"]) == (422, "Invalid")
    else:
        assert (code, answer["type"], answer["object"]["code"]) == (200, "ERROR", 500)


@pytest.mark.parametrize("http", [False, True])
def test_a_watch_gets_410_in_the_stream_or_as_status(api: ApiServer, http: bool) -> None:
    api.faults.gone(http=http)
    code, answer = fetch(api, f"{ALL}?watch=1&resourceVersion={api.revision}")
    status = answer if http else answer["object"]
    assert code == (410 if http else 200)
    assert (status["code"], status["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("inject", "expected"),
    [
        ("inject_garbage", b"<html>"),
        ("inject_blank_line", b"\n"),
        ("inject_half_line", b'{"type":"MODIFIED","object":{"apiVersion":"iidp'),
        ("inject_bad_utf8", b'{"type":"ADDED","object":{"metadata":{"name":"\xff'),
        ("inject_unknown_type", b'{"type":"EXPLODED"'),
        ("inject_error", b'{"type":"ERROR"'),
    ],
)
def test_injected_bytes_reach_every_open_watch(api: ApiServer, inject: str, expected: bytes) -> None:
    with watch(api, from_now(api)) as exchange:
        assert getattr(api.faults, inject)() == 1
        chunk = exchange.chunk()
        assert chunk.startswith(expected)
        assert b'"code"' not in chunk


def test_events_are_cut_across_chunks(api: ApiServer) -> None:
    api.preload(app_models(2))
    with api.faults.chunk(7), send(api, f"{ALL}?watch=1&timeoutSeconds=600") as exchange:
        assert [len(exchange.chunk()) for _ in range(10)] == [7] * 10


def test_a_slow_client_of_one_watch_does_not_delay_another(api: ApiServer) -> None:
    api.preload(app_models(3))
    api.faults.trickle(1, 10.0, times=1)
    with watch(api), watch(api, from_now(api)) as exchange:
        api.apply(app_model("quick"))
        assert name_of(event(exchange)) == ("ADDED", "quick")


# -- storage --------------------------------------------------------------------------------


def test_compaction_makes_old_watches_and_tokens_expire(api: ApiServer) -> None:
    api.preload(app_models(4))
    _, first = fetch(api, f"{ALL}?limit=2")
    old = first["metadata"]["resourceVersion"]
    api.apply(app_model("later"))
    api.faults.compact()
    code, status = fetch(api, f"{ALL}?limit=2&continue={first['metadata']['continue']}")
    assert (code, status["reason"]) == (410, "Expired")
    _, line = fetch(api, f"{ALL}?watch=1&resourceVersion={old}")
    assert line["object"]["code"] == 410


def test_a_rewound_store_shows_its_earlier_objects_and_revision(api: ApiServer) -> None:
    api.apply(app_model("early"))
    backup = api.faults.backup()
    api.apply(app_model("late"))
    api.delete("appmodels", "early")
    with watch(api, from_now(api)) as exchange:
        api.faults.rewind(backup)
        _, listed = fetch(api)
        assert [each["metadata"]["name"] for each in listed["items"]] == ["early"]
        assert listed["metadata"]["resourceVersion"] == str(backup.revision)
        # The watch is from a revision that lies in the future now: it says nothing of this.
        api.apply(app_model("unseen"))
        api.faults.end_streams()
        assert exchange.chunk() == b""


def test_later_pages_show_the_state_of_the_first(api: ApiServer) -> None:
    api.preload(app_models(4))
    _, first = fetch(api, f"{ALL}?limit=2")
    assert first["metadata"]["remainingItemCount"] == 2
    api.delete("appmodels", "app-000002")
    api.apply(app_model("app-000003", ["other"]))
    api.apply(app_model("app-000004"))
    _, second = fetch(api, f"{ALL}?limit=2&continue={first['metadata']['continue']}")
    assert [each["metadata"]["name"] for each in second["items"]] == ["app-000002", "app-000003"]
    assert second["items"][1]["spec"]["models"][0]["name"] == "m-000003-0"
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_malformed_objects_are_stored_unchanged(api: ApiServer) -> None:
    api.put({**app_model("one"), "spec": {"app": 7, "models": "none"}})
    assert fetch(api, ONE)[1]["spec"] == {"app": 7, "models": "none"}


def test_a_definition_is_served_after_it_is_established() -> None:
    with ApiServer(crd=False, establish_after=None) as api:
        assert fetch(api)[0] == 404
        with pytest.raises(KeyError):
            api.apply(app_model("one"))
        api.install()
        api.apply(app_model("one"))
        assert fetch(api, ONE)[0] == 200
        with watch(api, from_now(api)) as exchange:
            api.delete("customresourcedefinitions", "appmodels.iidp.com")
            assert json.loads(exchange.chunk())["type"] == "DELETED"
            assert exchange.chunk() == b""
        assert fetch(api)[0] == 404


def test_a_bookmark_comes_on_demand(api: ApiServer) -> None:
    with watch(api, from_now(api)) as exchange:
        revision = api.bump(10)
        assert api.bookmark() == 1
        bookmark = event(exchange)
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["metadata"] == {"resourceVersion": str(revision)}


def test_a_cache_that_cannot_ask_the_storage_calls_a_bookmark_too_large() -> None:
    with ApiServer(progress=False, freshness_timeout=0.0) as api:
        revision = api.bump(10)
        code, status = fetch(api, f"{ALL}?resourceVersion={revision}")
        assert (code, status["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
        assert fetch(api)[1]["metadata"]["resourceVersion"] == str(revision)


# -- the rest -------------------------------------------------------------------------------


def test_requests_are_logged_with_verb_and_resource(api: ApiServer) -> None:
    api.apply(endpoint_slice("one-a", "one", ["10.0.0.1"]))
    fetch(api, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?limit=5")
    (request,) = api.requests.wait(1, "list", "endpointslices")
    assert (request.method, request.namespace) == ("GET", "default")
    assert (request.user_agent, request.query) == ("test/1", {"limit": "5"})
    assert api.requests.count("watch") == 0


def test_certificates_can_be_changed_under_a_running_server(tmp_path: Path) -> None:
    first = make_certificates(tmp_path, "first")
    with ApiServer(certificates=first) as api:
        config = api.kubeconfig(tmp_path / "kubeconfig").read_text()
        assert str(first.ca) in config

        def connect(ca: Path) -> None:
            context = ssl.create_default_context(cafile=ca)
            address = ("127.0.0.1", api.port)
            with socket.create_connection(address, TIMEOUT_SECONDS) as sock:
                context.wrap_socket(sock, server_hostname="127.0.0.1").close()

        connect(first.ca)
        second = make_certificates(tmp_path, "second")
        api.use_certificates(second)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(first.ca)
        connect(second.ca)
