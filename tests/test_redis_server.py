"""The Redis server for tests is a real one, and ends with the test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.processes import is_running
from tests.redis_server import RedisServer, RedisServerMissing, find_redis_server

WAIT_SECONDS = 20.0


def test_redis_server_answers_over_tcp_and_its_unix_socket() -> None:
    with RedisServer() as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        with redis.Redis.from_url(server.unix_url) as client:
            assert client.get("key") == b"value"


def test_two_servers_share_nothing() -> None:
    with RedisServer() as one, RedisServer() as other:
        with one.client() as client:
            client.set("key", "value")
        with other.client() as client:
            assert client.get("key") is None


def test_redis_requires_the_password_and_its_urls_contain_it() -> None:
    with RedisServer(password="secret") as server:
        for url in (server.url, server.unix_url):
            with redis.Redis.from_url(url) as client:
                assert client.ping()
        with (
            redis.Redis.from_url(server.url.replace("secret", "wrong")) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_options_reach_the_server() -> None:
    with RedisServer(options=("--maxclients", "20")) as server, server.client() as client:
        assert client.config_get("maxclients") == {"maxclients": "20"}


def test_commands_are_counted_by_name(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.get("one")
        client.get("two")
        client.mget("one", "two")
    stats = redis_server.commandstats()
    assert (stats["get"], stats["mget"]) == (2, 1)


def test_counting_starts_again_after_a_reset(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.get("one")
    redis_server.reset_stats()
    assert "get" not in redis_server.commandstats()


def test_a_frozen_server_accepts_connections_and_answers_nothing(redis_server: RedisServer) -> None:
    redis_server.freeze()
    with socket.create_connection(("127.0.0.1", redis_server.port), WAIT_SECONDS) as connection:
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        redis_server.thaw()
        connection.settimeout(WAIT_SECONDS)
        assert connection.recv(100) == b"+PONG\r\n"


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
def test_restarted_redis_server_is_empty_at_the_same_addresses(end: object) -> None:
    with RedisServer() as server:
        addresses = server.url, server.unix_url
        with server.client() as client:
            client.set("key", "value")
        end(server)  # type: ignore[operator]
        with redis.Redis.from_url(server.url) as client, pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert (server.url, server.unix_url) == addresses
        with server.client() as client:
            assert client.get("key") is None


def test_redis_server_block_leaves_no_process_even_if_frozen() -> None:
    with RedisServer() as server:
        pid, directory = server.pid, server.directory
        server.freeze()
    assert not is_running(pid)
    assert not directory.exists()


def test_another_port_is_tried_if_one_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports = iter([taken.getsockname()[1], free.getsockname()[1]])
        free.close()
        monkeypatch.setattr("tests.redis_server.free_port", lambda: next(ports))
        with RedisServer() as server:
            assert server.port != taken.getsockname()[1]


def test_redis_that_does_not_start_is_reported_with_its_output() -> None:
    server = RedisServer(options=("--no-such-option", "1"))
    with pytest.raises(RuntimeError, match=r"redis-server ended"):
        server.start()
    server.close()


def test_redis_server_dies_with_a_killed_test_run() -> None:
    code = (
        "import time; from tests.redis_server import RedisServer\n"
        "server = RedisServer(); server.start(); print(server.pid, server.directory, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        pid, directory = run.stdout.readline().split()
        assert is_running(int(pid))
        run.kill()
    deadline = time.monotonic() + WAIT_SECONDS
    while is_running(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for left in Path(directory).iterdir():
        left.unlink()
    Path(directory).rmdir()


def test_the_program_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    program = find_redis_server()
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("SHMROUTE_REDIS_SERVER", str(program))
    assert find_redis_server() == program


def test_without_the_program_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMROUTE_REDIS_SERVER", "/nonexistent/redis-server")
    with pytest.raises(RedisServerMissing, match=r"apt-get install redis-server.*SHMROUTE_REDIS_SERVER"):
        find_redis_server()


def test_redis_server_process_has_no_wrapper(redis_server: RedisServer) -> None:
    assert Path(f"/proc/{redis_server.pid}/exe").readlink() == find_redis_server().resolve()
