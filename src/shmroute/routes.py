"""The answers: `Route` and `Endpoint`, frozen values a worker gets from a look-up."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Endpoint", "Route"]


class Endpoint(msgspec.Struct, frozen=True):
    """One pod address of an app. `str(endpoint)` is `host:port`, an IPv6 host in brackets."""

    host: str
    port: int
    zone: str = ""
    node: str = ""
    pod: str = ""
    ready: bool = True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Route(msgspec.Struct, frozen=True, array_like=True):
    """Which app serves a model, in which version. The wire form is an array of the fields in this order."""

    model: str
    version: str
    app: str
    app_version: str
    namespace: str
    appmodel: str
    """`metadata.name` of the AppModel in force."""
    others: tuple[Route, ...] = ()
    """The same model's routes in other namespaces, the oldest AppModel first."""
    _reader: Any = None
