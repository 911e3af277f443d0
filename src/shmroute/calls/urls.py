"""URLs for the adapters: model names as hosts, and redirects of a pod, which must lead back to its model."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from shmroute.errors import ConfigError

ServerHostname: TypeAlias = str | Callable[[Any], str] | None
"""The name in the certificates of pods, or a function of the `Route` that returns it; None: the pod's address."""

IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent twice: RFC 9110, section 9.2.2."""

READ_AHEAD_BYTES: Final = 65_536
"""Largest `Content-Length`, in bytes, of an answer that is read whole before the caller gets it.

Such a request can then be repeated even if the pod is killed in the middle of its answer. Applies only to requests that
can be repeated. The caller gets longer answers, and those of unknown length, as they arrive.
"""

_PLAIN: Final = re.compile(r"[a-z0-9_-]")
"""Characters not encoded in a host. HTTP clients change the others, give them a meaning, or refuse them."""

_MISREAD: Final = re.compile(r"[0-9]+|xn--.*")
"""Hosts of plain characters only that clients mistake for an IPv4 address or an internationalised name."""

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def host_of(model: str) -> str:
    """Return the model's name as the host of a URL: percent-encoded (RFC 3986, section 3.2.2) where needed.

    Raises:
        ValueError: the name is empty.
    """
    if not model:
        raise ValueError("the model's name is empty")
    host = "".join(
        each if _PLAIN.fullmatch(each) else "".join(f"%{byte:02x}" for byte in each.encode()) for each in model
    )
    return f"%{ord(host[0]):02x}{host[1:]}" if _MISREAD.fullmatch(host) else host


def check_path(path: str) -> str:
    """Return the path of a URL.

    Raises:
        ValueError: the path does not begin with a slash.
    """
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} does not begin with a slash")
    return path


def check_scheme(scheme: str, server_hostname: ServerHostname) -> None:
    """Check the options by which an adapter calls pods.

    Raises:
        ConfigError: the scheme is unknown, or has no certificates that could have the name.
    """
    if scheme not in ("http", "https"):
        raise ConfigError(f"scheme is {scheme!r}: pods are called by 'http' or 'https'")
    if server_hostname is not None and scheme == "http":
        raise ConfigError("server_hostname is the name in the pods' certificates: it needs scheme='https'")


def name_in_certificate(server_hostname: ServerHostname, route: Any) -> str | None:
    """Return the name that the certificates of the route's pods must have; None for the pod's address."""
    return server_hostname(route) if callable(server_hostname) else server_hostname


def model_of(host: str) -> str:
    """Return the model's name that a URL's host holds."""
    return unquote(host) if "%" in host else host


def led_back(location: str, sent_to: str, own: Container[str], root: str) -> str:
    """Return the `Location` of a redirect as the caller must see it.

    Args:
        location: the pod's header value, relative or absolute.
        sent_to: the URL of the request to the pod, with the pod's address as the host.
        own: hosts by which the pod may name itself, with the port where it has one.
        root: the caller's URL in place of the pod's scheme and host, such as `model://name`.

    Returns:
        A URL below `root` if the location names the pod, else the location made absolute.
    """
    try:
        absolute = urljoin(sent_to, location)
        parts = urlsplit(absolute)
        host = parts.netloc.rpartition("@")[2]
        port = _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:  # not a URL: the HTTP client raises its own error
        return location
    if port is None or not (host in own or f"{host}:{port}" in own):
        return absolute if absolute != location and not urlsplit(location).scheme else location
    return root + urlunsplit(("", "", parts.path or "/", parts.query, parts.fragment))
