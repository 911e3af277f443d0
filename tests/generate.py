"""The one generator of data for tests and benchmarks: AppModels and EndpointSlices, in every form they take.

Seeded: the same arguments give the same data, on every machine. Everything is generated lazily, so a million models
cost what the caller keeps of them.

    appmodels(1_000, 10)             values, as a source would send them
    manifest(appmodel)               a dict, as a user would write it
    body(appmodel)                   JSON bytes, as an API server would send them, managedFields and all
    rows(1_000, 10)                  rows, as the index would make them of the AppModels and slices of that shape
    endpointslices(1_000, 10)        the slices of the Services of `appmodels(1_000, ...)`
    colliding_names(12_000)          models' names of one CRC-32
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from zlib import crc32

import msgspec

from shmroute.resources.appmodel import AppModel, ModelVersion
from shmroute.resources.appmodel_rules import PORT_ANNOTATION, SERVICE_ANNOTATION
from shmroute.resources.endpointslice import SERVICE_NAME_LABEL, EndpointSlice, SliceEndpoint, SlicePort
from shmroute.resources.key import ObjectKey
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState, Kind, RowKey, encode

__all__ = ["appmodels", "body", "colliding_names", "endpointslices", "manifest", "rows"]

_FIELDS = ("iiot", "assembly", "furnace", "logistics", "paint", "quality", "robot", "turbine", "vision", "warehouse")
_TASKS = (
    "anomaly_detector",
    "dataservice",
    "defect_classifier",
    "demand_forecast",
    "energy_profile",
    "maintenance_planner",
    "ocr",
    "root_cause",
    "scheduler",
    "tool_wear",
)
_FIRST_CREATED = datetime(2026, 1, 1, tzinfo=UTC)
_PORT = 8060
_ZONES = ("zone-a", "zone-b", "zone-c")


def appmodels(
    apps: int, models: int, *, seed: int = 0, namespace: str = "meta-test", stored: bool = True
) -> Iterator[AppModel]:
    """`apps` AppModels of `models` models each; no model name comes twice.

    `stored` False: as in a folder, without the fields an API server sets.
    """
    pick_field = random.Random(f"fields {seed}").random  # on its own: names do not depend on the number of models
    pick = random.Random(f"models {seed}").random
    for app in range(apps):
        field = _FIELDS[int(pick_field() * len(_FIELDS))]
        key = ObjectKey(namespace, f"{field}-app-{app:05d}")
        first = app * models
        yield AppModel(
            key=key,
            created=_created(app) if stored else "",
            resource_version=str(1_000 + app) if stored else "",
            app=f"{field}App{app:05d}",
            version=f"v-{int(pick() * 9) + 1}",
            models=tuple(
                ModelVersion(f"{field}_{_TASKS[int(pick() * 10)]}_{number:06d}", f"v-{int(pick() * 9) + 1}")
                for number in range(first, first + models)
            ),
            service=key,
        )


def endpointslices(
    apps: int, endpoints: int, *, per_slice: int = 100, seed: int = 0, namespace: str = "meta-test"
) -> Iterator[EndpointSlice]:
    """Yield the slices of the Services of `appmodels(apps, ..., seed=seed)`: `endpoints` ready addresses for each."""
    number = 0
    for appmodel in appmodels(apps, 0, seed=seed, namespace=namespace):
        service = appmodel.service
        for first in range(0, endpoints, per_slice):
            yield EndpointSlice(
                key=ObjectKey(service.namespace, f"{service.name}-{first // per_slice:04d}"),
                resource_version=str(1_000_000 + number),
                service=service,
                address_type="IPv4",
                ports=(SlicePort("http", _PORT),),
                endpoints=tuple(
                    _endpoint(service.name, number + position, first + position)
                    for position in range(min(per_slice, endpoints - first))
                ),
            )
            number += per_slice


def manifest(item: AppModel | EndpointSlice) -> dict[str, Any]:
    """Return the object as a user would write it; `creationTimestamp` and `resourceVersion` only where it has them."""
    metadata: dict[str, Any] = {"name": item.key.name, "namespace": item.key.namespace}
    if item.resource_version:
        metadata["resourceVersion"] = item.resource_version
    if isinstance(item, EndpointSlice):
        return _slice_manifest(item, metadata)
    if item.created:
        metadata["creationTimestamp"] = item.created
    metadata["labels"] = {"iidp": "iidp"}
    annotations = {}
    if item.service != item.key:
        annotations[SERVICE_ANNOTATION] = str(item.service)
    if item.port:
        annotations[PORT_ANNOTATION] = item.port
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "iidp.com/v1",
        "kind": "AppModel",
        "metadata": metadata,
        "spec": {
            "app": item.app,
            "version": item.version,
            "models": [{"name": model.name, "version": model.version} for model in item.models],
        },
    }


def body(item: AppModel | EndpointSlice) -> bytes:
    """Return the object as an API server sends it: JSON without spaces, with the fields that nobody reads."""
    stored = manifest(item)
    metadata = stored["metadata"]
    metadata["generation"] = 1
    metadata["uid"] = str(_uuid(item.key))
    metadata["managedFields"] = [
        {
            "apiVersion": stored["apiVersion"],
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:iidp": {}}},
                "f:spec": {".": {}, "f:app": {}, "f:models": {}, "f:version": {}},
            },
            "manager": "appmodels-manager",
            "operation": "Apply",
            "time": "2026-01-01T00:00:00Z",
        }
    ]
    return msgspec.json.encode(stored)


def rows(
    apps: int, models: int, *, endpoints: int = 0, seed: int = 0, namespace: str = "meta-test"
) -> Iterator[tuple[RowKey, bytes]]:
    """Yield the MODEL, APP and ENDPOINTS rows of that shape. `endpoints` 0: their Services are not known."""
    of_app = endpointslices(apps, endpoints, per_slice=max(endpoints, 1), seed=seed, namespace=namespace)
    for appmodel in appmodels(apps, models, seed=seed, namespace=namespace):
        key, app, version = appmodel.key, appmodel.app, appmodel.version
        for model in appmodel.models:
            yield (
                (int(Kind.MODEL), model.name),
                encode((model.name, model.version, app, version, key.namespace, key.name, ())),
            )
        listed = tuple((model.name, model.version) for model in appmodel.models)
        service = str(appmodel.service)
        yield (
            (int(Kind.APP), app),
            encode(
                ((app, version, key.namespace, key.name, service, listed, appmodel.created, appmodel.port, "", ""),)
            ),
        )
        if endpoints:
            addresses = sorted((endpoint.address, endpoint) for endpoint in next(of_app).endpoints)
            known = tuple(
                EndpointRow(address, _PORT, True, True, False, endpoint.zone, endpoint.node, endpoint.pod)
                for address, endpoint in addresses
            )
            yield (int(Kind.ENDPOINTS), str(key)), encode(EndpointsRow(service, EndpointsState.KNOWN, known))
        else:
            yield (int(Kind.ENDPOINTS), str(key)), encode(EndpointsRow(service, EndpointsState.UNKNOWN))


def _created(number: int) -> str:
    return f"{_FIRST_CREATED + timedelta(seconds=number):%Y-%m-%dT%H:%M:%SZ}"


def _endpoint(service: str, number: int, position: int) -> SliceEndpoint:
    node = number % 97
    return SliceEndpoint(
        address=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        ready=True,
        serving=True,
        terminating=False,
        zone=_ZONES[node % len(_ZONES)],
        node=f"node-{node:02d}",
        pod=f"{service}-{position}",
    )


def _slice_manifest(item: EndpointSlice, metadata: dict[str, Any]) -> dict[str, Any]:
    metadata["labels"] = {SERVICE_NAME_LABEL: item.service.name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": item.address_type,
        "endpoints": [_endpoint_manifest(endpoint, item.key.namespace) for endpoint in item.endpoints],
        "ports": [{"name": port.name, "protocol": "TCP", "port": port.port} for port in item.ports],
    }


def _endpoint_manifest(endpoint: SliceEndpoint, namespace: str) -> dict[str, Any]:
    written: dict[str, Any] = {
        "addresses": [endpoint.address],
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
    }
    if endpoint.zone:
        written["zone"] = endpoint.zone
    if endpoint.node:
        written["nodeName"] = endpoint.node
    if endpoint.pod:
        written["targetRef"] = {"kind": "Pod", "namespace": namespace, "name": endpoint.pod}
    if endpoint.hints:
        written["hints"] = {"forZones": [{"name": zone} for zone in endpoint.hints]}
    return written


def _uuid(key: ObjectKey) -> str:
    digits = random.Random(str(key)).randbytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def colliding_names(count: int) -> list[str]:
    """Return names with the same CRC-32, of 16 letters from p to w.

    The letters differ in their three low bits only, so a name is 48 free bits, and the CRC is linear in them.
    """
    zero = crc32(b"p" * 16)
    basis: dict[int, tuple[int, int]] = {}
    null: list[int] = []
    for bit in range(48):
        name = bytearray(b"p" * 16)
        name[bit // 3] ^= 1 << bit % 3
        image, choice = crc32(bytes(name)) ^ zero, 1 << bit
        while image:
            top = image.bit_length()
            if top not in basis:
                basis[top] = image, choice
                break
            image ^= basis[top][0]
            choice ^= basis[top][1]
        else:
            null.append(choice)
    names = []
    for picks in product((0, 1), repeat=len(null)):
        choice = 0
        for pick, vector in zip(picks, null, strict=True):
            choice ^= vector * pick
        letters = bytes(ord("p") ^ choice >> 3 * place & 7 for place in range(16))
        names.append(letters.decode())
        if len(names) == count:
            break
    return names
