"""A core/v1 Endpoints object as EndpointSlices: what Kubernetes' own mirroring controller makes of it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import msgspec

from shmroute.resources.objects import SERVICE_NAME_LABEL

__all__ = ["slices_of"]


class _Metadata(msgspec.Struct):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None


class _Address(msgspec.Struct, rename="camel"):
    ip: str
    node_name: str | None = None
    target_ref: dict[str, Any] | None = None


class _Subset(msgspec.Struct, rename="camel"):
    addresses: tuple[_Address, ...] | None = None
    not_ready_addresses: tuple[_Address, ...] | None = None
    ports: tuple[dict[str, Any], ...] | None = None


class _Endpoints(msgspec.Struct):
    metadata: _Metadata
    subsets: tuple[_Subset, ...] | None = None


def slices_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests of the slices: one for each subset and address family, at least one.

    An object without addresses is a Service that is known to be empty, which one slice without endpoints says.
    Raises `msgspec.ValidationError` for an object that does not keep the API's schema, and `ValueError` for an
    address that is none.
    """
    endpoints = msgspec.convert(manifest, _Endpoints)
    slices: list[dict[str, Any]] = []
    for subset in endpoints.subsets or ():
        families: dict[str, list[dict[str, Any]]] = {}
        for address, ready in _addresses(subset):
            family = f"IPv{ipaddress.ip_address(address.ip).version}"
            families.setdefault(family, []).append(_endpoint(address, ready))
        for family, found in families.items():
            slices.append(_slice(endpoints.metadata, len(slices), family, found, subset.ports or ()))
    return slices or [_slice(endpoints.metadata, 0, "IPv4", [], ())]


def _addresses(subset: _Subset) -> Iterator[tuple[_Address, bool]]:
    yield from ((address, True) for address in subset.addresses or ())
    yield from ((address, False) for address in subset.not_ready_addresses or ())


def _endpoint(address: _Address, ready: bool) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"addresses": [address.ip], "conditions": {"ready": ready}}
    if address.node_name:
        endpoint["nodeName"] = address.node_name
    if address.target_ref:
        endpoint["targetRef"] = address.target_ref
    return endpoint


def _slice(
    service: _Metadata, number: int, family: str, endpoints: list[dict[str, Any]], ports: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    # The colon keeps the name apart from that of any EndpointSlice: Kubernetes allows it in none.
    metadata: dict[str, Any] = {
        "name": f"endpoints:{service.name}:{number}",
        "labels": {**(service.labels or {}), SERVICE_NAME_LABEL: service.name},
    }
    if service.namespace:
        metadata["namespace"] = service.namespace
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": family,
        "endpoints": endpoints,
        "ports": list(ports),
    }
