"""From the slices of one Service to the endpoints of one app: which port, which addresses, no doubles.

Pure functions; called by `shmroute.tables.endpoints`. Knows one Service at a time and remembers nothing.

Port choice, over the slices that have endpoints (the empty slice of a Service scaled to zero has no ports either):

1. The AppModel's annotation binds. Where no slice has that port, there is no other: a wrong port is worse than none.
   A number also stands for itself where a slice declares no port at all, as for a headless Service.
2. The watcher's default port, where the Service has it; else the rules go on.
3. The only port of its slice, if that holds for every slice. (While a Service's port is renamed its slices differ.)
   So does one number that goes by several names.
4. The port named `http`, in the slices that have it.
5. None: the port is ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from shmroute.resources.appmodel import PORT_ANNOTATION
from shmroute.resources.endpointslice import EndpointSlice, SliceEndpoint, SlicePort
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState

__all__ = ["merge", "pack"]

_PORT_BY_CONVENTION = "http"
_MAX_LISTED_PORTS = 10  # in a message


class _Packed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a slice."""

    resource_version: int
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(item: EndpointSlice) -> bytes:
    """A slice as it is kept: msgpack takes about a quarter of the memory of the values."""
    version = item.resource_version
    # Kubernetes promises resourceVersions that compare as numbers; a folder has none.
    number = int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0
    return _encode(_Packed(number, item.ports, item.endpoints))


def merge(service: str, packed: Iterable[bytes], port: str, default_port: str) -> tuple[EndpointsRow, str]:
    """The endpoints of one app, and what is wrong with its port in words ("": nothing).

    `service` is `namespace/name`; `port` the AppModel's annotation, `default_port` the watcher's, "" for none.
    """
    slices = [item for item in map(_decode, packed) if item.endpoints]
    if not slices:
        return EndpointsRow(service, EndpointsState.KNOWN), ""
    numbers = _choose(slices, port, default_port)
    if not any(numbers):
        ports = _listed(slices)
        if port:
            problem = f"port {port!r} is not a port of Service {service}, which has {ports or 'no port'}"
        elif ports:
            problem = f"ambiguous port: Service {service} has {ports}: name one in the annotation {PORT_ANNOTATION}"
        else:
            problem = f"Service {service} declares no port: give a number in the annotation {PORT_ANNOTATION}"
        return EndpointsRow(service, EndpointsState.AMBIGUOUS_PORT, (), ports), problem
    return EndpointsRow(service, EndpointsState.KNOWN, _union(slices, numbers)), ""


def _union(slices: Sequence[_Packed], numbers: Sequence[int]) -> tuple[EndpointRow, ...]:
    """Every address once.

    Of an address in two slices the ready one counts, then the serving one, as in kube-proxy's slice cache: the address
    is on its way from one slice to the other, or a terminating pod's address has been given to a new pod. Of equals the
    slice that was written last counts.
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


def _rank(candidate: tuple[int, SliceEndpoint]) -> tuple[object, ...]:
    version, endpoint = candidate
    return (
        endpoint.ready,
        endpoint.serving,
        not endpoint.terminating,
        version,
        # The rest only makes the outcome independent of the order.
        endpoint.zone,
        endpoint.node,
        endpoint.pod,
        endpoint.hints,
    )


def _choose(slices: Sequence[_Packed], port: str, default_port: str) -> Sequence[int]:
    """For each slice the port's number, or 0 where the slice has no part in it."""
    if port:
        return _matching(slices, port)
    if default_port and any(numbers := _matching(slices, default_port)):
        return numbers
    if all(len(item.ports) <= 1 for item in slices):
        return [item.ports[0].port if item.ports else 0 for item in slices]
    if len({declared.port for item in slices for declared in item.ports}) == 1:
        return [item.ports[0].port if item.ports else 0 for item in slices]
    return _matching(slices, _PORT_BY_CONVENTION)


def _matching(slices: Sequence[_Packed], wanted: str) -> Sequence[int]:
    number = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
    if not number:
        return [next((port.port for port in item.ports if port.name == wanted), 0) for item in slices]
    return [number if not item.ports or any(port.port == number for port in item.ports) else 0 for item in slices]


def _listed(slices: Sequence[_Packed]) -> str:
    ports = sorted({(port.name, port.port) for item in slices for port in item.ports})
    listed = ", ".join(f"{name} {number}" if name else f"{number}" for name, number in ports[:_MAX_LISTED_PORTS])
    return listed + ", ..." if len(ports) > _MAX_LISTED_PORTS else listed
