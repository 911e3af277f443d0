"""Redis missing, dead, hung, slow, failing over or with bad values: routes stay, metadata follows later."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shmroute import MetadataNotJson, Reader
from shmroute.metadata.redis_store import RedisStore
from shmroute.shm.control import ControlReader
from shmroute.watcher.status import decode_status
from tests.faults.watching import watch_process
from tests.metadata import worker as worker_module
from tests.metadata.odd_redis import Answer, always, odd_redis
from tests.metadata.redis_groups import far_away, sentinelled, wait_for
from tests.metadata.watching import Watching, appmodel, watching
from tests.processes import bound
from tests.redis_server import RedisServer


def fill(server: RedisServer, values: dict[str, bytes | str]) -> None:
    with server.client() as client:
        client.mset(values)


def value(version: str, size: int = 0) -> bytes:
    return json.dumps({"version": version, "schema": "x" * size}).encode()


# --- away ---------------------------------------------------------------------------------------------------


def test_routes_are_served_without_redis_and_metadata_follows(redis_server: RedisServer, area: str) -> None:
    redis_server.kill()
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"a": "v-1", "b": "v-1"})])
        it.wait_routed("a", "v-1")
        it.wait_state("b", "pending", "onnect")
        assert it.reader.resolve("a").metadata is None
        redis_server.start()
        fill(redis_server, {"app_a": value("v-1"), "app_b": value("v-1")})
        it.wait_loaded("a", "b")
        assert it.loader.problem == ""


def test_only_changed_versions_are_read_after_a_redis_outage(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_a": value("v-1"), "app_b": value("v-1")})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"a": "v-1", "b": "v-1"})])
        it.wait_loaded("a", "b")
        redis_server.kill()
        for number in range(2, 20):
            it.change(appmodel("app", {"a": f"v-{number}", "b": "v-1"}, version=f"v-{number}"))
        it.wait_routed("a", "v-19")
        route = it.reader.resolve("a")
        assert (route.metadata, route.metadata_version, route.last_metadata["version"]) == (None, "v-1", "v-1")
        it.wait_state("a", "pending")
        redis_server.start()
        fill(redis_server, {"app_a": value("v-19")})
        it.wait_loaded("a")
        assert it.reader.resolve("a").metadata["version"] == "v-19"
        route = it.reader.resolve("b")
        assert (route.metadata_state, route.metadata["version"]) == ("loaded", "v-1"), "though the server lost it"


def test_watcher_follows_when_sentinel_replaces_a_dead_master(tmp_path: Path, area: str) -> None:
    with sentinelled(tmp_path) as group:
        fill(group.master, {"app_a": value("v-1"), "app_b": value("v-1")})
        group.wait_for_replica()
        with watching(area, RedisStore(group.url, connect_timeout_seconds=0.5)) as it:
            it.list([appmodel("app", {"a": "v-1"})])
            it.wait_loaded("a")
            group.master.kill()
            it.change(appmodel("app", {"a": "v-1", "b": "v-1"}, version="v-2"))
            it.wait_routed("b", "v-1")
            it.wait_loaded("b")


def test_wrong_redis_password_is_reported_until_it_is_right(area: str) -> None:
    with RedisServer(password="s3cret") as server:
        fill(server, {"app_a": value("v-1")})
        with watching(area, RedisStore(f"redis://:wr0ng@127.0.0.1:{server.port}")) as it:
            it.list([appmodel("app", {"a": "v-1"})])
            it.wait_state("a", "pending", "password")
            assert "wr0ng" not in it.loader.problem
            with server.client() as client:
                client.config_set("requirepass", "wr0ng")
            it.wait_loaded("a")
            server.password = "wr0ng"


# --- hung and slow ------------------------------------------------------------------------------------------


def changing(it: Watching, models: int, number: int) -> str:
    """Bump one model of an app of its own; returns the version it has now."""
    model = number % models
    version = f"v-{number // models + 2}"
    it.change(appmodel(f"app-{model}", {f"m-{model}": version}, version=version))
    return version


def begin(server: RedisServer, it: Watching, models: int, size: int) -> None:
    fill(server, {f"app-{model}_m-{model}": value("v-1", size) for model in range(models)})
    it.list(appmodel(f"app-{model}", {f"m-{model}": "v-1"}) for model in range(models))
    it.wait_loaded(*(f"m-{model}" for model in range(models)))


def end(server: RedisServer, it: Watching, models: int, changes: int, size: int) -> dict[str, str]:
    """Write what the changes want; returns the version each model must come to."""
    wanted = {f"m-{number % models}": f"v-{number // models + 2}" for number in range(changes)}
    server.thaw()
    fill(server, {f"app-{model[2:]}_{model}": value(version, size) for model, version in wanted.items()})
    return wanted


@pytest.mark.fault(22)
def test_hung_redis_delays_no_route_and_metadata_is_right_later(redis_server: RedisServer, area: str) -> None:
    models, changes = 50, 300
    with watching(area, RedisStore(redis_server.url, read_timeout_seconds=0.5)) as it:
        begin(redis_server, it, models, 4_096)
        redis_server.freeze()
        for number in range(changes):
            version = changing(it, models, number)
            it.wait_routed(f"m-{number % models}", version)
        assert it.counters.pending == models
        assert it.reader.resolve("m-0").metadata is None
        assert it.reader.resolve("m-0").last_metadata["version"] == "v-1"
        wait_for(lambda: it.counters.failures >= 2)
        wanted = end(redis_server, it, models, changes, 4_096)
        it.wait_loaded(*wanted)
        for model, version in wanted.items():
            route = it.reader.resolve(model)
            assert (route.version, route.metadata_version, route.metadata["version"]) == (version, version, version)
        assert it.counters.pending == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_redis_hung_for_30_s_delays_none_of_100_changes_a_second(redis_server: RedisServer, area: str) -> None:
    models, size, rate, seconds = 500, 4_096, 100, 30
    with watching(area, RedisStore(redis_server.url)) as it:
        begin(redis_server, it, models, size)
        before = statistics.median(one_change(it, models, number, rate) for number in range(5 * rate))
        own_before = worker_module.memory()
        redis_server.freeze()
        changes = range(5 * rate, (5 + seconds) * rate)
        during = statistics.median(one_change(it, models, number, rate) for number in changes)
        grown = worker_module.memory() - own_before
        wanted = end(redis_server, it, models, changes.stop, size)
        started = time.monotonic()
        it.wait_loaded(*wanted)
        took = time.monotonic() - started
        for model, version in wanted.items():
            assert it.reader.resolve(model).metadata["version"] == version
    print(f"median {before * 1e3:.2f} ms, {during * 1e3:.2f} ms while hung; {grown} bytes; right after {took:.2f} s")
    assert during <= 2 * before + 0.001
    assert grown < 16 * 1024 * 1024
    assert took < 5.0


def one_change(it: Watching, models: int, number: int, rate: int) -> float:
    """Make a change, and return the seconds until the worker sees it; called `rate` times per second."""
    began = time.perf_counter()
    version = changing(it, models, number)
    while it.reader.resolve(f"m-{number % models}").version != version:
        assert time.perf_counter() < began + 10
        time.sleep(0.0001)
    took = time.perf_counter() - began
    time.sleep(max(0.0, 1 / rate - took))
    return took


def test_values_of_a_slow_redis_arrive_later(redis_server: RedisServer, area: str) -> None:
    with far_away(redis_server.port, 0.05) as port, watching(area, RedisStore(f"redis://127.0.0.1:{port}")) as it:
        begin(redis_server, it, 100, 1_000)
        assert it.counters.failures == 0


def test_answer_for_an_older_version_is_not_published_under_a_newer_one(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_m": b'"of v-1"'})
    with watching(area, RedisStore(redis_server.url, read_timeout_seconds=60.0)) as it:
        it.list([appmodel("app", {"other": "v-1"})])
        it.wait_state("other", "missing")
        redis_server.freeze()
        it.change(appmodel("app", {"m": "v-1", "other": "v-1"}, version="v-2"))
        it.wait_routed("m", "v-1")
        wait_for(lambda: it.loader._reading_since > 0)
        time.sleep(0.1)  # so that the question is on its way, most likely
        it.change(appmodel("app", {"m": "v-2", "other": "v-1"}, version="v-3"))
        it.wait_routed("m", "v-2")
        redis_server.thaw()
        it.wait_loaded("m")
        route = it.reader.resolve("m")
        assert (route.metadata_version, route.metadata) == ("v-2", "of v-1")
        assert redis_server.commandstats()["mget"] >= 3, "the answer to v-1 did not count for v-2: it was read again"


# --- late writes --------------------------------------------------------------------------------------------


@contextmanager
def workers(area: str, count: int, *models: str) -> Iterator[list[subprocess.Popen[str]]]:
    assert worker_module.__file__
    command = bound([sys.executable, worker_module.__file__, area, *models])
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ask(process: subprocess.Popen[str], word: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.mark.fault(22)
@pytest.mark.parametrize("late_seconds", [0.0, 0.5, pytest.param(3.0, marks=pytest.mark.long)])
def test_no_worker_ever_sees_the_old_value_under_the_new_version(
    redis_server: RedisServer, area: str, late_seconds: float
) -> None:
    models = [f"m-{number}" for number in range(10)]
    fill(redis_server, {f"app_{model}": value("v-1", 1_000) for model in models})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", dict.fromkeys(models, "v-1"))])
        it.wait_loaded(*models)
        with workers(area, 2, *models) as started:
            for process in started:
                wait_for(lambda process=process: ask(process, "check")["looks"] > 100)  # type: ignore[misc]
            for number in range(2, 4):
                version = f"v-{number}"
                it.change(appmodel("app", dict.fromkeys(models, version), version=version))
                it.wait_routed(models[-1], version)
                time.sleep(late_seconds)
                fill(redis_server, {f"app_{model}": value(version, 1_000) for model in models})
                written = time.monotonic()
                it.wait_loaded(*models)
                took = time.monotonic() - written
                assert all(it.reader.resolve(model).metadata["version"] == version for model in models)
                if late_seconds >= 3.0:
                    assert took < 2.0
            for process in started:
                seen = ask(process, "check")["looks"]
                wait_for(lambda process=process, seen=seen: ask(process, "check")["looks"] > seen)  # type: ignore[misc]
                assert ask(process, "check")["errors"] == []


# --- what it should not hold --------------------------------------------------------------------------------


def test_unusable_values_do_not_delay_others(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_good": b"1", "app_large": b"x" * 5_000_000, "app_raw": b"\xff\xfe\x00", "app_empty": b""})
    with redis_server.client() as client:
        client.hset("app_hash", "field", "value")
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", dict.fromkeys(("good", "large", "raw", "hash", "empty"), "v-1"))])
        it.wait_loaded("good", "raw", "empty")
        it.wait_state("large", "too-large", "the value has 5000000 bytes, the limit is 1048576")
        it.wait_state("hash", "wrong-type", "the key holds a hash, not a string")
        assert it.reader.resolve("large").app == "app"
        assert it.reader.resolve("large").metadata is None
        assert it.reader.resolve("raw").metadata_bytes == b"\xff\xfe\x00"
        assert it.reader.resolve("empty").metadata_bytes == b""
        with pytest.raises(MetadataNotJson):
            _ = it.reader.resolve("raw").metadata
        with redis_server.client() as client:
            client.delete("app_hash")
            client.set("app_hash", b"[]")
        it.wait_loaded("hash")


def test_a_value_over_the_limit_is_not_read_again_while_others_are(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_large": b"x" * 5_000_000})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"large": "v-1", "missing": "v-1"})])
        it.wait_state("large", "too-large")
        reads = it.counters.reads
        wait_for(lambda: it.counters.reads >= reads + 3)
        sent = bytes_sent(redis_server)
        assert sent < 2 * 5_000_000
        fill(redis_server, {"app_large": value("v-2")})
        it.change(appmodel("app", {"large": "v-2"}, version="v-2"))
        it.wait_routed("large", "v-2")
        it.wait_loaded("large")


def bytes_sent(server: RedisServer) -> int:
    with server.client() as client:
        stats: dict[str, int] = client.info("stats")
    return stats["total_net_output_bytes"]


# --- memory -------------------------------------------------------------------------------------------------


def test_metadata_bytes_are_in_memory_once_for_all_workers(redis_server: RedisServer, area: str) -> None:
    models, size, count = 1_500, 4_096, 8
    names = [f"m-{number:05}" for number in range(models)]
    with redis_server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.set(f"app-{name[2:5]}_{name}", value("v-1", size))
        pipeline.execute()
    apps = [
        appmodel(f"app-{part:03}", dict.fromkeys(names[part * 100 : part * 100 + 100], "v-1"))
        for part in range(models // 100)
    ]
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list(apps)
        it.wait_loaded(*names)
        with workers(area, count) as started:
            for process in started:
                assert ask(process, "resolve") == models
            own_before = sum(ask(process, "memory") for process in started)
            for process in started:
                assert ask(process, "touch") >= models * size
            grown = sum(ask(process, "memory") for process in started) - own_before
    copies = count * models * size
    print(f"{grown} bytes grown of {copies} for private copies")
    assert grown + models * size < copies / 4, "with the one copy in shared memory"


# --- hostile ------------------------------------------------------------------------------------------------


def manifest(folder: Path, version: str, *models: str) -> None:
    listed = ", ".join(f"{{name: {model}, version: {version}}}" for model in models)
    text = (
        "apiVersion: iidp.com/v1\nkind: AppModel\nmetadata: {name: app}\n"
        f"spec: {{app: app, version: {version}, models: [{listed}]}}\n"
    )
    (folder / ".app").write_text(text)
    (folder / ".app").rename(folder / "app.yaml")


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.fault(46)
def test_value_of_any_size_costs_the_watcher_nothing(redis_server: RedisServer, area: str, tmp_path: Path) -> None:
    with redis_server.client() as client:
        client.setrange("app_large", 200 * 1024 * 1024, b"x")
        client.mset({"app_small": value("v-1"), "app_other": value("v-1")})
    manifest(tmp_path, "v-1", "small", "large", "other")
    with watch_process(area, "--manifests", tmp_path, "--redis", redis_server.url) as process, Reader(area) as reader:
        reader.wait_ready(20)
        for model in ("small", "other"):
            wait_for(lambda model=model: reader.resolve(model).metadata is not None)  # type: ignore[misc]
        wait_for(lambda: reader.resolve("large").metadata_state == "too-large")
        assert peak_bytes(process.pid) < 150 * 1024 * 1024
        assert bytes_sent(redis_server) < 50 * 1024 * 1024, "what the server had sent before the connection was closed"


def drip(_: list[bytes], connection: socket.socket) -> None:
    for _number in range(600):
        connection.sendall(b"*")
        time.sleep(0.1)


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    "answer",
    [drip, always(b"*1\r\n" * 5_000), always(b"$abc\r\n"), always(b"*0\r\n")],
    ids=["drip", "deep", "odd", "few"],
)
def test_redis_sending_garbage_stops_no_route(area: str, tmp_path: Path, answer: Answer) -> None:
    manifest(tmp_path, "v-1", "one")
    with (
        odd_redis(answer) as server,
        watch_process(area, "--manifests", tmp_path, "--redis", server.url) as process,
        Reader(area) as reader,
    ):
        reader.wait_ready(20)
        wait_for(lambda: len(server.commands) >= 2, 30.0)
        manifest(tmp_path, "v-2", "one", "two")
        wait_for(lambda: reader.get("two") is not None)
        route = reader.resolve("one")
        assert (route.version, route.metadata, route.metadata_state) == ("v-2", None, "pending")
        wait_for(lambda: bool(status_problem(area)))
        assert process.poll() is None


def status_problem(area: str) -> str:
    """Return why the watcher of the area cannot read metadata."""
    status = decode_status(ControlReader(area).status() or b"")
    return status.metadata.problem if status is not None and status.metadata is not None else ""
