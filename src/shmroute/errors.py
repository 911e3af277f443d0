"""All errors that shmroute raises. Each class is named for what the caller can do about it.

    ShmrouteError
    +-- NotReady                    wait, or start a watcher
    |   +-- TableNotReady           the table has not had its first complete list
    +-- ModelNotFound (LookupError) no AppModel serves the model
    +-- AppNotFound   (LookupError) no AppModel names the app
    +-- TableNotFound (LookupError) the watcher has no such table
    +-- TableValueError (ValueError) a row does not fit the type that the caller named
    +-- NoEndpoints   (LookupError) the app has no address to pick
    +-- StaleRoutes                 the routes are older than the caller accepts
    +-- MetadataNotJson (ValueError)
    +-- SnapshotExpired             take a new view
    +-- AreaUnavailable             shared memory cannot serve the area
    |   +-- AreaUnreadable          damaged, foreign, or of another format version
    |   +-- NoAccess                not readable for this user
    |   +-- OutOfSharedMemory       no room in the area's folder
    +-- AreaBusy                    another watcher writes the area
    +-- ConfigError                 an option, a file or a variable cannot be used
    +-- InvalidObject (ValueError)  a manifest or an object breaks a rule
    +-- CallFailed                  a call of a model failed
    |   +-- CallModelNotFound       no app serves the model; also a ModelNotFound
    |   +-- CallNoEndpoints         the app has no address; also a NoEndpoints
    |   +-- CallNotRouted           the routes cannot be read
    |   +-- CallAttemptsFailed      every attempt failed
    |   +-- CallTimedOut            the deadline passed; also a TimeoutError
    +-- ApiError                    the Kubernetes API refused a request

Each error keeps its facts in attributes, and the error that caused it in `__cause__`. `pickle` and `copy.deepcopy` give
an error of the same type, text and attributes, so errors pass through process pools.

This module imports nothing else of shmroute and nothing heavy: workers load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

__all__ = [
    "ApiError",
    "AppNotFound",
    "AreaBusy",
    "AreaUnavailable",
    "AreaUnreadable",
    "CallAttemptsFailed",
    "CallFailed",
    "CallModelNotFound",
    "CallNoEndpoints",
    "CallNotRouted",
    "CallTimedOut",
    "ConfigError",
    "FailedAttempt",
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
    "TableNotFound",
    "TableNotReady",
    "TableValueError",
]


class _Hinted:
    """Base of the errors for an unknown name. The text gets a hint when it is first read, since that takes time."""

    _hint: Callable[[], str] | None = None
    _more = ""

    def with_hint(self, hint: Callable[[], str]) -> Self:
        """Let `hint` make the second part of the text. `hint` must not raise."""
        self._hint = hint
        return self

    def more(self) -> str:
        """Return the second part of the text; "" without a hint."""
        hint, self._hint = self._hint, None
        if hint is not None:
            self._more = hint()
        return self._more

    def __str__(self) -> str:
        return f"{super().__str__()}{self.more()}"


class ShmrouteError(Exception):
    """The base class of all errors of shmroute."""

    def __reduce__(self) -> tuple[Any, ...]:
        str(self)  # makes the text's hint, which cannot be pickled as a function
        # Exception.__reduce__ would call the class with the text alone, which fails for other signatures.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[ShmrouteError], arguments: tuple[Any, ...]) -> ShmrouteError:
    """Return an error with its text, without calling `__init__`; pickle and copy then restore its attributes."""
    error = kind.__new__(kind, *arguments)
    error.args = arguments  # subclasses of OSError set `args` only in `__init__`
    return error


class NotReady(ShmrouteError):
    """No watcher has published routes in the area yet.

    Attributes:
        area: the area's name.
        waited_seconds: how long the caller has waited; 0 if it did not wait.
    """

    def __init__(self, area: str, waited_seconds: float = 0.0) -> None:
        self.area = area
        self.waited_seconds = waited_seconds
        waited = f" after waiting {waited_seconds:.1f} s" if waited_seconds else ""
        super().__init__(
            f"area {area!r} holds no routes yet{waited}: no watcher has published any. Start `shmroute watch --area"
            f" {area}`; if one runs, its log or `shmroute doctor` says why, and `shmroute wait` waits for it"
        )


class TableNotReady(NotReady):
    """The table has not had its first complete list.

    Attributes:
        table: the table's name.
        area, waited_seconds: as for `NotReady`.
    """

    def __init__(self, table: str, area: str) -> None:
        super().__init__(area)
        self.table = table
        text = f"table {table!r} of area {area!r} is not complete yet: `shmroute status` says what its source"
        self.args = (f"{text} waits for",)


class TableNotFound(ShmrouteError, _Hinted, LookupError):
    """The watcher of the area has no such table. The text names similar tables.

    Attributes:
        table: the table's name.
        area: the area's name.
    """

    def __init__(self, table: str, area: str) -> None:
        self.table = table
        self.area = area
        super().__init__(
            f"area {area!r} has no table {table!r}: declare it with `shmroute watch --tables FILE` or --table; if it is"
            " declared, `shmroute get invalid` says what is wrong with the file"
        )


class TableValueError(ShmrouteError, ValueError):
    """A value of a table does not fit the type that the caller named. Other values are not affected.

    Attributes:
        table: the table's name.
        key: the row's key.
        reason: which field does not fit, and why.
    """

    def __init__(self, table: str, key: str, reason: str) -> None:
        self.table = table
        self.key = key
        self.reason = reason
        super().__init__(f"table {table!r}: the value of {key!r} does not fit its type: {reason}")


class ModelNotFound(ShmrouteError, _Hinted, LookupError):
    """No valid AppModel serves the model. The text names the area, its age and similar names.

    Attributes:
        model: the model's name.
        namespace: the only namespace that was searched; None for all.
    """

    def __init__(self, model: str, namespace: str | None = None) -> None:
        self.model = model
        self.namespace = namespace
        where = f" in namespace {namespace!r}" if namespace else ""
        super().__init__(f"no app serves model {model!r}{where}")


class AppNotFound(ShmrouteError, _Hinted, LookupError):
    """No valid AppModel names the app. The text names the area, its age and similar names.

    Attributes:
        app: the app's name.
        namespace: the only namespace that was searched; None for all.
    """

    def __init__(self, app: str, namespace: str | None = None) -> None:
        self.app = app
        self.namespace = namespace
        where = f" in namespace {namespace!r}" if namespace else ""
        super().__init__(f"no AppModel names app {app!r}{where}")


class NoEndpoints(ShmrouteError, LookupError):
    """The app has no address to pick.

    Attributes:
        app: the app's name.
        service: its Service, as ``namespace/name``.
        reason: "not known" (no EndpointSlice of the Service has been seen), "known empty" (the Service has no pod,
            for instance because it is scaled to zero), or "ambiguous port" (there are several ports, and the
            AppModel names none).
        detail: more about the reason, such as the names of the ports; "" if there is no more.
    """

    def __init__(self, app: str, service: str, reason: str, detail: str = "") -> None:
        self.app = app
        self.service = service
        self.reason = reason
        self.detail = detail
        more = f" ({detail})" if detail else ""
        advice = NO_ENDPOINTS_ADVICE.get(reason, "")
        super().__init__(f"app {app!r} has no endpoint: Service {service!r}: {reason}{more}{advice}")


NO_ENDPOINTS_ADVICE = {
    "not known": ". No EndpointSlice of that Service has been seen: is there a Service of that name and namespace, and"
    " does the watcher follow EndpointSlices?",
    "known empty": ". The Service has no pod: is its Deployment scaled to zero, and does its selector match?",
    "ambiguous port": ". Name one by the annotation iidp.com/port of the AppModel, or by the watcher's --port",
}
"""Reason of a `NoEndpoints` -> advice to the reader."""


class StaleRoutes(ShmrouteError):
    """The routes are older than the caller accepts.

    Attributes:
        age: seconds since the routes were last known to match their source.
        max_age: the most that the caller accepts, in seconds.
        steady: the largest age in normal operation, in seconds; 0 if unknown.
    """

    def __init__(self, age: float, max_age: float, steady: float = 0.0) -> None:
        self.age = age
        self.max_age = max_age
        self.steady = steady
        hint = " `shmroute status` says why"
        if max_age < steady:
            hint = (
                f" With this watcher's --probe-seconds the age reaches {steady:g} s while all is well: accept at least"
                " that, or let it probe more often"
            )
        super().__init__(
            f"the routes last matched their source {age:.1f} s ago, and the caller accepts {max_age:g} s (max_age)."
            f"{hint}"
        )


class MetadataNotJson(ShmrouteError, ValueError):
    """A model's metadata is not JSON. `Route.metadata_bytes` gives the raw bytes.

    Attributes:
        model: the model's name.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"the metadata of model {model!r} is not JSON: use metadata_bytes")


