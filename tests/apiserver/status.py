"""Status objects: the API server's answers that are not a resource.

Every refusal in this package is an `ApiError`; the HTTP layer turns it into a response and the
watch into an ERROR event. The messages are the recorded ones, or Kubernetes' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .encoding import Object, dumps

PHRASES = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}

Cause = tuple[str, str, str]  # field, reason, message


class ApiError(Exception):
    """A refusal: the HTTP code, extra headers, and a Status object or plain text as the body."""

    def __init__(
        self,
        code: int,
        message: str,
        reason: str | None = None,
        *,
        details: Object | None = None,
        metadata: Object | None = None,
        headers: Sequence[tuple[str, str]] = (),
        plain: bool = False,
    ) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.headers = list(headers)
        self.plain = plain
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata or {},
            "status": "Failure",
            "message": message,
        }
        if reason is not None:
            self.status["reason"] = reason
        if details is not None:
            self.status["details"] = details
        self.status["code"] = code

    def body(self) -> bytes:
        return self.message.encode() if self.plain else dumps(self.status) + b"\n"


def success(details: Object) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def page_not_found() -> ApiError:
    headers = [("X-Content-Type-Options", "nosniff")]
    return ApiError(404, "404 page not found\n", headers=headers, plain=True)


def bad_request(message: str) -> ApiError:
    return ApiError(400, message, "BadRequest")


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def _details(group: str, kind: str, name: str = "") -> Object:
    details: Object = {"name": name} if name else {}
    if group:
        details["group"] = group
    details["kind"] = kind
    return details


def terminating(group: str, plural: str, name: str) -> ApiError:
    """Return the refusal to create an object whose definition is being deleted (crd-create-while-terminating)."""
    text = "is forbidden: create not allowed while custom resource definition is terminating"
    message = f'{plural}.{group} "{name}" {text}'
    return ApiError(403, message, "Forbidden", details=_details(group, plural, name))


def forbidden(user: str, verb: str, group: str, plural: str, namespace: str = "", name: str = "") -> ApiError:
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    what = f'{qualified(group, plural)} "{name}"' if name else qualified(group, plural)
    message = f'{what} is forbidden: User "{user}" cannot {verb} resource "{plural}" in API group "{group}" {where}'
    headers = [("X-Content-Type-Options", "nosniff")]
    details = _details(group, plural, name)
    return ApiError(403, message, "Forbidden", details=details, headers=headers)


def not_found(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" not found'
    return ApiError(404, message, "NotFound", details=_details(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" already exists'
    return ApiError(409, message, "AlreadyExists", details=_details(group, plural, name))


def modified(group: str, plural: str, name: str) -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": the object has '
        "been modified; please apply your changes to the latest version and try again"
    )
    return ApiError(409, message, "Conflict", details=_details(group, plural, name))


def invalid(group: str, kind: str, name: str, causes: Iterable[Cause]) -> ApiError:
    """Return 422; group and kind name the object's type, each cause one field."""
    listed = list(causes)
    texts = [f"{field}: {message}" for field, _, message in listed]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = _details(group, kind, name)
    details["causes"] = [{"reason": reason, "message": message, "field": field} for field, reason, message in listed]
    message = f'{qualified(group, kind)} "{name}" is invalid: {text}'
    return ApiError(422, message, "Invalid", details=details)


def invalid_options(kind: str, field: str, reason: str, message: str) -> ApiError:
    """Return 422 for an option in the query: of ListOptions or PatchOptions."""
    return invalid("meta.k8s.io", kind, "", [(field, reason, message)])


def too_old(requested: int, oldest: int) -> ApiError:
    return ApiError(410, f"too old resource version: {requested} ({oldest})", "Expired")


def too_large(requested: int, current: int) -> ApiError:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(
        504,
        f"Timeout: Too large resource version: {requested}, current: {current}",
        "Timeout",
        details={"causes": [cause], "retryAfterSeconds": 1},
        headers=[("Retry-After", "1")],
    )


def expired_continue(fresh_token: str) -> ApiError:
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can "
        "start a new list without the continue parameter, or use the continue token in this "
        "response to retrieve the remainder of the results. Continuing with the provided token "
        "results in an inconsistent list - objects that were created, modified, or deleted "
        "between the time the first chunk was returned and now may show up in the list."
    )
    return ApiError(410, message, "Expired", metadata={"continue": fresh_token})


def reinitializing() -> ApiError:
    """Return the error of a server in the first 0.1 s after a start or a change of the definition."""
    text = "storage is (re)initializing"
    details: Object = {"retryAfterSeconds": 1}
    return ApiError(429, text, "TooManyRequests", details=details, headers=[("Retry-After", "1")])


def no_watch_progress() -> ApiError:
    """Return the error for a streaming list on a storage without progress notifications (etcd before 3.4.31)."""
    message = (
        "a watch stream was requested by the client but the required storage feature RequestWatchProgress is disabled"
    )
    return ApiError(500, message, "InternalError")
