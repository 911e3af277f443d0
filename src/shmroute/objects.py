"""AppModels and EndpointSlices as values: what of an object matters, and the rules a valid one keeps.

Made by the sources, read by the index and the handlers. Pure: no I/O, no clock. Never imported by a worker.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "AppModel",
    "EndpointSlice",
    "InvalidAppModel",
    "ModelVersion",
    "ObjectKey",
    "SliceEndpoint",
    "SlicePort",
    "parse_appmodel",
    "parse_endpointslice",
]

SERVICE_ANNOTATION = "iidp.com/service"
PORT_ANNOTATION = "iidp.com/port"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class ObjectKey(msgspec.Struct, frozen=True, order=True):
    """An object's identity within its resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ModelVersion(msgspec.Struct, frozen=True):
    """One item of `spec.models`."""

    name: str
    version: str


class AppModel(msgspec.Struct, frozen=True):
    """A valid AppModel. `created` is RFC 3339 in UTC (`metadata.creationTimestamp`), "" where unknown."""

    key: ObjectKey
    created: str
    resource_version: str
    app: str
    version: str
    models: tuple[ModelVersion, ...]
    service: ObjectKey
    """The app's Service: `metadata.name`, or the annotation `iidp.com/service` (`name` or `namespace/name`)."""
    port: str = ""
    """The annotation `iidp.com/port`: a port's name or number; "" leaves the choice to the rules."""


class InvalidAppModel(msgspec.Struct, frozen=True):
    """An AppModel that breaks a rule: listed with its reason, its last valid state stays in force."""

    key: ObjectKey
    resource_version: str
    reason: str


class SlicePort(msgspec.Struct, frozen=True):
    """One item of an EndpointSlice's `ports`; `name` is "" for the unnamed port."""

    name: str
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True):
    """One address of an EndpointSlice with its conditions (an absent `ready` means ready, per the API)."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    zone: str = ""
    node: str = ""
    pod: str = ""
    hints: tuple[str, ...] = ()
    """The zones of `hints.forZones`."""


class EndpointSlice(msgspec.Struct, frozen=True):
    """An EndpointSlice of a Service; `service` comes from the label `kubernetes.io/service-name`."""

    key: ObjectKey
    resource_version: str
    service: ObjectKey
    address_type: str
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]


def parse_appmodel(raw: dict[str, Any]) -> AppModel | InvalidAppModel:
    raise NotImplementedError


def parse_endpointslice(raw: dict[str, Any]) -> EndpointSlice | None:
    raise NotImplementedError
