"""A request as the server sees it, and the log that tests read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

#: How long a test waits for what must come; far longer than anything takes on a busy machine.
WAIT_SECONDS = 30.0

_WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass
class Request:
    """One HTTP request. verb and resource are the API's ("list", "appmodels"), "" elsewhere."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    #: Monotonic seconds.
    time: float = field(default_factory=time.monotonic)
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    verb: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    namespace: str | None = None
    name: str = ""
    subresource: str = ""
    connection: int = 0
    #: The response's code; 0 while there is none.
    status: int = 0

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._resolve()

    @property
    def user_agent(self) -> str:
        return self.headers.get("user-agent", "")

    def _resolve(self) -> None:
        match self.path.strip("/").split("/"):
            case ["api", version, *rest] if rest:
                self.version = version
            case ["apis", group, version, *rest] if rest:
                self.group, self.version = group, version
            case _:
                return
        match rest:
            case ["namespaces", namespace, resource, *more]:
                self.namespace, self.resource = namespace, resource
            case [resource, *more]:
                self.resource = resource
        self.name = more[0] if more else ""
        self.subresource = "/".join(more[1:])
        if self.method == "GET":
            watching = self.query.get("watch", "") in ("1", "true")
            self.verb = "watch" if watching else "get" if self.name else "list"
        elif self.method == "DELETE":
            self.verb = "delete" if self.name else "deletecollection"
        else:
            self.verb = _WRITES.get(self.method, "")


class RequestLog:
    """All requests so far, oldest first. Safe to read from any thread."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        with self.changed:
            self._requests.append(request)
            self.changed.notify_all()

    def clear(self) -> None:
        with self.changed:
            self._requests.clear()

    def __iter__(self) -> Iterator[Request]:
        with self.changed:
            return iter(list(self._requests))

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> Request:
        return self._requests[index]

    def select(self, verb: str | None = None, resource: str | None = None) -> list[Request]:
        """Return those with this verb ("list", "watch", "get", ...) and resource ("appmodels", ...)."""
        return [each for each in self if verb in (None, each.verb) and resource in (None, each.resource)]

    def count(self, verb: str | None = None, resource: str | None = None) -> int:
        return len(self.select(verb, resource))

    def wait(
        self,
        count: int = 1,
        verb: str | None = None,
        resource: str | None = None,
        timeout: float = WAIT_SECONDS,
    ) -> list[Request]:
        """Wait until this number of requests has arrived. Raises TimeoutError if they do not."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.count(verb, resource) >= count, timeout):
                seen = self.count(verb, resource)
                text = f"{seen} of {count} requests ({verb or 'any'} {resource or 'any'})"
                raise TimeoutError(f"{text} in {timeout} s")
            return self.select(verb, resource)
