"""The rules of a valid AppModel, and the text for every way to break one.

Called by `shmroute.resources.appmodel` after its fast, typed decode has failed, and by `shmroute apply` before it
sends. Pure functions over decoded JSON or YAML, which never raise, whatever the input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

API_VERSION = "iidp.com/v1"
KIND = "AppModel"
SERVICE_ANNOTATION = "iidp.com/service"
PORT_ANNOTATION = "iidp.com/port"

MAX_NAME_CHARACTERS = 253
"""Longest name of an app, a model, a version or an object, in characters. Kubernetes allows its own names the same
length. A longer one (a SHA-512 has 128) is an accident, and each name is copied into a row of every area."""

MAX_MODELS = 12_000
"""Maximum models of one AppModel. The largest known app will have 10,000. A change of one model of such an app sends
and reads the whole list, so a larger app is better split into several AppModels."""

MAX_MODEL_NAMES_BYTES = 512 * 1024
"""Maximum UTF-8 bytes of all model names of one AppModel: 12,000 names of 43 bytes. Together with `MAX_MODELS` it
refuses a list of a megabyte, whether it has few long names or many short ones."""

MAX_PORT = 65_535

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A name of a namespace or a Service (RFC 1123). An API server lists any other namespace as 200 and empty."""
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SHOWN_CHARACTERS = 60  # longest part of a value shown in a message: enough to recognise it


def is_key_part(name: str) -> bool:
    """Return whether `name` can be part of a key `namespace/name`. Less strict than Kubernetes, for folders."""
    return 0 < len(name) <= MAX_NAME_CHARACTERS and "/" not in name and "\0" not in name


