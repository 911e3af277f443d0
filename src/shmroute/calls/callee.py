"""What a call needs of a route and its endpoints, as protocols: so calls load nothing of the worker's half."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Protocol


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


class Callee(Protocol):
    """The part of `shmroute.Route` that a call uses."""

    @property
    def model(self) -> str: ...
    @property
    def app(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def appmodel(self) -> str: ...
    def current_pool(self) -> PoolLike: ...
