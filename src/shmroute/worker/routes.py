"""`Route`, the value that a look-up returns. It is immutable.

A route is a value of one generation. Its endpoints are looked up at each use, so that a stored route never leads to a
withdrawn address. Its metadata is that of its own version: looked up until it has been read, and constant from then on.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from shmroute.errors import ModelNotFound, ShmrouteError

if TYPE_CHECKING:
    from shmroute.calls import Attempts, Policy
    from shmroute.worker.endpoints import Endpoint, Lease, Pool
    from shmroute.worker.metadata import MetadataValue


class RouteSource(Protocol):
    """Looks up endpoints and metadata for a route: `shmroute.worker.binding.ReaderBinding`."""

    def is_current(self, part: Pool | MetadataValue) -> bool:
        """Return whether a decoded row is unchanged in the newest generation."""

    def pool_of(self, route: Route) -> Pool:
        """Return the endpoints of the route's app in the newest generation."""

    def metadata_of(self, route: Route) -> MetadataValue:
        """Return the metadata of the route's model in the newest generation."""


class Parts:
    """What a route has looked up so far: the endpoints of its app, and its metadata.

    One object and not two fields of `Route`: most routes look up neither, and a worker may remember a million of them.
    """

    __slots__ = ("metadata", "pool")

    def __init__(self, metadata: MetadataValue | None = None) -> None:
        self.metadata = metadata
        self.pool: Pool | None = None


