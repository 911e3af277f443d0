"""Model names in the host of a URL, and redirects of a pod that must lead back to its model. For the adapters."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

__all__ = ["IDEMPOTENT_METHODS", "READ_AHEAD_BYTES", "host_of", "led_back", "model_of"]

IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent twice: RFC 9110, section 9.2.2."""

READ_AHEAD_BYTES: Final = 65_536
"""Answers up to this `Content-Length` to requests that can be repeated are read before they are handed over.

Then a pod that is killed in the middle of its answer fails no such request. Longer ones, and those of unknown length,
are handed over as they come.
"""

_PLAIN: Final = re.compile(r"[a-z0-9_-]")
"""Characters that stay as they are in a host. HTTP clients change the others, give them a meaning, or refuse them."""

_MISREAD: Final = re.compile(r"[0-9]+|xn--.*")
"""Hosts of plain characters alone that clients take for an IPv4 address or for an internationalised name."""

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def host_of(model: str) -> str:
    """The model's name as the host of a URL: percent-encoded (RFC 3986, section 3.2.2) where it must be.

    Raises:
        ValueError: the name is empty.
    """
    if not model:
        raise ValueError("a model's name is not empty")
    host = "".join(
        each if _PLAIN.fullmatch(each) else "".join(f"%{byte:02x}" for byte in each.encode()) for each in model
    )
    return f"%{ord(host[0]):02x}{host[1:]}" if _MISREAD.fullmatch(host) else host


def model_of(host: str) -> str:
    """The model's name in the host of a URL."""
    return unquote(host) if "%" in host else host


def led_back(location: str, sent_to: str, own: Container[str], root: str) -> str:
    """A `Location` as the caller must see it.

    Args:
        location: as the pod sent it: relative, or absolute.
        sent_to: the URL that the pod was asked for, with its address as the host.
        own: hosts, with their ports where there is one, by which the pod may name itself.
        root: what stands for the pod in the caller's URLs, such as `model://name`.

    Returns:
        A URL below `root` where the location names the pod, else the location made absolute.
    """
    try:
        absolute = urljoin(sent_to, location)
        parts = urlsplit(absolute)
        host = parts.netloc.rpartition("@")[2]
        port = _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:  # not a URL: the client says so
        return location
    if port is None or not (host in own or f"{host}:{port}" in own):
        return absolute if absolute != location and not urlsplit(location).scheme else location
    return root + urlunsplit(("", "", parts.path or "/", parts.query, parts.fragment))
