"""Every error shmroute raises, named for what the caller can do about it.

All derive from `ShmrouteError`. They carry fields, not only text; a cause is chained where there is one.
This module imports nothing of shmroute and is safe in a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ApiError",
    "AppNotFound",
    "AreaBusy",
    "AreaUnavailable",
    "AreaUnreadable",
    "ConfigError",
    "InvalidObject",
    "MetadataNotJson",
    "ModelNotFound",
    "NoAccess",
    "NoEndpoints",
    "NotReady",
    "OutOfSharedMemory",
    "ShmrouteError",
    "SnapshotExpired",
    "StaleRoutes",
]


class ShmrouteError(Exception):
    """The parent of all errors of shmroute."""


class NotReady(ShmrouteError):
    """Nothing has been published in the area yet: wait, or start a watcher."""

    def __init__(self, area: str, waited_seconds: float = 0.0) -> None:
        self.area = area
        self.waited_seconds = waited_seconds
        waited = f" after waiting {waited_seconds:.1f} s" if waited_seconds else ""
        super().__init__(
            f"area {area!r} holds no routes yet{waited}: start `shmroute watch --area {area}`,"
            " or wait until its first list is complete (Reader.wait_ready)"
        )


class ModelNotFound(ShmrouteError, LookupError):
    """No AppModel in force serves the model (in that namespace, where one was asked for)."""

    def __init__(self, model: str, namespace: str | None = None) -> None:
        self.model = model
        self.namespace = namespace
        where = f" in namespace {namespace!r}" if namespace else ""
        super().__init__(f"no app serves model {model!r}{where}")


class AppNotFound(ShmrouteError, LookupError):
    """No AppModel in force names the app (in that namespace, where one was asked for)."""

    def __init__(self, app: str, namespace: str | None = None) -> None:
        self.app = app
        self.namespace = namespace
        where = f" in namespace {namespace!r}" if namespace else ""
        super().__init__(f"no AppModel names app {app!r}{where}")


class NoEndpoints(ShmrouteError, LookupError):
    """The app has no address to pick; `reason` says why.

    `reason` is "not known" (no EndpointSlice of the Service has been seen), "known empty" (the Service
    has no pod, for instance scaled to zero) or "ambiguous port" (several ports, and none was named).
    """

    def __init__(self, app: str, service: str, reason: str, detail: str = "") -> None:
        self.app = app
        self.service = service
        self.reason = reason
        self.detail = detail
        more = f" ({detail})" if detail else ""
        super().__init__(f"app {app!r} has no endpoint: Service {service!r}: {reason}{more}")


class StaleRoutes(ShmrouteError):
    """The routes are older than the caller accepts. `age` and `max_age` are seconds."""

    def __init__(self, age: float, max_age: float) -> None:
        self.age = age
        self.max_age = max_age
        super().__init__(
            f"routes were last in step with their source {age:.1f} s ago, more than the {max_age:g} s asked for"
        )


class MetadataNotJson(ShmrouteError, ValueError):
    """A model's metadata is there, but it is not JSON; `Route.metadata_bytes` has it."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"the metadata of model {model!r} is not JSON: use metadata_bytes")


class AreaUnavailable(ShmrouteError):
    """Shared memory refuses to serve the area: see the children. The parent of `AreaUnreadable`, `NoAccess` and
    `OutOfSharedMemory`.

    A watcher shows it as its `problem` and tries again; it never ends because of it.
    """


class AreaUnreadable(AreaUnavailable):
    """Shared memory that is not what it should be: damaged, foreign, or of another format version.

    Attributes:
        name: the file in the area's folder.
        problem: what is wrong with it.
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"shared memory {name!r} is refused: {problem}")


class NoAccess(AreaUnavailable):
    """This process may not open the shared memory, or does not trust its owner.

    Attributes:
        name: the file in the area's folder.
        reason: the operating system's words (the `OSError` is the cause), or which check failed.
    """

    def __init__(self, name: str, reason: str, hint: str = "") -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"shared memory {name!r} cannot be opened: {reason}{hint}")


class OutOfSharedMemory(AreaUnavailable):
    """The area's folder (`/dev/shm`) has no room.

    Attributes:
        name: the file that could not grow.
        needed_bytes: what the refused reservation asked for.
        free_bytes: what the file system has left.
    """

    def __init__(self, name: str, needed_bytes: int, free_bytes: int) -> None:
        self.name = name
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(
            f"no room in /dev/shm for {name!r}: {needed_bytes} bytes are needed and {free_bytes} are free."
            " The last generation stays served; enlarge /dev/shm (an emptyDir of medium Memory with a"
            " larger sizeLimit, or --shm-size)"
        )


class SnapshotExpired(ShmrouteError):
    """A held view's rows have been overwritten: the watcher needed the memory for newer ones. Take a new view.

    Attributes:
        area: the area's name.
        generation: the generation that the view showed.
    """

    def __init__(self, area: str, generation: int) -> None:
        self.area = area
        self.generation = generation
        super().__init__(
            f"the view of area {area!r} at generation {generation} has expired: its memory holds newer rows now."
            " Take a new view"
        )


class AreaBusy(ShmrouteError):
    """Another watcher holds the area's lock."""

    def __init__(self, area: str, pid: int) -> None:
        self.area = area
        self.pid = pid
        super().__init__(f"area {area!r} is written by another watcher (pid {pid} in its own pid namespace)")


class ConfigError(ShmrouteError):
    """An option, a file or an environment variable that cannot be used as given."""


class InvalidObject(ShmrouteError, ValueError):
    """A manifest or an object of the cluster that breaks a rule; `reason` says which, `where` names it."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}")


class ApiError(ShmrouteError):
    """The Kubernetes API refused a request. `status` is the HTTP status, 0 where there was no answer.

    `reason` and `message` are those of the server's Status, `details` its details (causes and the like),
    `retry_after_seconds` what the header Retry-After asked for.
    """

    def __init__(
        self,
        what: str,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        self.what = what
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.details = details
        super().__init__(f"{what}: {status or 'no answer'} {reason}: {message}".rstrip(": "))
