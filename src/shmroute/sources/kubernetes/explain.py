"""What a refusal of the API server means for a source, and how it is told to people. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmroute.errors import ApiError
    from shmroute.sources.kubernetes.api import ResourceApi

__all__ = ["explain", "is_out_of_range"]


def is_out_of_range(error: ApiError) -> bool:
    """Whether the resourceVersion asked for is too old, or one that the server has not reached."""
    if error.status == HTTPStatus.GONE:
        return True
    if error.status != HTTPStatus.GATEWAY_TIMEOUT:
        return False
    causes = (error.details or {}).get("causes")
    return "too large resource version" in error.message.lower() or (
        isinstance(causes, list)
        and any(isinstance(cause, dict) and cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)
    )


SAID_CHARACTERS = 500
"""Of a server's own words, which may fill megabytes: what explains anything stands at their beginning."""


def explain(error: ApiError, verb: str, api: ResourceApi) -> str:
    """What went wrong and what can be done about it, in one line."""
    name = api.kind.full_name
    reason, message = error.reason[:SAID_CHARACTERS], error.message[:SAID_CHARACTERS]
    said = message or reason
    match error.status:
        case 0:
            return f"cannot {verb} {name}: no answer: {reason}: {message}"
        case HTTPStatus.UNAUTHORIZED:
            return f"cannot {verb} {name}: the credentials are refused, also after they were read again ({said})"
        case HTTPStatus.FORBIDDEN:
            where = f"in namespace {api.namespace!r}" if api.namespace else "in all namespaces"
            return f"not allowed to {verb} {name} {where}: a role must grant the verb {verb!r} ({said})"
        case HTTPStatus.NOT_FOUND:
            return f"cannot {verb} {name}: the server has no such resource: is its definition installed? ({said})"
    return f"cannot {verb} {name}: {error.status} {reason}: {message}"
