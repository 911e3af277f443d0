"""`Attempts`: the attempts of one call, one after another, until one succeeds or there is a reason to stop."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Container, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeAlias, TypeVar, cast

from shmroute.calls.events import AttemptFailed, AttemptStarted, AttemptSucceeded
from shmroute.errors import (
    CallAttemptsFailed,
    CallFailed,
    CallModelNotFound,
    CallNoEndpoints,
    CallNotRouted,
    CallTimedOut,
    FailedAttempt,
    ModelNotFound,
    NoEndpoints,
    ShmrouteError,
)

if TYPE_CHECKING:
    from shmroute.calls.policy import Policy

__all__ = ["Attempt", "Attempts", "Callee", "Outcome", "Raises"]

K = TypeVar("K", bound=CallFailed)


class EndpointLike(Protocol):
    """The part of `shmroute.Endpoint` that a call uses."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class LeaseLike(Protocol):
    """The part of `shmroute.worker.endpoints.Lease` that a call uses."""

    @property
    def endpoint(self) -> EndpointLike: ...
    @property
    def address(self) -> str: ...
    def end(self) -> None: ...


class PoolLike(Protocol):
    """The part of `shmroute.worker.endpoints.Pool` that a call uses."""

    @property
    def by_address(self) -> Mapping[str, EndpointLike]: ...
    def pick(self, key: str | bytes | None = None, leave_out: Container[str] = ()) -> EndpointLike: ...
    def lease(
        self,
        key: str | bytes | None = None,
        leave_out: Container[str] = (),
        dice: Callable[[], float] | None = None,
    ) -> LeaseLike: ...
    def lease_of(self, address: str) -> LeaseLike | None: ...


class RouteLike(Protocol):
    """The part of `shmroute.Route` that a call uses."""

    @property
    def model(self) -> str: ...
    @property
    def app(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def appmodel(self) -> str: ...


Callee: TypeAlias = tuple[RouteLike, PoolLike]
"""Whom to call: the model's route and its app's endpoints."""

Raises: TypeAlias = Callable[[type[CallFailed], BaseException | None], type[CallFailed]]
"""Called with the class of an error and its cause: the class to raise, such as one made by `joined`."""

_NOT_CONNECTED: Final = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL}
)
"""Errors of a connection that did not come about."""


class Outcome(enum.StrEnum):
    """How an attempt failed."""

    REFUSED = "refused"
    """No connection came about: refused, unreachable, or the TLS handshake failed."""
    CONNECT_TIMEOUT = "connect timeout"
    """No connection came about in time."""
    NO_CONNECTION_FREE = "no connection free"
    """The client's own connection pool is used up; the pod is not to blame."""
    BROKEN = "broken"
    """The connection broke before the answer was complete, or the answer is no HTTP."""
    TIMEOUT = "timeout"
    """No answer came in time."""
    STATUS = "status"
    """The answer is one of `Settings.retriable_status_codes`."""