def key_problems(metadata: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the reasons why an object's metadata gives no key `namespace/name`."""
    for field in ("name", "namespace"):
        value = metadata.get(field)
        if field == "namespace" and value in (None, ""):
            continue  # it means the default namespace
        yield from _string_problems(f"metadata.{field}", value)
        if isinstance(value, str) and "/" in value:
            yield f"metadata.{field} is {_shown(value)}: it may not hold a slash"


def service_problem(annotation: str) -> str:
    """Return the problem of the annotation `iidp.com/service` in words; "" if it is valid."""
    parts = annotation.split("/")
    if len(parts) <= 2 and all(DNS_LABEL.fullmatch(part) for part in parts):
        return ""
    return f"annotation {SERVICE_ANNOTATION} is {_shown(annotation)}: write a Service's name, or namespace/name"


def is_port(text: str) -> bool:
    """Return whether `text` can be the name or the number of a Service's port."""
    if text.isascii() and text.isdigit():
        return len(text) <= len(str(MAX_PORT)) and 1 <= int(text) <= MAX_PORT
    return DNS_LABEL.fullmatch(text) is not None


def port_problem(annotation: str) -> str:
    """Return the problem of the annotation `iidp.com/port` in words; "" if it is valid."""
    if is_port(annotation):
        return ""
    return (
        f"annotation {PORT_ANNOTATION} is {_shown(annotation)}: write a port's name, or a number from 1 to {MAX_PORT}"
    )


def models_problems(names: list[str]) -> Iterator[str]:
    """Yield the problems of the list of model names: too many, too long together, or repeated."""
    if len(names) > MAX_MODELS:
        yield f"spec.models has {len(names)} items, at most {MAX_MODELS} are taken"
    size = sum(len(name.encode(errors="replace")) for name in names)
    if size > MAX_MODEL_NAMES_BYTES:
        yield f"the names in spec.models take {size} bytes, at most {MAX_MODEL_NAMES_BYTES} are taken"
    seen: set[str] = set()
    told: set[str] = set()
    for name in names:
        if name in seen and name not in told:
            told.add(name)
            yield f"model name {_shown(name)} twice"
        seen.add(name)


def object_problems(manifest: object) -> Iterator[str]:
    """Yield the reasons why an AppModel of the cluster or a folder is set aside; nothing if it is valid.

    Unused fields are ignored, since they may come from a newer schema.
    """
    if not isinstance(manifest, Mapping):
        yield f"the manifest is {_described(manifest)}: write a map"
        return
    yield from _metadata_problems(manifest.get("metadata"))
    spec = manifest.get("spec")
    if spec is None:
        yield "spec is missing"
    elif not isinstance(spec, Mapping):
        yield f"spec is {_described(spec)}: write a map of app, version and models"
    else:
        yield from _string_problems("spec.app", spec.get("app"))
        yield from _string_problems("spec.version", spec.get("version"))
        yield from _list_problems(spec.get("models"))


def manifest_problems(manifest: object) -> Iterator[str]:
    """Yield the problems for which an API server or the index would refuse a manifest to apply."""
    if isinstance(manifest, Mapping):
        for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
            if manifest.get(field) != wanted:
                yield f"{field} is {_shown(manifest.get(field))}: write {wanted}"
        yield from _undeclared("", manifest, ("apiVersion", "kind", "metadata", "spec"))
        yield from _naming_problems(manifest.get("metadata"))
    yield from object_problems(manifest)
    if not isinstance(manifest, Mapping) or not isinstance(spec := manifest.get("spec"), Mapping):
        return
    yield from _undeclared("spec.", spec, ("app", "version", "models"))
    if isinstance(models := spec.get("models"), list):
        for index, model in enumerate(models):
            if isinstance(model, Mapping):
                yield from _undeclared(f"spec.models[{index}].", model, ("name", "version"))


def _metadata_problems(metadata: object) -> Iterator[str]:
    if not isinstance(metadata, Mapping):
        yield "metadata is missing" if metadata is None else f"metadata is {_described(metadata)}: write a map"
        return
    yield from key_problems(metadata)
    for field in ("creationTimestamp", "resourceVersion"):
        value = metadata.get(field)
        if value is not None and not isinstance(value, str):
            yield f"metadata.{field} is {_described(value)}: write a string"
    annotations = metadata.get("annotations")
    if annotations is None:
        return
    if not isinstance(annotations, Mapping):
        yield f"metadata.annotations is {_described(annotations)}: write a map of strings"
        return
    for annotation, problem in ((SERVICE_ANNOTATION, service_problem), (PORT_ANNOTATION, port_problem)):
        value = annotations.get(annotation)
        if isinstance(value, str):
            if value and (found := problem(value)):
                yield found
        elif value is not None:
            yield f"annotation {annotation} is {_described(value)}: write a string, in quotes"


def _naming_problems(metadata: object) -> Iterator[str]:
    """Yield the problems of `metadata` that only the API server refuses."""
    if not isinstance(metadata, Mapping):
        return
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARACTERS and not DNS_SUBDOMAIN.fullmatch(name):
        yield f"metadata.name is {_shown(name)}: write lower-case letters, digits, '-' and '.' (RFC 1123)"
    if isinstance(namespace, str) and namespace and not DNS_LABEL.fullmatch(namespace):
        yield f"metadata.namespace is {_shown(namespace)}: write lower-case letters, digits and '-' (RFC 1123)"
    for field in ("labels", "annotations"):
        entries = metadata.get(field)
        if isinstance(entries, Mapping):
            for key, value in entries.items():
                if not isinstance(value, str) and key not in (SERVICE_ANNOTATION, PORT_ANNOTATION):
                    yield f"metadata.{field}[{_shown(key)}] is {_described(value)}: write a string, in quotes"
        elif entries is not None and field == "labels":
            yield f"metadata.labels is {_described(entries)}: write a map of strings"


def _list_problems(models: object) -> Iterator[str]:
    if models is None:
        yield "spec.models is missing"
        return
    if not isinstance(models, list):
        yield f"spec.models is {_described(models)}: write a list of {{name: ..., version: ...}}"
        return
    if not models:
        yield "spec.models is empty: an AppModel names at least one model"
    names: list[str] = []
    for index, model in enumerate(models):
        where = f"spec.models[{index}]"
        if not isinstance(model, Mapping):
            yield f"{where} is {_described(model)}: write {{name: ..., version: ...}}"
            continue
        yield from _string_problems(f"{where}.name", model.get("name"))
        yield from _string_problems(f"{where}.version", model.get("version"))
        if isinstance(name := model.get("name"), str):
            names.append(name)
    yield from models_problems(names)


def _string_problems(where: str, value: object) -> Iterator[str]:
    if value is None:
        yield f"{where} is missing"
    elif not isinstance(value, str):
        hint = f'write "{value}", in quotes' if _is_number(value) else "write a string"
        yield f"{where} is {_described(value)}: {hint}"
    elif not value:
        yield f"{where} is empty"
    elif len(value) > MAX_NAME_CHARACTERS:
        yield f"{where} has {len(value)} characters, at most {MAX_NAME_CHARACTERS} are taken"
    elif "\0" in value:
        yield f"{where} holds a NUL character"


def _undeclared(where: str, entries: Mapping[Any, Any], declared: tuple[str, ...]) -> Iterator[str]:
    for field in entries:
        if field not in declared:
            near = get_close_matches(str(field)[:MAX_NAME_CHARACTERS], declared, 1)
            hint = f"did you mean {near[0]}?" if near else f"its fields are {', '.join(declared)}"
            yield f"{where}{_cut(str(field))} is not a field of an AppModel: {hint}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _described(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if _is_number(value):
        return "a number"
    if isinstance(value, str):
        return "a plain string"
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _shown(value: object) -> str:
    return "missing" if value is None else repr(_cut(value if isinstance(value, str) else str(value)))
