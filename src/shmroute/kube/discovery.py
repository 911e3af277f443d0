"""Ask an API server's discovery about a resource: to find it, or to explain a 404.

Called by `shmroute.kube.write` and by `shmroute.sources.kubernetes`. A server gives the same answer, 404 without a
Status, for a missing definition, a version that is not served and a wrong scope. Discovery, which every authenticated
user may read, tells them apart.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from shmroute.errors import ApiError
from shmroute.kube.connection import path_of

if TYPE_CHECKING:
    from shmroute.kube.abort import Abort
    from shmroute.kube.connection import Connection

DISCOVERY_SECONDS: Final = 10.0
"""Longest wait for one discovery document, in seconds; a server keeps them ready."""

DISCOVERY_MAX_BYTES: Final = 1 << 22
"""Largest discovery document, in bytes; a group with 100 resources has 30 KiB."""


class Served(msgspec.Struct, frozen=True):
    """Discovery's answer about a resource."""

    versions: tuple[str, ...] | None
    """Served versions of its group; None if the group is unknown."""
    namespaced: bool | None
    """Whether the resource is namespaced in its version; None if that version does not serve it."""


class Resource(msgspec.Struct):
    """Discovery's entry of a resource. `name` is its plural."""

    name: str
    kind: str = ""
    namespaced: bool = True
    verbs: list[str] = []


class _Resources(msgspec.Struct):
    resources: list[Resource] = []


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_Version] = []


def find_served(
    connection: Connection,
    group: str,
    version: str,
    plural: str,
    *,
    timeout_seconds: float = DISCOVERY_SECONDS,
    abort: Abort | None = None,
) -> Served | None:
    """Return discovery's answer about `plural` in `group` ("" for the core group); None if there is no answer."""

    def discover(*segments: str) -> bytes | None:
        try:
            return connection.request(
                "GET",
                path_of(*segments),
                timeout_seconds=timeout_seconds,
                max_bytes=DISCOVERY_MAX_BYTES,
                abort=abort,
            ).data
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    prefix = ("apis", group) if group else ("api",)
    try:
        if (document := discover(*prefix, version)) is not None:
            found = _entry(document, plural)
            return Served((version,), found.namespaced if found is not None else None)
        if not group:
            return Served((), None)
        if (document := discover(*prefix)) is None:
            return Served(None, None)
        versions = msgspec.json.decode(document, type=_Group).versions
        return Served(tuple(each.version for each in versions), None)
    except (ApiError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def find_resource(
    connection: Connection, api_path: tuple[str, ...], plural: str, *, abort: Abort | None = None
) -> Resource | None:
    """Return discovery's entry of `plural` below `api_path`; None if it does not list it.

    Raises `ApiError`, and `DecodeError` or `UnicodeDecodeError` for an answer that is no such document.
    """
    answer = connection.request(
        "GET", path_of(*api_path), timeout_seconds=DISCOVERY_SECONDS, max_bytes=DISCOVERY_MAX_BYTES, abort=abort
    )
    return _entry(answer.data, plural)


def _entry(document: bytes, plural: str) -> Resource | None:
    resources = msgspec.json.decode(document, type=_Resources).resources
    return next((each for each in resources if each.name == plural), None)


def missing_because(served: Served | None, group: str, version: str, plural: str, *, namespaced: bool) -> str:
    """Return why the server answers 404 for a resource, and what the reader can do."""
    name = f"{plural}.{group}" if group else plural
    api_version = f"{group}/{version}" if group else version
    if served is None:
        return "the server has no such resource, and discovery does not say why"
    if served.versions is None:
        return f"the server has no API group {group!r}: install the CustomResourceDefinition {name}"
    if version not in served.versions:
        others = ", ".join(served.versions) or "none"
        return f"the server does not serve version {api_version!r} (served: {others}): its definition must serve it"
    if served.namespaced is None:
        return f"{api_version!r} is served, and has no resource {plural!r}: install the definition {name}"
    if served.namespaced != namespaced:
        has, needs = ("Namespaced", "Cluster") if served.namespaced else ("Cluster", "Namespaced")
        return f"its definition has the scope {has}, and must have the scope {needs}"
    return "discovery lists it: the server is about to serve it"
