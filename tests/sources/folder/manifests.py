"""Manifests for the tests of the folder source."""

from __future__ import annotations

import json
from typing import Any

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item
from shmroute.sources.base import Changed, Deleted, Event, FileProblem, Replaced, Resource

Objects = dict[tuple[Resource, ObjectKey], Item]


def appmodel(name: str, *models: str, version: str = "v1", **metadata: Any) -> dict[str, Any]:
    """Return an AppModel; each model in the app's version."""
    return {
        "apiVersion": "iidp.com/v1",
        "kind": "AppModel",
        "metadata": {"name": name, **metadata},
        "spec": {
            "app": name,
            "version": version,
            "models": [{"name": model, "version": version} for model in models or (f"{name}-model",)],
        },
    }


def endpointslice(name: str, service: str, *addresses: str, **metadata: Any) -> dict[str, Any]:
    """Return an EndpointSlice of ready IPv4 addresses on port 8060."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}, **metadata},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8060}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def text(*manifests: dict[str, Any]) -> str:
    """Return a file of several documents: JSON, which is YAML."""
    return "\n---\n".join(json.dumps(manifest) for manifest in manifests)


class Follower:
    """Applies events as an owner does, and keeps the current objects and the files with problems."""

    def __init__(self) -> None:
        self.objects: Objects = {}
        self.problems: dict[str, FileProblem] = {}
        self.complete: set[Resource] = set()
        self.changes: list[Event] = []

    def put(self, event: Event) -> None:
        match event:
            case Replaced():
                self.complete.add(event.resource)
                kept = {identity: item for identity, item in self.objects.items() if identity[0] != event.resource}
                self.objects = kept | {(event.resource, item.key): item for item in event.items}
            case Changed():
                assert event.resource in self.complete
                self.objects = self.objects | {(event.resource, event.item.key): event.item}
            case Deleted():
                assert event.resource in self.complete
                self.objects = {k: v for k, v in self.objects.items() if k != (event.resource, event.key)}
            case FileProblem(reason=None):
                self.problems = {path: problem for path, problem in self.problems.items() if path != event.path}
            case FileProblem():
                self.problems = self.problems | {event.path: event}
            case _:
                return
        self.changes = [*self.changes, event]

    @property
    def names(self) -> list[str]:
        return sorted(str(key) for _, key in self.objects)

    def apps(self) -> dict[str, str]:
        """Return AppModels by name, with their app's version, or the reason why they are invalid."""
        found = ((key.name, item) for (resource, key), item in self.objects.items() if resource == "appmodels")
        return {name: str(getattr(item, "version", "") or getattr(item, "reason", "")) for name, item in found}

    def reason(self, name: str) -> str:
        """Return why the file of this name is set aside; "" if it is not."""
        reasons = [problem.reason for path, problem in self.problems.items() if path.rpartition("/")[2] == name]
        return reasons[0] or "" if reasons else ""
