"""From a Redis URL to a client: one server, a group watched by Sentinel, or a Cluster.

Errors and names made here never show a URL as it was given, as it may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import ConnectionPool, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from shmroute.errors import ConfigError

__all__ = ["Client", "Target", "target"]

Client: TypeAlias = Redis | RedisCluster

FORMS: Final = (
    "redis://[user:password@]host[:port][/db], rediss://..., unix:///path[?db=n],"
    " redis+sentinel://[user:password@]host:port[,host:port]/service[/db] or redis+cluster://host:port[,host:port]"
)

_SHAPE: Final = re.compile(
    r"(?P<scheme>redis|rediss|unix|rediss?\+sentinel|rediss?\+cluster)://"
    r"((?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)

_DEFAULT_PORTS: Final = {"redis": 6379, "sentinel": 26379, "cluster": 6379}


class Target(NamedTuple):
    """Where a URL leads. `connect` makes the client; for a Cluster it asks for its nodes, for others no I/O is done."""

    name: str
    connect: Callable[[], Client]


def target(url: str, *, connect_timeout_seconds: float, read_timeout_seconds: float) -> Target:
    """Read a URL. Options of the `redis` package may follow as a query (`?ssl_ca_certs=...&socket_timeout=5`).

    Raises:
        ConfigError: it cannot be used; neither the message nor its cause holds the URL.
    """
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise ConfigError(f"the Redis URL cannot be read: write {FORMS}; percent-encode what is special in a password")
    scheme, _, kind = shape["scheme"].partition("+")
    options = {
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": read_timeout_seconds,
        "protocol": 2,  # nothing of version 3 is needed, and older servers do not speak it
        **_options(scheme, shape, kind),
    }
    hosts = _hosts(shape["hosts"], _DEFAULT_PORTS[kind or "redis"]) if scheme != "unix" else []
    try:
        if kind == "sentinel":
            return _sentinel(shape, hosts, options)
        if kind == "cluster":
            return _cluster(shape, hosts, options)
        return _server(shape, hosts, options)
    except (TypeError, ValueError, RedisError) as error:
        raise ConfigError(f"the Redis URL holds an option that cannot be used: {error}") from None


# One attempt each: when to try again is the loader's matter, and it has its own schedule.
def _once() -> Retry:
    return Retry(NoBackoff(), 0)


def _server(shape: re.Match[str], hosts: list[tuple[str, int]], options: dict[str, Any]) -> Target:
    if shape["scheme"] == "unix":
        if not options.get("path"):
            raise ConfigError("the Redis URL names no socket: write unix:///path/of/the.sock")
        name = f"unix://{options['path']}"
    else:
        options["host"], options["port"] = hosts[0]
        name = f"{shape['scheme']}://{_shown(hosts[:1])}"
    database = _database(shape["path"] if shape["scheme"] != "unix" else None, options)
    client = Redis(connection_pool=ConnectionPool(retry=_once(), **options))
    _check(client)
    return Target(f"{name}{database}", lambda: client)


def _sentinel(shape: re.Match[str], hosts: list[tuple[str, int]], options: dict[str, Any]) -> Target:
    parts = (shape["path"] or "").strip("/").split("/")
    if not parts[0] or len(parts) > 2:
        raise ConfigError("the Redis URL names no service: write redis+sentinel://host:port[,host:port]/service[/db]")
    service = parts[0]
    name = f"{shape['scheme']}://{_shown(hosts)}/{service}"
    options.pop("db", None)
    database = _database(f"/{parts[1]}" if len(parts) == 2 else None, options)
    ssl = options.pop("connection_class", None) is not None
    for_sentinels: dict[str, Any] = {
        "retry": _once(),
        **{key: value for key, value in options.items() if key.startswith(("socket_", "ssl_")) or key == "protocol"},
        **{name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options},
    }
    if ssl:
        options["ssl"] = for_sentinels["ssl"] = True
    sentinel = Sentinel(hosts, sentinel_kwargs=for_sentinels)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(service, retry=_once(), **options)  # type: ignore[no-untyped-call]
    _check(client)
    return Target(f"{name}{database}", lambda: client)


def _cluster(shape: re.Match[str], hosts: list[tuple[str, int]], options: dict[str, Any]) -> Target:
    if (shape["path"] or "/") != "/" or options.pop("db", 0):
        raise ConfigError("the Redis URL names a database: a Cluster has only one")
    options["ssl"] = options.pop("connection_class", None) is not None
    nodes = [ClusterNode(host, port) for host, port in hosts]  # type: ignore[no-untyped-call]
    _check(Redis(**options))

    def connect() -> RedisCluster:
        # One more attempt than elsewhere: the first may be answered with where else the key is now.
        return RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 1), **options)

    return Target(f"{shape['scheme']}://{_shown(hosts)}", connect)


def _check(client: Redis) -> None:
    """Make a connection without connecting, as only that looks at the options."""
    client.connection_pool.make_connection()


def _options(scheme: str, shape: re.Match[str], kind: str) -> dict[str, Any]:
    """User, password, query and database, as the `redis` package reads them."""
    path = shape["path"] or ""
    user = f"{shape['user']}@" if shape["user"] else ""
    query = f"?{shape['query']}" if shape["query"] else ""
    try:
        options: dict[str, Any] = parse_url(f"{scheme}://{user}{'' if kind else path}{query}")  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ConfigError(f"the Redis URL cannot be read: {error}") from None
    return options


def _hosts(hosts: str, default_port: int) -> list[tuple[str, int]]:
    found = []
    for host in hosts.split(","):
        try:
            parts = urlsplit(f"//{host}")
            found.append((parts.hostname or "localhost", parts.port or default_port))
        except ValueError:
            raise ConfigError(f"the Redis URL has a host that cannot be read: write {FORMS}") from None
    return found


def _database(path: str | None, options: dict[str, Any]) -> str:
    """The database a client will use, as it is shown; `redis` takes what it cannot read for 0."""
    if path and path != "/":
        number = path.removeprefix("/")
        if not (number.isascii() and number.isdigit()):
            raise ConfigError("the Redis URL's path is not the number of a database")
        options["db"] = int(number)
    database = int(options.get("db", 0))
    return f"/{database}" if database else ""


def _shown(hosts: list[tuple[str, int]]) -> str:
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