class Attempt:
    """One attempt of a call, at one endpoint, which counts as busy until the attempt is released.

    As a context manager: a block that ends without an error has succeeded, and an `OSError` is a failure; any other
    exception is the caller's own and says nothing about the pod. The block may tell the outcome itself, by `failed`.
    """

    __slots__ = (
        "_call",
        "_lease",
        "address",
        "connect_seconds",
        "ended",
        "endpoint",
        "number",
        "ok",
        "seconds",
        "started",
    )

    def __init__(self, call: Attempts, lease: LeaseLike, number: int, started: float) -> None:
        self._call = call
        self._lease = lease
        self.endpoint = lease.endpoint
        self.address = lease.address
        """The endpoint's address, host and port."""
        self.number = number
        """1 for the first attempt."""
        self.started = started
        """On the policy's clock."""
        self.seconds: float | None = None
        """Time until the answer must begin; None: no limit but the HTTP client's own."""
        self.connect_seconds: float | None = None
        """Time for the connection; None: no limit but the HTTP client's own."""
        self.ended = False
        """Whether the outcome is known."""
        self.ok = False
        """Whether the pod has answered."""

    def succeeded(self) -> None:
        """The pod has answered. The endpoint counts as busy until `release`."""
        if not self.ended:
            self.ended = self.ok = True
            self._call.attempt_succeeded(self)

    def failed(self, outcome: Outcome, said: object = "", *, sent: bool, cause: BaseException | None = None) -> None:
        """The attempt has failed.

        Args:
            outcome: how.
            said: what the library, the system or the pod said.
            sent: whether the request may have reached the pod, so that it may be processed twice if it is sent again.
            cause: the exception that the call's error is chained from.
        """
        if not self.ended:
            self.ended = True
            self._lease.end()
            self._call.attempt_failed(self, outcome, str(said), sent, cause)

    def release(self) -> None:
        """The endpoint is no longer busy with this attempt."""
        self._lease.end()

    def __enter__(self) -> EndpointLike:
        return self.endpoint

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                self.succeeded()
                return False
            if not isinstance(error, OSError) or isinstance(error, CallFailed):
                return False
            if not self.ended:
                if error.errno in _NOT_CONNECTED:
                    self.failed(Outcome.REFUSED, error, sent=False, cause=error)
                else:
                    outcome = Outcome.TIMEOUT if isinstance(error, TimeoutError) else Outcome.BROKEN
                    self.failed(outcome, error, sent=True, cause=error)
            if not self._call.may_go_on:
                self._call.fail()
            return True
        finally:
            self._lease.end()


