"""`Attempts`: makes the attempts of one call, one after another, until one succeeds or there is a reason to stop."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar, cast

from shmroute.calls.callee import Callee, EndpointLike, LeaseLike, PoolLike
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

K = TypeVar("K", bound=CallFailed)


Raises: TypeAlias = Callable[[type[CallFailed], BaseException | None], type[CallFailed]]
"""Takes the class of an error and its cause; returns the class to raise, such as one made by `joined`."""

_NOT_CONNECTED: Final = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL}
)
"""Error numbers which mean that no connection was established, so the request was not sent."""


class Outcome(enum.StrEnum):
    """The ways in which an attempt can fail."""

    REFUSED = "refused"
    """No connection was established: refused, unreachable, or the TLS handshake failed."""
    CONNECT_TIMEOUT = "connect timeout"
    """No connection was established in time."""
    NO_CONNECTION_FREE = "no connection free"
    """The client's own connection pool is used up; the pod is not to blame."""
    BROKEN = "broken"
    """The connection broke before the answer was complete, or the answer is not HTTP."""
    TIMEOUT = "timeout"
    """No answer came in time."""
    STATUS = "status"
    """The answer is one of `Settings.retriable_status_codes`."""


class Attempt:
    """One attempt of a call at one endpoint. The endpoint counts as busy until the attempt is released.

    As a context manager: a block that ends without an error has succeeded, and an `OSError` is a failure; any other
    exception is the caller's own and says nothing about the pod. The block may report a failure itself, by `failed`.
    """

    def __init__(self, call: Attempts, lease: LeaseLike, number: int, started: float) -> None:
        self._call = call
        self._lease = lease
        self.endpoint = lease.endpoint
        self.address = lease.address
        """Address of the endpoint, as ``host:port``."""
        self.number = number
        """Number of the attempt within the call, from 1."""
        self.started = started
        """Start of the attempt on the policy's clock, in seconds."""
        self.seconds: float | None = None
        """Longest time until the answer begins, in seconds; None: only the HTTP client's own limit."""
        self.connect_seconds: float | None = None
        """Longest time for connecting, in seconds; None: only the HTTP client's own limit."""
        self.ended = False
        """Whether the outcome is known."""
        self.ok = False
        """Whether the pod has answered."""

    def succeeded(self) -> None:
        """Note that the pod has answered. The endpoint counts as busy until `release`."""
        if not self.ended:
            self.ended = self.ok = True
            self._call.attempt_succeeded(self)

    def failed(self, outcome: Outcome, said: object = "", *, sent: bool, cause: BaseException | None = None) -> None:
        """Note that the attempt has failed.

        Args:
            outcome: how it failed.
            said: error text of the library, the system or the pod.
            sent: whether the request may have reached the pod, so that sending it again may process it twice.
            cause: the exception that becomes the `__cause__` of the call's error.
        """
        if not self.ended:
            self.ended = True
            self._lease.end()
            self._call.attempt_failed(self, outcome, str(said), sent, cause)

    def answered(self, status: int) -> bool:
        """Note an answer with this HTTP status.

        Returns whether the caller gets the answer: one that blames the pod, such as a 503, only if no further attempt
        may follow.
        """
        call = self._call
        if status not in call.retriable_status_codes:
            self.succeeded()
            return True
        self.failed(Outcome.STATUS, str(status), sent=True)
        if call.may_go_on:
            return False
        call.answered_by_failure()
        return True

    def release(self) -> None:
        """Stop counting the endpoint as busy with this attempt."""
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
        policy: the settings, and what the process knows about endpoints.
        look_up: returns the model's current route; called before each attempt, because a model may move.
        attempts, idempotent, deadline, key: see `Route.attempts`.
        model: the model's name, for errors of the look-up itself.
        raises: see `Raises`; by default the errors of `shmroute.errors`.

    Raises:
        ValueError: `attempts` or `deadline` is not a positive number.
    """

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
        self.route: Any = None
        """What `look_up` returned last."""
        self.hint = ""
        """Added to the text of `CallModelNotFound` if a model of that name in other letters is served."""
        self.repeatable = idempotent
        """Whether the request may be sent again once a pod may have processed it. Adapters clear it if they cannot."""
        self.unrepeatable = "it is not idempotent"
        """Reason why the request may not be sent again; used only while `repeatable` is false."""
        self.ends: float | None = None if deadline is None else policy.clock() + deadline
        """Deadline of the call on the policy's clock, in seconds; None: no deadline."""
        self.failures: list[FailedAttempt] = []
        self.why = ""
        """Reason why no further attempt follows; "" while one may follow."""
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
        """Begin the next attempt.

        Raises:
            CallFailed: no further attempt is allowed or possible.
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

    # --- called by the attempt -----------------------------------------------------------------------------

    def attempt_succeeded(self, attempt: Attempt) -> None:
        """Count the success and tell the listeners. Called by `Attempt` alone."""
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
        """Count the failure and decide whether another attempt may follow. Called by `Attempt` alone."""
        policy = self._policy
        now = policy.clock()
        self._note(attempt, outcome, said, sent, cause, now)
        self._tried[attempt.address] = outcome
        self.why = self._reason_to_end(sent, now)

    @property
    def retriable_status_codes(self) -> frozenset[int]:
        """The status codes that count as failures of the pod."""
        return self._policy.settings.retriable_status_codes

    def answered_by_failure(self) -> None:
        """Count a call whose caller gets the answer of a failed attempt. Called by `Attempt` alone."""
        self._count("answered")

    def broke_off(self, attempt: Attempt, outcome: Outcome, said: str, cause: BaseException) -> NoReturn:
        """Fail the call because its answer broke off. There is no retry: the caller already has part of the answer.

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
        """Return why no further attempt may follow; "" if one may."""
        if sent and not self.repeatable:
            return f"the request may have been processed, and {self.unrepeatable}"
        if self._number >= self._attempts:
            return f"{self._attempts} of {self._attempts} are made"
        if self.ends is not None and now >= self.ends:
            return "the deadline has passed"
        try:
            pool = self._find()
        except CallFailed:
            return ""  # `next` looks up again, and raises the error
        if not self._untried(pool):
            return "every endpoint has been tried"
        if not self._policy.budget.take(now):
            self._policy.counters.out_of_budget += 1
            return "the retry budget of this process is used up"
        return ""

    def _suggested(self, error: ModelNotFound) -> str:
        """Return the second part of the error's text, with `hint` if it suggests this name in other letters."""
        more = error.more()
        return f"{more}{self.hint}" if repr(self.model) in more.lower() else more

    def _find(self) -> PoolLike:
        """Look up the model's route and endpoints.

        Raises:
            CallModelNotFound, CallNotRouted
        """
        try:
            route = self.route = self._look_up()
            self._pool = route.current_pool()
        except ModelNotFound as error:
            self._count("CallModelNotFound")
            hint = partial(self._suggested, error)
            raise self._class(CallModelNotFound, error)(self.model).with_hint(hint) from error
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
            # Only ejected endpoints are left. One of them may be back; if none is, the call fails either way.
            return pool.lease(key, tried, policy.dice)

    def _untried(self, pool: PoolLike) -> set[str]:
        """Return the addresses not tried yet; if there are none, those at which a connection broke.

        A kept-alive connection may break only because the pod has closed it as idle; a new connection may work.
        """
        tried = self._tried
        return {address for address in pool.by_address if address not in tried} or {
            address for address in pool.by_address if tried.get(address) is Outcome.BROKEN
        }

    def _limit(self, attempt: Attempt, pool: PoolLike, now: float) -> None:
        """Set the attempt's time limits. Without a deadline, only the limits of the settings apply."""
        settings = self._policy.settings
        left = None if self.ends is None else self.ends - now
        attempt.seconds = attempt.connect_seconds = left
        untried = len(pool.by_address) - len(self._tried)
        if untried < 2 or self._number >= self._attempts:
            return
        attempt.connect_seconds = shorter(settings.connect_timeout, left)
        if self.repeatable:
            attempt.seconds = shorter(settings.attempt_timeout or (left and left / 2), left)
            attempt.connect_seconds = shorter(attempt.connect_seconds, attempt.seconds)

    def _class(self, kind: type[K], cause: BaseException | None) -> type[K]:
        return cast("type[K]", self._raises(kind, cause)) if self._raises else kind

    def _count(self, result: str) -> None:
        self._policy.counters.calls[self.app, result] += 1


def shorter(one: float | None, other: float | None) -> float | None:
    """Return the shorter of two limits; None is no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
