"""Classify an API server's refusal for a source, and explain it to people. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from shmroute.kube.discovery import missing_because

if TYPE_CHECKING:
    from shmroute.errors import ApiError
    from shmroute.kube.discovery import Served
    from shmroute.sources.kubernetes.api import ResourceApi

MAX_REPORTED_CHARACTERS = 500
"""Longest server text kept in an explanation, in characters: an error page may have megabytes, and the reason is at
its beginning."""


def is_out_of_range(error: ApiError) -> bool:
    """Return whether the requested resourceVersion is too old, or newer than the server's state."""
    if error.status == HTTPStatus.GONE or error.reason in ("Expired", "Gone"):
        return True
    if error.status != HTTPStatus.GATEWAY_TIMEOUT:
        return False
    causes = (error.details or {}).get("causes")
    return "too large resource version" in error.message.lower() or (
        isinstance(causes, list)
        and any(isinstance(cause, dict) and cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)
    )


def _names_a_field(message: str) -> bool:
    """Return whether the server refuses a field to select by: it has other words for kinds without fields of their
    own, such as ConfigMaps."""
    return "field label not supported" in message or "is not a known field selector" in message


def explain(error: ApiError, verb: str, api: ResourceApi, served: Served | None = None) -> str:
    """Return what went wrong and what to do about it, in one line. `served` tells the kinds of 404 apart."""
    name = api.kind.full_name
    reason, message = error.reason[:MAX_REPORTED_CHARACTERS], error.message[:MAX_REPORTED_CHARACTERS]
    said = (message or reason).strip()
    match error.status:
        case 0:
            if reason == "Credentials":
                return f"cannot {verb} {name}: no credentials: {message}"
            return f"cannot {verb} {name}: no answer: {reason}: {message}"
        case HTTPStatus.UNAUTHORIZED:
            return f"cannot {verb} {name}: the credentials are refused, also after they were read again ({said})"
        case HTTPStatus.FORBIDDEN:
            everywhere = "in all namespaces" if api.kind.namespaced else "at the cluster scope"
            where = f"in namespace {api.namespace!r}" if api.namespace else everywhere
            return f"not allowed to {verb} {name} {where}: a role must grant the verb {verb!r} ({said})"
        case HTTPStatus.NOT_FOUND:
            kind = api.kind
            because = missing_because(served, kind.group, kind.version, kind.plural, namespaced=kind.namespaced)
            return f"cannot {verb} {name}: {because} ({said})"
        case HTTPStatus.BAD_REQUEST if api.kind.field_selector and _names_a_field(message):
            return (
                f"cannot {verb} {name} by fieldSelector {api.kind.field_selector!r}: {message}: select by"
                " metadata.name, metadata.namespace, a field that the server offers for this built-in kind, or what"
                " the custom resource's definition lists under selectableFields"
            )
    return f"cannot {verb} {name}: {error.status} {reason}: {message}"