class Attempts:
    """The attempts of one call. Iterate over it, or call `next` as the adapters do.

    Args:
        policy: what the process knows.
        look_up: whom to call, at this moment; asked before each attempt, so that a model that moves is found.
        attempts, idempotent, deadline, key: see `Route.attempts`.
        model: the model's name, for errors of the look-up itself.
        raises: see `Raises`; by default the errors of `shmroute.errors`.

    Raises:
        ValueError: `attempts` or `deadline` is not a positive number.
    """

    __slots__ = (
        "_attempts",
        "_cause",
        "_current",
        "_deadline",
        "_key",
        "_look_up",
        "_number",
        "_policy",
        "_pool",
        "_raises",
        "_tried",
        "app",
        "app_key",
        "ends",
        "failures",
        "hint",
        "model",
        "repeatable",
        "unrepeatable",
        "why",
    )

    def __init__(
        self,
        policy: Policy,
        look_up: Callable[[], Callee],
        *,
        attempts: int | None = None,
        idempotent: bool = False,
        deadline: float | None = None,
        key: str | bytes | None = None,
        model: str = "",
        raises: Raises | None = None,
    ) -> None:
        if attempts is None:
            attempts = policy.settings.attempts
        if not isinstance(attempts, int) or attempts < 1:
            raise ValueError(f"attempts must be a whole number of at least 1, not {attempts!r}")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline must be a positive number of seconds, not {deadline!r}")
        self._policy = policy
        self._look_up = look_up
        self._attempts = attempts
        self._deadline = deadline
        self._key = key
        self._raises = raises
        self.model = model
        self.app = ""
        self.hint = ""
        """Added to the text of `CallModelNotFound`."""
        self.repeatable = idempotent
        """Whether a request that may have been processed may be sent again. An adapter clears it when it cannot."""
        self.unrepeatable = "it is not idempotent"
        """Why it may not, if it may not."""
        self.ends: float | None = None if deadline is None else policy.clock() + deadline
        """The deadline on the policy's clock."""
        self.failures: list[FailedAttempt] = []
        self.why = ""
        """Why there is no further attempt; "" while there may be one."""
        self._number = 0
        self._tried: dict[str, Outcome] = {}
        self._current: Attempt | None = None
        self._cause: BaseException | None = None
        self.app_key = ""
        """`namespace/name` of the AppModel."""
        self._pool: PoolLike | None = None
        policy.budget.add_call()

    def __iter__(self) -> Iterator[Attempt]:
        return self

    def __next__(self) -> Attempt:
        current = self._current
        if current is not None:
            if not current.ended:
                raise RuntimeError("an attempt ended without an outcome: use `with attempt as endpoint:`")
            if current.ok:
                raise StopIteration
        return self.next()

    @property
    def may_go_on(self) -> bool:
        """Whether another attempt may follow the one that has just failed."""
        return not self.why

    def next(self) -> Attempt:
        """The next attempt.

        Raises:
            CallFailed: there is no further one.
        """
        if self.why:
            self.fail()
        policy = self._policy
        pool = self._pool or self._find()
        now = policy.clock()
        if self.ends is not None and now >= self.ends:
            self.fail()
        try:
            lease = self._choose(pool, now)
        except NoEndpoints as error:
            self._count("CallNoEndpoints")
            raise self._class(CallNoEndpoints, error)(self.model, error, self.failures) from error
        self._number += 1
        attempt = self._current = Attempt(self, lease, self._number, now)
        self._limit(attempt, pool, now)
        self._pool = None  # the next attempt looks again
        if policy.listeners:
            policy.tell(AttemptStarted(self.model, self.app, attempt.address, self._number))
        return attempt

    def fail(self) -> NoReturn:
        """Raise the error of the call.

        Raises:
            CallTimedOut: the deadline has passed.
            CallAttemptsFailed: for any other reason.
        """
        cause = self._cause
        if self.ends is not None and self._policy.clock() >= self.ends:
            self._count("CallTimedOut")
            kind = self._class(CallTimedOut, cause)
            raise kind(self.model, self.app, self.failures, self._deadline or 0.0) from cause
        self._count("CallAttemptsFailed")
        raise self._class(CallAttemptsFailed, cause)(self.model, self.app, self.failures, self.why) from cause

    # --- told by the attempt -------------------------------------------------------------------------------

    def attempt_succeeded(self, attempt: Attempt) -> None:
        """For `Attempt`."""
        policy = self._policy
        now = policy.clock()
        policy.outliers.succeeded(self.app_key, attempt.address, now)
        counters = policy.counters
        counters.attempts[self.app, "ok"] += 1
        counters.calls[self.app, "answered"] += 1
        if policy.listeners:
            policy.tell(AttemptSucceeded(self.model, self.app, attempt.address, attempt.number, now - attempt.started))

    def attempt_failed(
        self, attempt: Attempt, outcome: Outcome, said: str, sent: bool, cause: BaseException | None
    ) -> None:
        """For `Attempt`."""
        policy = self._policy
        now = policy.clock()
        self._note(attempt, outcome, said, sent, cause, now)
        self._tried[attempt.address] = outcome
        self.why = self._reason_to_end(sent, now)

    def answered_by_failure(self) -> None:
        """The answer of the failed attempt, such as a 503, is what the caller gets."""
        self._count("answered")

    def broke_off(self, attempt: Attempt, outcome: Outcome, said: str, cause: BaseException) -> NoReturn:
        """The answer began and did not end. It is not asked for again: the caller has its beginning.

        Raises:
            CallTimedOut, CallAttemptsFailed
        """
        policy = self._policy
        attempt.release()
        self._note(attempt, outcome, said, True, cause, policy.clock())
        policy.counters.calls[self.app, "answered"] -= 1
        self.why = "the answer had begun"
        self.fail()

    # --- inside --------------------------------------------------------------------------------------------

    def _note(
        self, attempt: Attempt, outcome: Outcome, said: str, sent: bool, cause: BaseException | None, now: float
    ) -> None:
        policy = self._policy
        self.failures.append(FailedAttempt(attempt.address, str(outcome), said, sent))
        self._cause = cause
        if outcome is not Outcome.NO_CONNECTION_FREE:
            policy.outliers.failed(self.app_key, attempt.address, attempt.started, now, after_sent=sent)
        policy.counters.attempts[self.app, f"{outcome} after sending" if sent else str(outcome)] += 1
        if policy.listeners:
            seconds = now - attempt.started
            policy.tell(
                AttemptFailed(self.model, self.app, attempt.address, attempt.number, seconds, str(outcome), said, sent)
            )

    def _reason_to_end(self, sent: bool, now: float) -> str:
        """Why no further attempt follows; "" if one may."""
        if sent and not self.repeatable:
            return f"the request may have been processed, and {self.unrepeatable}"
        if self._number >= self._attempts:
            return f"{self._attempts} of {self._attempts} are made"
        if self.ends is not None and now >= self.ends:
            return "the deadline has passed"
        try:
            pool = self._find()
        except CallFailed:
            return ""  # and `next` raises it again
        if not self._untried(pool):
            return "every endpoint has been tried"
        if not self._policy.budget.take(now):
            self._policy.counters.out_of_budget += 1
            return "the retry budget of this process is used up"
        return ""

    def _find(self) -> PoolLike:
        """Look up whom to call.

        Raises:
            CallModelNotFound, CallNotRouted
        """
        try:
            route, self._pool = self._look_up()
        except ModelNotFound as error:
            self._count("CallModelNotFound")
            raise self._class(CallModelNotFound, error)(self.model, self.hint).with_hint(error.more) from error
        except ShmrouteError as error:
            self._count("CallNotRouted")
            raise self._class(CallNotRouted, error)(self.model, error) from error
        self.model, self.app = route.model, route.app
        self.app_key = f"{route.namespace}/{route.appmodel}"
        return self._pool

    def _choose(self, pool: PoolLike, now: float) -> LeaseLike:
        policy, key = self._policy, self._key
        app = self.app_key
        if not policy.outliers.knows(app) and not self._tried:
            return pool.lease(key, (), policy.dice)
        view = policy.outliers.view(
            app,
            pool.by_address,
            now,
            first=not self._number,
            repeatable=self.repeatable,
            only=None if key is None or not pool.by_address else str(pool.pick(key)),
        )
        if view.probe is not None and (probe := pool.lease_of(view.probe)):
            return probe
        tried = self._tried.keys() - self._untried(pool)
        try:
            return pool.lease(key, view.left_out | tried, policy.dice)
        except NoEndpoints:
            # All others are left out. One of them may be back; and if not, the call has nothing to lose.
            return pool.lease(key, tried, policy.dice)

    def _untried(self, pool: PoolLike) -> set[str]:
        """Addresses that this call may still try: those it has not; else those where a connection broke.

        A connection that was kept open may break just because the pod has closed it; a new one may do.
        """
        tried = self._tried
        return {address for address in pool.by_address if address not in tried} or {
            address for address in pool.by_address if tried.get(address) is Outcome.BROKEN
        }

    def _limit(self, attempt: Attempt, pool: PoolLike, now: float) -> None:
        """Give the attempt its time. A call without a deadline has only the limits of the settings."""
        settings = self._policy.settings
        left = None if self.ends is None else self.ends - now
        attempt.seconds = attempt.connect_seconds = left
        untried = len(pool.by_address) - len(self._tried)
        if untried < 2 or self._number >= self._attempts:
            return
        attempt.connect_seconds = _shorter(settings.connect_timeout, left)
        if self.repeatable:
            attempt.seconds = _shorter(settings.attempt_timeout or (left and left / 2), left)
            attempt.connect_seconds = _shorter(attempt.connect_seconds, attempt.seconds)

    def _class(self, kind: type[K], cause: BaseException | None) -> type[K]:
        return cast("type[K]", self._raises(kind, cause)) if self._raises else kind

    def _count(self, result: str) -> None:
        self._policy.counters.calls[self.app, result] += 1


def _shorter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