class AreaUnavailable(ShmrouteError):
    """Shared memory cannot serve the area; the subclasses say why.

    A watcher shows this error as its `problem` and tries again; it never ends because of it.
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
        reason: the operating system's error text (the `OSError` is the cause), or the check that failed.
    """

    def __init__(self, name: str, reason: str, hint: str = "") -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"shared memory {name!r} cannot be opened: {reason}{hint}")


class OutOfSharedMemory(AreaUnavailable):
    """The area's folder (`/dev/shm`) has no room.

    Attributes:
        name: the file that could not grow.
        needed_bytes: size of the refused reservation.
        free_bytes: free space of the file system.
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
    """The rows of a held view have been overwritten: the watcher reused their memory. Take a new view.

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
    """Another watcher holds the area's lock.

    Attributes:
        area: the area's name.
        pid: the other watcher's process id, as seen in its own pid namespace.
        here: whether it is known to have that id in this process's namespace too.
    """

    def __init__(self, area: str, pid: int, *, here: bool = False) -> None:
        self.area = area
        self.pid = pid
        self.here = here
        where = "" if here else " in its own pid namespace"
        super().__init__(f"area {area!r} is written by another watcher (pid {pid}{where})")


class ConfigError(ShmrouteError):
    """An option, a file or an environment variable cannot be used as given; the text says what to write instead."""


