"""Health and metrics over HTTP, as a kubelet and Prometheus ask for them."""

from __future__ import annotations

import http.client
import itertools
import re
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shmroute.errors import ConfigError
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import AuditResult, Replaced, SourceState
from shmroute.tables import Room
from shmroute.tables.shares import Share
from shmroute.watcher import http as http_module
from shmroute.watcher.http import STANDBY_FROZEN_SECONDS, serve
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.status import FROZEN_SECONDS
from tests.processes import bound
from tests.watcher.running import SETTINGS, Clock, Told, appmodel, reading, running, wait_for


@contextmanager
def serving(watcher: WatcherLoop, listen: str = "127.0.0.1:0") -> Iterator[int]:
    """Yield the port on which the watcher's health is served."""
    server = serve(watcher, listen)
    try:
        yield server.port
    finally:
        server.close()


def ask(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_an_unreachable_api_server_does_not_fail_liveness(area: str) -> None:
    with running(area) as it, serving(it.watcher) as port:
        it.source.put(SourceState("appmodels", "backing-off", 0, "connection refused", restarts=99))
        wait_for(lambda: it.watcher.status.sources)
        assert ask(port, "/healthz") == (200, "ok\n")
        status, text = ask(port, "/readyz")
        assert status == 503
        assert "connection refused" in text


def test_readiness_begins_with_a_snapshot_and_survives_outages(area: str) -> None:
    with running(area) as it, serving(it.watcher) as port:
        assert ask(port, "/readyz")[0] == 503
        it.source.put(Replaced("appmodels", ()))
        wait_for(lambda: ask(port, "/readyz") == (200, "ok\n"))
        it.source.put(SourceState("appmodels", "backing-off", 1, "connection refused"))
        wait_for(lambda: it.watcher.status.sources)
        assert ask(port, "/readyz") == (200, "ok\nappmodels: connection refused\n"), "ready, and says what is wrong"


def test_a_standby_watcher_is_live_and_not_ready(area: str) -> None:
    publisher = Publisher(area)
    with running(area) as it, serving(it.watcher) as port:
        wait_for(lambda: it.watcher.status.problem != "")
        assert ask(port, "/healthz")[0] == 200
        assert ask(port, "/readyz")[0] == 503
    publisher.close()


def test_a_watcher_whose_loop_hangs_is_not_live(area: str) -> None:
    watcher = WatcherLoop(area, [Told()], settings=SETTINGS)  # never run
    with serving(watcher) as port:
        assert ask(port, "/healthz")[0] == 200
        watcher.turned_ns -= int(FROZEN_SECONDS * 1e9)
        status, text = ask(port, "/healthz")
        assert status == 503
        assert "has not turned for" in text


def test_unknown_paths_get_404_and_the_list_of_paths(area: str) -> None:
    with running(area) as it, serving(it.watcher) as port:
        for path in ("/health", "/healthz/", "/metrics/../etc/passwd", "//", "/api"):
            assert ask(port, path) == (404, "/healthz, /readyz, /metrics, / and /api/...\n")


def test_metrics_parse_as_prometheus_text_and_count_events(area: str) -> None:
    clock = Clock()
    with running(area, clock=clock) as it, serving(it.watcher) as port:
        it.source.put(Replaced("appmodels", (appmodel("one"),)), AuditResult("appmodels", 3, 2))
        it.source.in_step(time.monotonic_ns() - int(30e9))
        with reading(area):
            wait_for(lambda: it.watcher.status.audits and it.watcher.status.models)
        status, text = ask(port, "/metrics")
        assert status == 200
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    assert samples["shmroute_models",] == 1
    assert samples["shmroute_writing",] == 1
    assert samples["shmroute_blocked",] == 0
    assert samples["shmroute_audit_differences_total", "appmodels"] == 2
    assert samples["shmroute_snapshot_age_seconds",] >= 30
    assert "one" not in {label for name, *labels in samples for label in labels}, "no label names a model"


def test_the_snapshots_age_grows_while_the_watchers_loop_hangs(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", ()))
        it.source.in_step()
        wait_for(lambda: it.watcher.status.synced and it.watcher.status.sources)
    it.watcher.turned_ns -= int(100e9)
    with serving(it.watcher) as port:
        text = ask(port, "/metrics")[1]
    age = next(line for line in text.splitlines() if line.startswith("shmroute_snapshot_age_seconds "))
    assert float(age.split()[1]) >= 100


def test_a_silent_client_delays_no_other_request(area: str) -> None:
    with running(area) as it, serving(it.watcher) as port, socket.create_connection(("127.0.0.1", port)):
        assert ask(port, "/healthz")[0] == 200


def test_ipv6_addresses_are_bound_in_brackets(area: str) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    watcher = WatcherLoop(area, [Told()], settings=SETTINGS)
    try:
        with serving(watcher, "[::1]:0") as port:
            assert ask(port, "/healthz", "::1")[0] == 200
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_binding_asks_no_name_service(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a name service was asked, which may not answer")

    monkeypatch.setattr(socket, "getfqdn", asked)
    with serving(WatcherLoop(area, [Told()], settings=SETTINGS)):
        pass


@pytest.mark.parametrize(
    "listen", ["", "9090", "localhost", ":http", ":70000", "::1:", "256.0.0.1:0", ":\N{SUPERSCRIPT TWO}"]
)
def test_an_invalid_listen_address_is_a_usage_error(area: str, listen: str) -> None:
    watcher = WatcherLoop(area, [Told()], settings=SETTINGS)
    with pytest.raises(ConfigError, match="--listen"):
        serve(watcher, listen)


def test_a_port_in_use_is_a_usage_error_that_says_so(area: str) -> None:
    watcher = WatcherLoop(area, [Told()], settings=SETTINGS)
    with serving(watcher) as port, pytest.raises(ConfigError, match="in use"):
        serve(watcher, f"127.0.0.1:{port}")


def test_thousand_idle_connections_keep_no_probe_waiting(area: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shmroute", "watch", "--manifests", str(tmp_path), "--area", area]
    command += ["--listen", "127.0.0.1:0"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with subprocess.Popen(bound(command), stderr=subprocess.PIPE, text=True) as process, ExitStack() as connections:
        try:
            assert process.stderr is not None
            port = next(int(found[1]) for line in process.stderr if (found := re.search(r"page on port (\d+)", line)))
            assert ask(port, "/healthz") == (200, "ok\n")
            before = resident_mib(process.pid)
            for _ in range(1_000):
                connections.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert ask(port, "/healthz") == (200, "ok\n")
            assert resident_mib(process.pid) - before < 20
        finally:
            process.terminate()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_oldest_connection_is_closed_when_there_are_too_many(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "MAX_CONNECTIONS", 2)
    with running(area) as it, serving(it.watcher) as port, ExitStack() as open_connections:
        first, second, third = (
            open_connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(3)
        )
        assert first.recv(1) == b""
        for connection in (second, third):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_slow_request_ends_at_its_total_limit(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "CONNECTION_SECONDS", 0.5)
    with (
        running(area) as it,
        serving(it.watcher) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as slow,
    ):
        with suppress(OSError):
            for byte in itertools.islice(itertools.cycle(b"GET /healthz "), 1_000):
                slow.send(bytes([byte]))
                if select.select([slow], [], [], 0.05)[0]:
                    break
        assert select.select([slow], [], [], 10)[0], "closed by the server"


def test_too_large_request_head_is_refused(area: str) -> None:
    with running(area) as it, serving(it.watcher) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            answer = b""
            with suppress(ConnectionError):  # a time-out is no refusal
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (http_module.MAX_HEADER_BYTES * 4))
                answer = client.recv(15)
        assert answer in (b"HTTP/1.1 400 Ba", b"")
        assert ask(port, "/healthz") == (200, "ok\n")


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"\r\n" * 50, b"GET / HTTP/9.9\r\n\r\n", b"\0" * 999])
def test_garbage_on_the_port_prints_nothing(area: str, garbage: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with running(area) as it, serving(it.watcher) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(garbage)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
        assert ask(port, "/healthz") == (200, "ok\n")
    assert "Traceback" not in "".join(capfd.readouterr())


def test_without_a_host_both_ip_families_are_bound(area: str) -> None:
    watcher = WatcherLoop(area, [Told()], settings=SETTINGS)
    with serving(watcher, ":0") as port:
        assert ask(port, "/healthz")[0] == 200
        if socket.has_dualstack_ipv6():
            assert ask(port, "/healthz", "::1")[0] == 200


def test_readyz_and_metrics_say_which_namespace_has_no_room(area: str) -> None:
    room = Room(routes=Share(1, 10, 10_000))
    with running(area, room=room) as it, serving(it.watcher) as port:
        it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two"), appmodel("three"))))
        it.source.in_step()
        wait_for(lambda: it.watcher.status.no_room_objects == 2)
        assert ask(port, "/readyz") == (200, "ok\nno room for 2 of namespace 'test' (routes): its --share is taken\n")
        assert "shmroute_no_room_objects 2.0" in ask(port, "/metrics")[1]


def test_standby_of_a_silent_writer_is_not_healthy_for_ever(area: str) -> None:
    with Publisher(area) as publisher, running(area) as it, serving(it.watcher) as port:
        wait_for(lambda: it.watcher.status.problem != "")
        publisher.control.beat(time.monotonic_ns(), 0, synced=False)
        assert ask(port, "/healthz") == (200, "ok\n")
        publisher.control.beat(time.monotonic_ns() - int(STANDBY_FROZEN_SECONDS * 1e9), 0, synced=False)
        status, text = ask(port, "/healthz")
        assert status == 503
        assert "the watcher that holds area" in text
