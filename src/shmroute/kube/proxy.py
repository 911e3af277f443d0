"""Choose the proxy to the API server by kubectl's rules.

Called by `shmroute.kube.configuration`. `proxy-url` of a kubeconfig is always used. Without one the environment
decides, as in Go's `golang.org/x/net/http/httpproxy`: HTTPS_PROXY or HTTP_PROXY by the server's scheme, except
for hosts in NO_PROXY, `localhost` and loopback addresses. Pure: the environment is an argument.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from shmroute.errors import ConfigError

SCHEMES: Final = ("http", "https")

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Proxy(msgspec.Struct, frozen=True):
    """A proxy: its URL without user and password, and the value of the header Proxy-Authorization ("" for none)."""

    url: str
    authorization: str = ""


def find_proxy(server: str, proxy_url: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a server's URL, None for a direct connection.

    Raises `ConfigError` for an unusable proxy URL.
    """
    if proxy_url:
        return _parse(proxy_url, "proxy-url")
    target = urlsplit(server)
    name = f"{target.scheme}_proxy"
    variable = name.upper() if environment.get(name.upper()) else name
    value = environment.get(variable, "")
    if not value or not _is_proxied(target, environment.get("NO_PROXY") or environment.get("no_proxy") or ""):
        return None
    return _parse(value if "://" in value else f"http://{value}", variable)


def _parse(url: str, where: str) -> Proxy:
    """Parse a proxy URL. Errors name only its source, never the URL: it may contain a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{where} is not the URL of a proxy: {error}") from error
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            f"{where} has the scheme {parts.scheme!r}: shmroute connects through http:// and https:// proxies"
            if "://" in url
            else f"{where} has no scheme: write http://HOST:PORT or https://HOST:PORT"
        )
    if not parts.hostname or any(character <= " " for character in url):
        raise ConfigError(f"{where} is not the URL of a proxy: write {parts.scheme}://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Proxy(f"{parts.scheme}://{host}:{port or _DEFAULT_PORTS[parts.scheme]}", authorization)


def _is_proxied(target: SplitResult, no_proxy: str) -> bool:
    host = (target.hostname or "").lower()
    port = str(target.port or _DEFAULT_PORTS[target.scheme])
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(_matches(entry.strip().lower(), host, port, address) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    """Return whether an entry of NO_PROXY covers the host."""
    if entry in ("", "*"):
        return entry == "*"
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    own, separator, own_port = entry.rpartition(":")
    if not separator or _address(entry) is not None:  # an IPv6 address contains colons itself
        own, own_port = entry, ""
    own = own.strip("[]")
    if own_port and own_port != port:
        return False
    if (own_address := _address(own)) is not None:
        return address == own_address
    own = own.removeprefix("*")
    suffix = own if own.startswith(".") else f".{own}"
    return own not in ("", ".") and (host.endswith(suffix) or host == own)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
