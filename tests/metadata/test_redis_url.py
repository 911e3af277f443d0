from __future__ import annotations

import traceback
from typing import Any, cast

import pytest

from shmroute.errors import ConfigError
from shmroute.metadata.redis_url import OPTIONS, Target, servers_at


def at(url: str) -> Target:
    return servers_at(url, connect_timeout_seconds=1.0, read_timeout_seconds=2.0)


def connection(server: Any) -> Any:
    """Return the connection of the `redis` package, not connected."""
    return server._connection


def at_one_server(url: str) -> Any:
    return connection(cast("Any", at(url).servers)._server)


def test_a_server_over_tcp_with_user_password_and_database() -> None:
    url = "redis://reader:p%40ss%2Fword@redis.local:6380/3"
    assert at(url).name == "redis://redis.local:6380/3"
    found = at_one_server(url)
    assert (found.host, found.port, found.db) == ("redis.local", 6380, 3)
    assert (found.username, found.password) == ("reader", "p@ss/word")


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
def test_the_stores_name_shows_the_address_but_no_password(url: str, name: str) -> None:
    assert at(url).name == name


def test_waits_are_finite_and_the_url_may_change_them() -> None:
    found = at_one_server("redis://redis")
    assert (found.socket_connect_timeout, found.socket_timeout) == (1.0, 2.0)
    assert at("redis://redis").read_timeout_seconds == 2.0
    assert at_one_server("redis://redis?socket_timeout=7").socket_timeout == 7.0
    assert at("redis://redis?socket_timeout=7").read_timeout_seconds == 7.0
    sentinels: Any = at("redis+sentinel://one/main").servers
    found = connection(sentinels._sentinels[0])
    assert (found.socket_connect_timeout, found.socket_timeout) == (1.0, 2.0)


def test_sentinels_have_their_own_password() -> None:
    servers: Any = at("redis+sentinel://user:secret@one/main/2?sentinel_password=other").servers
    sentinel = connection(servers._sentinels[0])
    assert (sentinel.username, sentinel.password, sentinel.db) == (None, "other", 0)
    master = connection(servers._connect(("two", 6379)))
    assert (master.username, master.password, master.db, master.host) == ("user", "secret", 2, "two")


def test_options_of_tls_are_used() -> None:
    found = at_one_server("rediss://redis?ssl_ca_certs=/ca.pem&ssl_cert_reqs=optional&ssl_check_hostname=no")
    assert (found.ca_certs, found.cert_reqs, found.check_hostname) == ("/ca.pem", 1, False)
    found = at_one_server("rediss://redis")
    assert (found.cert_reqs, found.check_hostname) == (2, True)
    cluster: Any = at("rediss+cluster://one?ssl_ca_certs=/ca.pem").servers
    assert connection(cluster._connect(("two", 6379))).ca_certs == "/ca.pem"


@pytest.mark.parametrize(
    "option",
    ["decode_responses=True", "protocol=3", "retry_on_timeout=yes", "max_connections=5", "encoding=latin1", "port=1"],
)
@pytest.mark.parametrize("url", ["redis://redis", "redis+sentinel://one/main", "redis+cluster://one"])
def test_an_unknown_option_is_refused_with_the_known_ones(url: str, option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        at(f"{url}?{option}")
    text = str(caught.value)
    assert repr(option.partition("=")[0]) in text
    assert "client_name, socket_timeout, socket_connect_timeout" in text
    assert ("sentinel_password" in text) == ("sentinel" in url)
    assert "ssl_" not in text, "these take rediss://"


def test_every_documented_option_works() -> None:
    values = {"ssl_cert_reqs": "none", "ssl_check_hostname": "true", "socket_timeout": "5", "db": "1"}
    for name in OPTIONS:
        value = values.get(name, "5" if name.endswith("timeout") else "x")
        assert at(f"rediss+sentinel://one/main?{name}={value}").name


@pytest.mark.fault(52)
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
        "redis://user:secret@one,two",
        "redis://user:secret@one/1?db=2",
        "redis://user:secret@one?db=-1",
        "redis://user:secret@one?db=\u0661",
        "redis://user:secret@one?password=other",
        "redis://user:secret@one?username=other",
        "redis://user:secret@one:0",
        "redis://user:secret@one\n",
        "redis://user:secret@one two",
        "redis://user:secret@:6379",
        "redis+cluster://user:secret@one,",
        "redis+sentinel://user:secret@,one/main",
        "redis://user:secret@one?socket_timeout=inf",
        "redis://user:secret@one?socket_timeout=-1",
        "redis://user:secret@one?socket_timeout",
        "redis://user:secret@one?db=1&db=2",
        "redis://user:secret@one?ssl_cert_reqs=none",
        "redis://user:secret@one?sentinel_password=x",
        "rediss://user:secret@redis?ssl_check_hostname=maybe",
        "redis://user:se?cret=x@redis",
        "unix://user:secret@host/run/redis.sock",
    ],
)
def test_an_unusable_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        at(url)
    text = "".join(traceback.format_exception(caught.value, chain=True))
    shown = text[text.index("ConfigError") :]
    assert "sec" not in shown.replace("seconds", "")
    assert caught.value.__cause__ is None