class InvalidObject(ShmrouteError, ValueError):
    """A manifest or an object of the cluster breaks a rule.

    Attributes:
        where: the object, or the place in a file.
        reason: the rule, and what to write instead.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}")


class ApiError(ShmrouteError):
    """The Kubernetes API refused a request, or did not answer.

    Attributes:
        what: the request, in words.
        status: the HTTP status; 0 if there was no answer.
        reason: the `reason` of the server's Status object, such as "Forbidden".
        message: the `message` of the Status object.
        retry_after_seconds: the header Retry-After; None if it is missing.
        details: the `details` of the Status object; None if it has none.
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


# --- calls: see `shmroute.calls` -------------------------------------------------------------------------------------


class FailedAttempt(msgspec.Struct, frozen=True):
    """One attempt of a call that failed."""

    endpoint: str
    """Address of the endpoint, as ``host:port``."""
    outcome: str
    """One of `shmroute.calls.Outcome`, such as "refused"."""
    said: str
    """Error text of the HTTP library or the operating system."""
    sent: bool
    """Whether the request may have reached the pod, which may then have processed it."""

    def __str__(self) -> str:
        return f"{self.endpoint} {self.outcome} ({self.said})" if self.said else f"{self.endpoint} {self.outcome}"


class CallFailed(ShmrouteError):
    """A call of a model failed. Base class of all errors of a call.

    Each error that an adapter raises is an error of its HTTP library too, such as `httpx.ConnectError`.

    Attributes:
        model: the model's name.
        app: the app that serves the model; "" if unknown.
        attempts: a `FailedAttempt` for each address that was tried, in order.
    """

    def __init__(self, text: str, model: str, app: str = "", attempts: Sequence[FailedAttempt] = ()) -> None:
        self.model = model
        self.app = app
        self.attempts = tuple(attempts)
        Exception.__init__(self, text)  # subclasses derive from other errors too, whose arguments differ


class CallModelNotFound(CallFailed, ModelNotFound):
    """The call failed: no app serves the model."""

    def __init__(self, model: str) -> None:
        self.namespace = None
        CallFailed.__init__(self, f"no app serves model {model!r}", model)


class CallNoEndpoints(CallFailed, NoEndpoints):
    """The call failed: the model's app has no address. `reason` is that of `NoEndpoints`."""

    def __init__(self, model: str, error: NoEndpoints, attempts: Sequence[FailedAttempt] = ()) -> None:
        self.service = error.service
        self.reason = error.reason
        self.detail = error.detail
        CallFailed.__init__(
            self, f"model {model!r} cannot be called: {error}{_tried(attempts)}", model, error.app, attempts
        )


class CallNotRouted(CallFailed):
    """The call failed: the routes cannot be read. The cause says why."""

    def __init__(self, model: str, error: ShmrouteError) -> None:
        super().__init__(f"model {model!r} cannot be called: {error}", model)


class CallAttemptsFailed(CallFailed):
    """Every attempt of the call failed. `why` says why no further attempt was made."""

    def __init__(self, model: str, app: str, attempts: Sequence[FailedAttempt], why: str) -> None:
        self.why = why
        super().__init__(
            f"model {model!r} (app {app!r}) did not answer{_tried(attempts)}; no further attempt: {why}",
            model,
            app,
            attempts,
        )


class CallTimedOut(CallFailed, TimeoutError):
    """The deadline of the call passed. `deadline` is in seconds from the start of the call."""

    def __init__(self, model: str, app: str, attempts: Sequence[FailedAttempt], deadline: float) -> None:
        self.deadline = deadline
        CallFailed.__init__(
            self,
            f"model {model!r} (app {app!r}) did not answer within {deadline:g} s{_tried(attempts)}",
            model,
            app,
            attempts,
        )


def _tried(attempts: Sequence[FailedAttempt]) -> str:
    return ": " + ", ".join(map(str, attempts)) if attempts else ""
