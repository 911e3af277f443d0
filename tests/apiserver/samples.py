"""Objects for tests and benchmarks: the AppModel definition, AppModels, EndpointSlices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .encoding import Object

LABELS = {"iidp": "iidp"}


def app_model_definition() -> Object:
    """Return the AppModel CustomResourceDefinition as first published."""
    model: Object = {
        "type": "object",
        "required": ["name", "version"],
        "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
    }
    spec: Object = {
        "type": "object",
        "properties": {
            "app": {"type": "string", "description": "App name of the model"},
            "version": {"type": "string"},
            "models": {"type": "array", "minItems": 1, "items": model},
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "appmodels.iidp.com"},
        "spec": {
            "group": "iidp.com",
            "scope": "Namespaced",
            "names": {
                "plural": "appmodels",
                "singular": "appmodel",
                "kind": "AppModel",
                "listKind": "AppModelList",
                "shortNames": ["am"],
            },
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
                }
            ],
        },
    }


def app_model(
    name: str,
    models: dict[str, str] | Iterable[str] = ("model",),
    *,
    app: str | None = None,
    version: str = "v1",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Object:
    """Return an AppModel. models: names, or name -> version; labels default to the platform's."""
    versions = models if isinstance(models, dict) else dict.fromkeys(models, version)
    metadata: Object = {
        "name": name,
        "namespace": namespace,
        "labels": dict(LABELS if labels is None else labels),
    }
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "iidp.com/v1",
        "kind": "AppModel",
        "metadata": metadata,
        "spec": {
            "app": app or name,
            "version": version,
            "models": [{"name": each, "version": versions[each]} for each in versions],
        },
    }


def app_models(
    count: int, *, namespace: str = "default", models_each: int = 2, version: str = "v1"
) -> Iterator[Object]:
    """Yield `count` AppModels app-000000, ... with models m-000000-0, ..."""
    for index in range(count):
        models = [f"m-{index:06}-{each}" for each in range(models_each)]
        yield app_model(f"app-{index:06}", models, namespace=namespace, version=version)


def endpoint(
    address: str,
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    pod: str | None = None,
    node: str | None = None,
    zone: str | None = None,
    namespace: str = "default",
) -> Object:
    """Return one endpoint of a slice; a condition of None is left out, as the API allows."""
    given = {"ready": ready, "serving": serving, "terminating": terminating}
    result: Object = {
        "addresses": [address],
        "conditions": {key: value for key, value in given.items() if value is not None},
    }
    if pod:
        result["targetRef"] = {"kind": "Pod", "namespace": namespace, "name": pod}
    if node:
        result["nodeName"] = node
    if zone:
        result["zone"] = zone
    return result


def endpoint_slice(
    name: str,
    service: str,
    endpoints: Sequence[Object | str] = (),
    *,
    port: int | None = 8060,
    port_name: str = "http",
    namespace: str = "default",
    address_type: str = "IPv4",
) -> Object:
    """Return an EndpointSlice of a Service; an endpoint given as text is a ready address."""
    ports = [{"name": port_name, "protocol": "TCP", "port": port}] if port else []
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
        },
        "addressType": address_type,
        "endpoints": [endpoint(each) if isinstance(each, str) else each for each in endpoints],
        "ports": ports,
    }
