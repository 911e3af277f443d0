"""Merge the slices of one Service into the endpoints of one app: choose the port, and list each address once.

Pure functions without state; called by `shmroute.tables.endpoints` for one Service at a time.

The port is chosen from the slices that have endpoints (the empty slice of a Service scaled to zero has no ports
either). Only TCP ports count: calls use TCP. The first rule that gives a port wins:

1. The AppModel's annotation is binding. If no slice has that port, there is none: a wrong port is worse than none.
   A number is also used if no slice declares any port, as for a headless Service without ports.
2. The watcher's default port, if the Service has it.
3. The only port name of all slices, with each slice's own number; or the only number, whatever its names.
4. The port named `http`, in the slices that have it.
5. None: the port is ambiguous.

A slice that does not declare the chosen port adds no endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from shmroute.resources.appmodel_rules import PORT_ANNOTATION
from shmroute.resources.endpointslice import EndpointSlice, SliceEndpoint, SlicePort
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState

IpFamily: TypeAlias = Literal["ipv4", "ipv6", "both"]

_PROTOCOL = "TCP"
_PORT_BY_CONVENTION = "http"
_MAX_LISTED_PORTS = 10  # number of ports in a message


class EndpointRules(msgspec.Struct, frozen=True):
    """The rules by which endpoints are made from slices; options of the watcher."""

    default_port: str = ""
    """Name or number of an app's port if its AppModel names none; "" for none."""
    ip_family: IpFamily = "ipv4"
    """The IP family used for a pod with addresses of both; "both": each of its addresses counts."""
    special_addresses: bool = True
    """Whether addresses are accepted that are not IP addresses, or are loopback, link-local or multicast addresses."""


class _Packed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The part of a slice that is kept."""

    resource_version: int
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(item: EndpointSlice) -> bytes:
    """Return a slice in its kept form: msgpack takes about a quarter of the memory of the values."""
    version = item.resource_version
    # Kubernetes promises that resourceVersions compare as numbers; a folder has none.
    number = int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0
    return _encode(_Packed(number, item.ports, item.endpoints))


def merge(service: str, packed: Iterable[bytes], port: str, rules: EndpointRules) -> tuple[EndpointsRow, str]:
    """Return the endpoints of one app, and the problem with its port in words, "" if there is none.

    `service` is `namespace/name`; `port` is the AppModel's annotation, "" for none.
    """
    slices = [item for item in map(_decode, packed) if item.endpoints]
    if not slices:
        return EndpointsRow(service, EndpointsState.KNOWN), ""
    numbers = _choose(slices, port, rules.default_port)
    if not any(numbers):
        ports = _listed(slices)
        if port:
            problem = f"port {port!r} is not a TCP port of Service {service}, which has {ports or 'no port'}"
        elif ports:
            problem = f"ambiguous port: Service {service} has {ports}: name one in the annotation {PORT_ANNOTATION}"
        else:
            problem = f"Service {service} declares no port: give a number in the annotation {PORT_ANNOTATION}"
        return EndpointsRow(service, EndpointsState.AMBIGUOUS_PORT, (), ports), problem
    return EndpointsRow(service, EndpointsState.KNOWN, _union(slices, numbers, rules.ip_family)), ""


def _union(slices: Sequence[_Packed], numbers: Sequence[int], ip_family: IpFamily) -> tuple[EndpointRow, ...]:
    """Return every address once; for a pod with addresses of both families, only those of `ip_family`.

    If an address is in two slices, the ready entry counts, then the serving one, as in kube-proxy's slice cache: the
    address is moving from one slice to the other, or a new pod has the address of a terminating one. If both entries
    are equal in this, the slice that was written last counts.
    """
    best: dict[tuple[str, int], tuple[int, SliceEndpoint]] = {}
    for item, number in zip(slices, numbers, strict=True):
        if not number:
            continue
        for endpoint in item.endpoints:
            address = (endpoint.address, number)
            candidate = (item.resource_version, endpoint)
            known = best.get(address)
            if known is None or _rank(candidate) > _rank(known):
                best[address] = candidate
    if ip_family != "both":
        _leave_one_family(best, ip_family)
    return tuple(
        EndpointRow(
            host,
            number,
            endpoint.ready,
            endpoint.serving,
            endpoint.terminating,
            endpoint.zone,
            endpoint.node,
            endpoint.pod,
            endpoint.hints,
        )
        for (host, number), (_, endpoint) in sorted(best.items(), key=lambda entry: entry[0])
    )


def _leave_one_family(best: dict[tuple[str, int], tuple[int, SliceEndpoint]], ip_family: IpFamily) -> None:
    """Remove a pod's addresses of the other family, unless the pod has no address of `ip_family`.

    An endpoint without a pod's name stays: no other address is known to lead to the same pod.
    """
    preferred = {
        endpoint.pod for (host, _), (_, endpoint) in best.items() if endpoint.pod and _family(host) == ip_family
    }
    for host, number in [
        (host, number)
        for (host, number), (_, endpoint) in best.items()
        if endpoint.pod in preferred and _family(host) != ip_family
    ]:
        del best[host, number]


def _family(host: str) -> IpFamily:
    return "ipv6" if ":" in host else "ipv4"


def _rank(candidate: tuple[int, SliceEndpoint]) -> tuple[object, ...]:
    version, endpoint = candidate
    return (
        endpoint.ready,
        endpoint.serving,
        not endpoint.terminating,
        version,
        # The remaining fields only make the result independent of the order.
        endpoint.zone,
        endpoint.node,
        endpoint.pod,
        endpoint.hints,
    )


def _choose(slices: Sequence[_Packed], port: str, default_port: str) -> Sequence[int]:
    """Return the port's number for each slice, or 0 if the slice does not declare the port."""
    if port:
        return _matching(slices, port)
    if default_port and any(numbers := _matching(slices, default_port)):
        return numbers
    ports = [_tcp(item) for item in slices]
    names = {declared.name for each in ports for declared in each}
    # Several ports must all have names, so an unnamed port is the only one of its Service.
    if (len(names - {""}) <= 1 and all(len(each) <= 1 for each in ports)) or len(
        {declared.port for each in ports for declared in each}
    ) == 1:
        return [each[0].port if each else 0 for each in ports]
    return _matching(slices, _PORT_BY_CONVENTION)


def _matching(slices: Sequence[_Packed], port: str) -> Sequence[int]:
    """Return the number of the port with this name or number in each slice; 0 if a slice lacks it."""
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not number:
        return [next((declared.port for declared in _tcp(item) if declared.name == port), 0) for item in slices]
    if not any(item.ports for item in slices):
        return [number] * len(slices)
    return [number if any(declared.port == number for declared in _tcp(item)) else 0 for item in slices]


def _tcp(item: _Packed) -> Sequence[SlicePort]:
    return [port for port in item.ports if port.protocol == _PROTOCOL]


def _listed(slices: Sequence[_Packed]) -> str:
    ports = sorted({(port.name, port.port, port.protocol) for item in slices for port in item.ports})
    listed = ", ".join(
        f"{name} {number}".strip() + ("" if protocol == _PROTOCOL else f"/{protocol}")
        for name, number, protocol in ports[:_MAX_LISTED_PORTS]
    )
    return listed + ", ..." if len(ports) > _MAX_LISTED_PORTS else listed
