"""Parse a Redis URL into the servers it names: one server, the master behind Sentinels, or a Cluster.

Every part of the URL is either used or refused. No error and no name shows the given URL, since it may contain a
password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shmroute.errors import ConfigError
from shmroute.metadata.redis_connection import RedisServer
from shmroute.metadata.redis_servers import Address, Cluster, OneServer, SentinelMaster, Servers

FORMS: Final = (
    "redis://[user:password@]host[:port][/db], rediss://..., unix://[user:password@]/path[?db=n],"
    " redis+sentinel://[user:password@]host:port[,host:port]/service[/db] or redis+cluster://host:port[,host:port]"
)

_SHAPE: Final = re.compile(
    r"(?P<scheme>redis|rediss|unix|rediss?\+sentinel|rediss?\+cluster)://"
    r"((?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(\?(?P<query>[^@#]*))?"
)

_DEFAULT_PORTS: Final = {"": 6379, "sentinel": 26379, "cluster": 6379}


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.001 <= seconds <= 3600.0:
        raise ValueError
    return seconds


def _yes_or_no(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _requirement(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError
    return text


def _database_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "username": str,
    "password": str,
    "db": _database_number,
    "client_name": str,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "sentinel_username": str,
    "sentinel_password": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_cert_reqs": _requirement,
    "ssl_check_hostname": _yes_or_no,
}
"""Options that a URL may have, by their names in the `redis` package, and the parser of each. The package's other
options change the values read (`decode_responses`), or the retries, which the loader decides."""


class Target(NamedTuple):
    """The servers that a URL names."""

    name: str
    """The URL without credentials and options."""
    servers: Servers
    read_timeout_seconds: float


def servers_at(url: str, *, connect_timeout_seconds: float, read_timeout_seconds: float) -> Target:
    """Parse a URL, without connecting. Options follow as a query (`?ssl_ca_certs=...&socket_timeout=5`).

    Raises:
        ConfigError: the URL cannot be used; neither the message nor its cause contains it.
    """
    shape = _SHAPE.fullmatch(url)
    if shape is None or not url.isprintable() or " " in url:  # a secret's file may end with a newline
        raise ConfigError(
            f"the Redis URL cannot be read: write {FORMS}; percent-encode special characters in a password"
        )
    scheme, _, kind = shape["scheme"].partition("+")
    login = _login(shape["user"])
    query = _query(shape["query"], tls=scheme == "rediss", sentinel=kind == "sentinel")
    if twice := sorted(login.keys() & query.keys()):
        raise ConfigError(f"the Redis URL gives {' and '.join(twice)} twice: before the host and in ?{twice[0]}=...")
    options = {
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": read_timeout_seconds,
        **({"ssl_check_hostname": True} if scheme == "rediss" else {}),  # not the default before version 6 of `redis`
        **login,
        **query,
        "protocol": 2,  # version 3 is not needed, and older servers do not know it
        "retry": Retry(NoBackoff(), 0),  # the loader decides when a read is retried
    }
    for_sentinels = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    path = (shape["path"] or "").strip("/")
    timeout = float(options["socket_timeout"])

    def connect(address: Address) -> RedisServer:
        return _server({**options, "host": address[0], "port": address[1]}, tls=scheme == "rediss")

    if scheme == "unix":
        if not path or shape["hosts"]:
            raise ConfigError("the Redis URL names no socket: write unix:///path/of/the.sock")
        socket_path = unquote(shape["path"])
        database = _database("", options)
        return Target(f"unix://{socket_path}{database}", OneServer(_server({**options, "path": socket_path})), timeout)
    hosts = _hosts(shape["hosts"], _DEFAULT_PORTS[kind])
    shown = f"{shape['scheme']}://{','.join(_shown(host) for host in hosts)}"
    connect(hosts[0])  # makes a connection object, which checks all options, without connecting
    if kind == "cluster":
        if path or options.pop("db", 0):
            raise ConfigError("the Redis URL names a database: a Cluster has only one")
        return Target(shown, Cluster(hosts, connect), timeout)
    if kind == "sentinel":
        service, _, database_text = path.partition("/")
        if not service:
            raise ConfigError(
                "the Redis URL names no service: write redis+sentinel://host:port[,host:port]/service[/db]"
            )
        database = _database(database_text, options)
        shared = {name: value for name, value in options.items() if name not in ("db", "client_name")}
        sentinels = [
            _server({**shared, **for_sentinels, "host": host, "port": port}, tls=scheme == "rediss")
            for host, port in hosts
        ]
        return Target(f"{shown}/{service}{database}", SentinelMaster(sentinels, unquote(service), connect), timeout)
    if len(hosts) > 1:
        raise ConfigError("the Redis URL names several hosts: that takes redis+sentinel:// or redis+cluster://")
    database = _database(path, options)
    return Target(f"{shown}{database}", OneServer(connect(hosts[0])), timeout)


def _server(options: dict[str, Any], *, tls: bool = False) -> RedisServer:
    try:
        return RedisServer(options, tls=tls)
    except (TypeError, ValueError, RedisError) as error:
        raise ConfigError(f"the Redis URL holds an option that cannot be used: {error}") from None


def _login(user: str | None) -> dict[str, str]:
    name, _, password = (user or "").partition(":")
    return {key: unquote(value) for key, value in (("username", name), ("password", password)) if value}


def _query(query: str | None, *, tls: bool, sentinel: bool) -> dict[str, Any]:
    usable = [
        name
        for name in OPTIONS
        if (tls or not name.startswith("ssl_")) and (sentinel or not name.startswith("sentinel_"))
    ]
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query or "", keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError("the Redis URL's options cannot be read: write ?name=value&name=value") from None
    for name, text in pairs:
        if name not in usable or name in options:
            what = "occurs twice" if name in options else "is not known or not for this kind of URL"
            raise ConfigError(f"the Redis URL's option {name[:40]!r} {what}: these work: {', '.join(usable)}")
        try:
            options[name] = OPTIONS[name](text)
        except (ValueError, KeyError):
            raise ConfigError(f"the Redis URL's option {name!r} has a value that cannot be used") from None
    return options


def _hosts(text: str, default_port: int) -> list[Address]:
    hosts: list[Address] = []
    for host in text.split(","):
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"the Redis URL has a host that cannot be read: write {FORMS}") from None
        if port == 0 or (text and not name):
            raise ConfigError(f"the Redis URL has a host without a name, or the port 0: write {FORMS}")
        hosts.append((name or "localhost", port or default_port))
    return hosts


def _database(text: str, options: dict[str, Any]) -> str:
    """Set the database, given in the path or by `db`; return its part of the name."""
    if text:
        if not (text.isascii() and text.isdigit()) or "db" in options:
            raise ConfigError("the Redis URL's path is not the number of a database, or there are two")
        options["db"] = int(text)
    database = options.get("db", 0)
    return f"/{database}" if database else ""


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
