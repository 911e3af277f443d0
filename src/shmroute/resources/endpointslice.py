"""EndpointSlices as values, and their parser from JSON. Pure: no I/O, no clock.

Made by the sources, read by the tables. Never imported by a worker.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from shmroute.errors import InvalidObject
from shmroute.resources.appmodel_rules import is_key_part
from shmroute.resources.key import DEFAULT_NAMESPACE, Body, ObjectKey, decode, make_key, parse_key

KIND = "EndpointSlice"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
ADDRESS_TYPES = ("IPv4", "IPv6")
"""Address types whose slices hold IP addresses; the API's third type, FQDN, holds host names."""


class SlicePort(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One item of an EndpointSlice's `ports`; `name` is "" for the unnamed port."""

    name: str
    port: int
    protocol: str = "TCP"
    """"TCP", "UDP" or "SCTP"; by the API, TCP if it is absent."""


class SliceEndpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One address of an EndpointSlice with its conditions (by the API, an absent `ready` means ready)."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    zone: str = ""
    node: str = ""
    pod: str = ""
    hints: tuple[str, ...] = ()
    """The zones of `hints.forZones`."""


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice of a Service; `service` comes from the label `kubernetes.io/service-name`."""

    key: ObjectKey
    resource_version: str
    service: ObjectKey
    address_type: str
    """"IPv4" or "IPv6"."""
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]


# The fields of the wire format that are used.
class _Labels(msgspec.Struct, gc=False):
    service: str | None = msgspec.field(default=None, name=SERVICE_NAME_LABEL)


class _SliceMetadata(msgspec.Struct, gc=False, rename="camel"):
    name: str
    namespace: str | None = None
    resource_version: str | None = None
    labels: _Labels | None = None


class _Conditions(msgspec.Struct, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct, gc=False):
    kind: str | None = None
    name: str | None = None


class _Zone(msgspec.Struct, gc=False):
    name: str


class _Hints(msgspec.Struct, gc=False, rename="camel"):
    for_zones: tuple[_Zone, ...] | None = None


class _WireEndpoint(msgspec.Struct, gc=False, rename="camel"):
    addresses: tuple[str, ...] | None = None
    conditions: _Conditions | None = None
    zone: str | None = None
    node_name: str | None = None
    target_ref: _Target | None = None
    hints: _Hints | None = None


class _WirePort(msgspec.Struct, gc=False):
    name: str | None = None
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] | None = None
    protocol: str | None = None


class _WireSlice(msgspec.Struct, gc=False, rename="camel"):
    metadata: _SliceMetadata
    address_type: str = ""
    ports: tuple[_WirePort, ...] | None = None
    endpoints: tuple[_WireEndpoint, ...] | None = None


_decoder = msgspec.json.Decoder(_WireSlice)


def parse_endpointslice(body: Body, *, default_namespace: str = DEFAULT_NAMESPACE) -> EndpointSlice | None:
    """Parse one EndpointSlice from its JSON; None if it has no Service, or names hosts instead of addresses.

    None means that the slice is not used, or no longer: a source that had it before deletes it by `parse_key`.
    Raises `InvalidObject` for a slice that breaks the API's schema, which an API server never sends, and
    `msgspec.DecodeError` if the bytes are not JSON.
    """
    try:
        wire = decode(_decoder.decode, body)
    except msgspec.ValidationError as error:
        key = parse_key(body, default_namespace=default_namespace)
        raise InvalidObject(f"{KIND} {key}", str(error)) from error
    metadata = wire.metadata
    key = make_key(KIND, metadata.name, metadata.namespace or default_namespace)
    service = metadata.labels.service if metadata.labels is not None else None
    if not service or wire.address_type not in ADDRESS_TYPES:
        return None
    if not is_key_part(service):
        raise InvalidObject(f"{KIND} {key}", f"label {SERVICE_NAME_LABEL} is not the name of a Service")
    return EndpointSlice(
        key=key,
        resource_version=metadata.resource_version or "",
        service=ObjectKey(key.namespace, service),
        address_type=wire.address_type,
        # By the API, a port without a number leaves the number to the consumer: there is nothing to dial.
        ports=tuple(
            SlicePort(port.name or "", port.port, port.protocol or "TCP") for port in wire.ports or () if port.port
        ),
        endpoints=tuple(
            # By the API, only the first address has a meaning; kube-proxy ignores the others.
            _endpoint(endpoint.addresses[0], endpoint)
            for endpoint in wire.endpoints or ()
            if endpoint.addresses
        ),
    )


def address_problem(address: str) -> str:
    """Return why an address cannot be a pod's, in words; "" if it can.

    An API server refuses the same addresses (`ValidateNonSpecialIP`), but not every compatible server does.
    Without this check, a writer of EndpointSlices could send calls to the node itself or to a cloud's metadata service.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "not an IP address"
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            return "an address with a zone index"
        found = found.ipv4_mapped or found
    for problem, special in (
        ("a loopback address", found.is_loopback),
        ("a link-local address", found.is_link_local),
        ("a multicast address", found.is_multicast),
        ("the unspecified address", found.is_unspecified),
        ("the broadcast address", str(found) == "255.255.255.255"),
    ):
        if special:
            return problem
    return ""


def unused_because(manifest: Mapping[str, Any]) -> str:
    """Return why `parse_endpointslice` returned None for a manifest, in words."""
    name = manifest["metadata"].get("name")
    address_type = manifest.get("addressType")
    if address_type not in ADDRESS_TYPES:
        return f"{KIND} {name} has the addressType {address_type}: only IPv4 and IPv6 can be dialled"
    return f"{KIND} {name} has no label {SERVICE_NAME_LABEL}"


def _endpoint(address: str, wire: _WireEndpoint) -> SliceEndpoint:
    conditions = wire.conditions or _NO_CONDITIONS
    ready = conditions.ready is not False
    target, hints = wire.target_ref, wire.hints
    return SliceEndpoint(
        address=address,
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=bool(conditions.terminating),
        zone=wire.zone or "",
        node=wire.node_name or "",
        pod=(target.name or "") if target is not None and target.kind == "Pod" else "",
        hints=tuple(zone.name for zone in hints.for_zones or ()) if hints is not None else (),
    )


_NO_CONDITIONS = _Conditions()