class Route(msgspec.Struct, frozen=True, array_like=True):
    """The app and version that serve a model. The wire form is an array of the public fields in this order."""

    model: str
    version: str
    """The model's version."""
    app: str
    app_version: str
    namespace: str
    appmodel: str
    """`metadata.name` of the AppModel that serves the model."""
    others: tuple[Route, ...] = ()
    """Routes of the same model in other namespaces, the oldest AppModel first."""
    _parts: Any = None
    """`Parts`, once something has been looked up."""
    _source: ClassVar[RouteSource | None] = None
    """The reader's binding. Each reader sets it in a subclass of its own; None for a route that no reader made."""

    # --- endpoints -----------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Addresses of the app's ready pods; if none is ready, of those that terminate and still serve.

        Empty both for a Service without pods and for an unknown one; the error of `pick` tells them apart.
        """
        return self.current_pool().endpoints

    def pick(self, key: str | bytes | None = None, *, leave_out: Container[str] = ()) -> Endpoint:
        """Return one address to send a request to.

        Without `key`: round-robin within this process, from a random start. With `key`: in every worker the same
        address for the same key while the address exists (rendezvous hashing). If one of n addresses goes, only its 1/n
        of the keys move. If the slices carry hints, endpoints for this pod's zone (`SHMROUTE_ZONE`) are preferred.

        Args:
            key: text or bytes, such as a customer's number.
            leave_out: addresses (`host:port`) that must not be picked, such as those that have just failed.

        Raises:
            NoEndpoints: there is no address; `reason` says why.
        """
        # The following is `current_pool`, without a call.
        parts: Parts | None = self._parts
        pool = parts.pool if parts is not None else None
        if pool is None or pool.stale or (position := pool.position).word[()] != position.seen:
            pool = self.current_pool()
        return pool.next() if key is None and not leave_out else pool.pick(key, leave_out)

    def lease(self, key: str | bytes | None = None, *, leave_out: Container[str] = ()) -> Lease:
        """Lease the less busy of two random addresses: `with route.lease() as endpoint:`.

        The address counts as busy until the block ends. Only leases of this process count. `key` and `leave_out` are as
        for `pick`.

        Raises:
            NoEndpoints: there is no address; `reason` says why.
        """
        return self.current_pool().lease(key, leave_out)

    def attempts(
        self,
        attempts: int | None = None,
        *,
        idempotent: bool = False,
        deadline: float | None = None,
        key: str | bytes | None = None,
        policy: Policy | None = None,
    ) -> Attempts:
        """Call the app with any client, and try the next address when one fails.

            for attempt in resolve("model").attempts(3, deadline=2.0):
                with attempt as endpoint:
                    reply = send(endpoint.host, endpoint.port, timeout=attempt.seconds)

        The loop ends when a block ends without an error. `shmroute.calls` says which errors lead to another attempt.

        Args:
            attempts: maximum number of attempts; by default the policy's (3).
            idempotent: whether the request may be sent again once a pod may have processed it.
            deadline: seconds for all attempts together.
            key: as in `pick`.
            policy: by default shared by the whole process, so that all callers know of a dead pod.

        Raises (during iteration):
            CallFailed: no attempt succeeded; the subclass says why.
        """
        from shmroute.calls import Attempts, default_policy

        return Attempts(
            policy or default_policy(),
            lambda: self,
            attempts=attempts,
            idempotent=idempotent,
            deadline=deadline,
            key=key,
        )

    def current_pool(self) -> Pool:
        """Return the app's current endpoints. For `shmroute.calls`."""
        parts = self._looked_up()
        pool = parts.pool
        if pool is None or pool.stale or (position := pool.position).word[()] != position.seen:
            pool = parts.pool = self._bound_source().pool_of(self)
        return pool

    def _looked_up(self) -> Parts:
        parts: Parts | None = self._parts
        if parts is None:
            parts = Parts()
            msgspec.structs.force_setattr(self, "_parts", parts)
        return parts

    # --- metadata ------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> Any:
        """The metadata of this version of the model, decoded from JSON; None until it has been read.

        Decoded once per worker and change. All callers in this process share the value: do not modify it.

        Raises:
            MetadataNotJson: the value is not JSON; `metadata_bytes` returns it.
        """
        metadata = self._current_metadata()
        return metadata.value() if self._has_own(metadata) else None

    @property
    def metadata_bytes(self) -> bytes | None:
        """The bytes of `metadata` as stored in Redis; None until they have been read."""
        metadata = self._current_metadata()
        return metadata.raw if self._has_own(metadata) else None

    @property
    def last_metadata(self) -> Any:
        """The newest metadata that was read for any version of the model; None if there is none.

        `metadata_version` is the version that the value belongs to. The value differs from `metadata` while that of
        this version has not been read yet: use it if an older value is better than none.

        Raises:
            MetadataNotJson: the value is not JSON; `last_metadata_bytes` returns it.
        """
        metadata = self._current_metadata()
        return metadata.value() if metadata.app == self.app else None

    @property
    def last_metadata_bytes(self) -> bytes | None:
        """The bytes of `last_metadata` as stored in Redis; None if there are none."""
        metadata = self._current_metadata()
        return metadata.raw if metadata.app == self.app else None

    @property
    def metadata_version(self) -> str | None:
        """Model version that `last_metadata` was read for; None if there is none.

        Equal to `version` if and only if `metadata` is the value of this version.
        """
        metadata = self._current_metadata()
        return metadata.version if metadata.app == self.app else None

    @property
    def metadata_state(self) -> str:
        """State of this version's metadata: "loaded", or the reason why there is none.

        "pending" (not read yet, or Redis is unavailable), "missing" (no such key), "outdated" (the value names another
        version), "too-large" and "wrong-type": the watcher will read it again. "off": the watcher reads no metadata.
        """
        return self._current_metadata().state

    def _has_own(self, metadata: MetadataValue) -> bool:
        return metadata.version == self.version and metadata.app == self.app

    def _current_metadata(self) -> MetadataValue:
        """Return the metadata of the model. Once it is that of this version, it stays the same.

        So value, version and state always belong together.
        """
        parts = self._looked_up()
        value = parts.metadata
        if value is None or not (self._has_own(value) or self._bound_source().is_current(value)):
            value = parts.metadata = self._bound_source().metadata_of(self)
        return value

    def _bound_source(self) -> RouteSource:
        if self._source is None:
            raise ShmrouteError(
                f"this route of model {self.model!r} was not made by a reader, or came from another process:"
                " resolve it again for its endpoints and metadata"
            )
        return self._source

    # --- as a value ----------------------------------------------------------------------------------------

    def _public(self) -> tuple[Any, ...]:
        return (
            self.model,
            self.version,
            self.app,
            self.app_version,
            self.namespace,
            self.appmodel,
            self.others,
        )

    def __eq__(self, other: object) -> bool:
        return self._public() == other._public() if isinstance(other, Route) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._public())

    def __repr__(self) -> str:
        return (
            f"Route(model={self.model!r}, version={self.version!r}, app={self.app!r},"
            f" app_version={self.app_version!r}, namespace={self.namespace!r}, appmodel={self.appmodel!r})"
        )

    def __reduce__(self) -> tuple[type[Route], tuple[Any, ...]]:
        return Route, self._public()


def route_in(route: Route, namespace: str | None) -> Route:
    """Return the route of the same model in that namespace; for None, the route itself.

    Raises:
        ModelNotFound: no AppModel of that namespace has the model.
    """
    if namespace is None or route.namespace == namespace:
        return route
    for other in route.others:
        if other.namespace == namespace:
            return other
    raise ModelNotFound(route.model, namespace)
