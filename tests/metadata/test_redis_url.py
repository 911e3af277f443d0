from __future__ import annotations

import traceback
from typing import Any

import pytest
from redis import Redis

from shmroute.errors import ConfigError
from shmroute.metadata.redis_url import Target, target


def at(url: str) -> Target:
    return target(url, connect_timeout_seconds=1.0, read_timeout_seconds=2.0)


def options(url: str) -> dict[str, Any]:
    """What connections are made with."""
    client = at(url).connect()
    assert isinstance(client, Redis)
    found: dict[str, Any] = client.connection_pool.connection_kwargs
    return found


def test_a_server_over_tcp_with_user_password_and_database() -> None:
    assert at("redis://reader:p%40ss%2Fword@redis.local:6380/3").name == "redis://redis.local:6380/3"
    found = options("redis://reader:p%40ss%2Fword@redis.local:6380/3")
    assert {name: found[name] for name in ("host", "port", "db", "username", "password")} == {
        "host": "redis.local",
        "port": 6380,
        "db": 3,
        "username": "reader",
        "password": "p@ss/word",
    }


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://redis", "redis://redis:6379"),
        ("redis://", "redis://localhost:6379"),
        ("redis://redis/0", "redis://redis:6379"),
        ("redis://[fd00::1]:6380/", "redis://[fd00::1]:6380"),
        ("redis://:secret@redis?db=2", "redis://redis:6379/2"),
        ("rediss://redis:6380", "rediss://redis:6380"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://user:secret@/run/redis.sock?db=4", "unix:///run/redis.sock/4"),
        ("redis+sentinel://:secret@one,two:26380/main/2", "redis+sentinel://one:26379,two:26380/main/2"),
        ("rediss+sentinel://one/main", "rediss+sentinel://one:26379/main"),
        ("redis+cluster://:secret@one,two:6380", "redis+cluster://one:6379,two:6380"),
    ],
)
def test_the_name_tells_where_but_no_password(url: str, name: str) -> None:
    assert at(url).name == name


def test_waits_are_finite_and_the_url_may_change_them() -> None:
    found = options("redis://redis")
    assert (found["socket_connect_timeout"], found["socket_timeout"]) == (1.0, 2.0)
    assert options("redis://redis?socket_timeout=7")["socket_timeout"] == 7.0
    found = options("redis+sentinel://one/main")
    assert (found["socket_connect_timeout"], found["socket_timeout"]) == (1.0, 2.0)


def test_sentinels_have_their_own_password() -> None:
    url = "redis+sentinel://user:secret@one/main?sentinel_password=other"
    client = at(url).connect()
    assert isinstance(client, Redis)
    assert client.connection_pool.connection_kwargs["password"] == "secret"
    pool: Any = client.connection_pool
    [sentinel] = pool.sentinel_manager.sentinels
    found = sentinel.connection_pool.connection_kwargs
    assert (found["password"], found["socket_timeout"]) == ("other", 2.0)
    assert found.get("username") is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "http://redis",
        "redis:redis",
        "redis://user:sec#ret@redis",
        "redis://user:sec/ret@redis",
        "redis://user:sec?ret@redis",
        "redis://user:secret@redis:port",
        "redis://user:secret@redis:99999",
        "redis://user:secret@[::1",
        "redis://user:secret@redis/database",
        "redis://user:secret@redis?socket_timeout=soon",
        "redis://user:secret@redis?no_such_option=1",
        "rediss://user:secret@redis?ssl_cert_reqs=maybe",
        "unix://user:secret@",
        "redis+sentinel://user:secret@one",
        "redis+sentinel://user:secret@one/main/2/3",
        "redis+sentinel://user:secret@one/main/two",
        "redis+cluster://user:secret@one/2",
        "redis+cluster://user:secret@one?no_such_option=1",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_once_and_never_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        at(url)
    text = "".join(traceback.format_exception(caught.value, chain=True))
    shown = text[text.index("ConfigError") :]
    assert "sec" not in shown.replace("seconds", "")
    assert caught.value.__cause__ is None
